"""Services of the process to a board's devices."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stratovirt._native.guest_memory import GuestMemory
    from stratovirt.chardev.backend import Chardev
    from stratovirt.config.vm_config import VmConfig
    from stratovirt.host.access import HostAccess
    from stratovirt.runtime.clock import Clock
    from stratovirt.runtime.io_thread import IoThread
    from stratovirt.runtime.loop import Loop
    from stratovirt.runtime.process import Process


class DeviceHost:
    """Process, options, loop, clock, memory, iothreads and chardevs by id, events, host access."""

    def __init__(
        self,
        *,
        process: Process,
        config: VmConfig,
        loop: Loop,
        clock: Clock,
        memory: GuestMemory,
        iothreads: Mapping[str, IoThread],
        open_chardev: Callable[[str], Chardev],
        send_event: Callable[[str, dict[str, object]], None],
        access: HostAccess,
    ) -> None:
        self.process = process
        self.config, self.loop, self.clock, self.memory = config, loop, clock, memory
        self._iothreads = iothreads
        self.open_chardev = open_chardev
        """Returns the back end of the -chardev with this id, for the caller's exclusive use."""
        self.send_event = send_event
        self.access = access

    def iothread(self, name: str | None) -> IoThread | None:
        """The thread of the -object iothread with this id; None without one."""
        return None if name is None else self._iothreads[name]
