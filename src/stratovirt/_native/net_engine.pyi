from stratovirt._native.interrupt import Notifier
from stratovirt._native.io_loop import Engine
from stratovirt._native.virtqueue import Virtqueue

class NetEngine(Engine):
    tap_is_gone: bool
    received: int
    sent: int
    dropped: int
    def __init__(
        self,
        rx: Virtqueue,
        rx_kick: int,
        tx: Virtqueue,
        tx_kick: int,
        rx_notifier: Notifier,
        tx_notifier: Notifier,
        tap: int,
        *,
        mergeable: bool,
        failure_fd: int,
    ) -> None: ...
    def set_filter(
        self,
        *,
        own: bytes,
        promiscuous: bool,
        all_multicast: bool,
        all_unicast: bool,
        no_multicast: bool,
        no_unicast: bool,
        no_broadcast: bool,
        unicast: list[bytes],
        multicast: list[bytes],
        vlans: bytes | None,
    ) -> None: ...
