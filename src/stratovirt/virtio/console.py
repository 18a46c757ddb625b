"""Console device (virtio 1.2, section 5.3): up to eight console ports, each on a chardev."""

from __future__ import annotations

import struct

from stratovirt._native.virtqueue import DescriptorChain
from stratovirt.chardev.backend import Chardev
from stratovirt.config.buses import DeviceId
from stratovirt.config.devices import CONSOLES_MOST
from stratovirt.config.options import opt
from stratovirt.devices.device_host import DeviceHost
from stratovirt.runtime.log import Log
from stratovirt.snapshot.errors import SnapshotError
from stratovirt.snapshot.state import FLAG, U64, Bytes, Each, State, Struct
from stratovirt.virtio.python_device import PythonDevice
from stratovirt.virtio.served_queue import TURN_BYTES

log = Log(__name__)

QUEUE_SIZE = 128
F_MULTIPORT = 1 << 1
CONFIG = struct.Struct("<HHII")
"""cols, rows, max_nr_ports, emerg_wr."""
CONTROL = struct.Struct("<IHH")
"""id of the port, event, value (section 5.3.6.2)."""
DEVICE_READY, PORT_ADD, PORT_REMOVE, PORT_READY, CONSOLE_PORT, RESIZE, PORT_OPEN, PORT_NAME = range(
    8
)
CONTROL_RECEIVE, CONTROL_TRANSMIT = 2, 3
INPUT_LIMIT = 4096
"""Most bytes from a chardev that are kept until the guest reads them."""
OUTPUT_CHUNK = 4096
LONGEST_NAME = 256
MOST_CONTROL = 64
"""Most control messages in a snapshot, above the four of each port that can wait."""


def queues_of(port: int) -> tuple[int, int]:
    """(receiveq, transmitq) of a port (section 5.3.2)."""
    return (0, 1) if port == 0 else (2 * port + 2, 2 * port + 3)


class Port:
    """One console port, its chardev, and input that the guest has not read yet."""

    def __init__(self, number: int, name: str, chardev: Chardev) -> None:
        self.number, self.name, self.chardev = number, name, chardev
        self.receive_queue, self.transmit_queue = queues_of(number)
        self.input = bytearray()
        self.sent = 0
        """Bytes of the first transmit chain that earlier turns have written to the chardev."""
        self.is_ready = False
        """Whether the driver has sent PORT_READY for it."""


class PortState(State):
    """A port: whether it is ready, unread input, and bytes sent of the first transmit chain."""

    version = 2

    is_ready: bool = opt(FLAG)
    input: bytes = opt(Bytes(INPUT_LIMIT))
    sent: int = opt(U64, default=0)


class ConsoleState(State):
    """The ports, and control messages that wait for a buffer of the driver."""

    ports: list[PortState] = opt(Each(Struct(PortState), CONSOLES_MOST))
    control: list[bytes] = opt(Each(Bytes(CONTROL.size + LONGEST_NAME), MOST_CONTROL))


class Console(PythonDevice):
    """The device that carries the ports; they are added before the guest runs."""

    device_id = DeviceId.CONSOLE
    state_type = ConsoleState

    def __init__(self, name: str, host: DeviceHost) -> None:
        super().__init__(host.loop)
        self.name = name
        self._ports: list[Port] = []
        self._control: list[bytes] = []
        self._by_queue: dict[int, Port] = {}

    def add_port(self, name: str, chardev: Chardev, number: int | None = None) -> None:
        """Add a console port on `chardev`; its `number`, if given, must be the next one.

        Raises ValueError, also when there are eight already.
        """
        if len(self._ports) == CONSOLES_MOST:
            raise ValueError(f"a virtio-serial device carries at most {CONSOLES_MOST} ports")
        if number not in (None, len(self._ports)):
            raise ValueError(
                f"nr must be {len(self._ports)}, the next port of its device, not {number}"
            )
        port = Port(len(self._ports), name, chardev)
        self._ports.append(port)
        self._by_queue |= {port.receive_queue: port, port.transmit_queue: port}
        chardev.room = lambda: INPUT_LIMIT - len(port.input)
        chardev.on_input = lambda received: self._input(port, received)
        chardev.on_connected = lambda: self._opened(port, True)
        chardev.on_disconnected = lambda: self._opened(port, False)

    @property
    def queue_sizes(self) -> tuple[int, ...]:
        """Two queues for each port, and two for control behind the first's."""
        return (QUEUE_SIZE,) * (2 * CONSOLES_MOST + 2)

    @property
    def features(self) -> int:
        """Several ports, with control messages about them."""
        return F_MULTIPORT

    def config_space(self) -> bytes:
        """struct virtio_console_config (section 5.3.4)."""
        return CONFIG.pack(0, 0, CONSOLES_MOST, 0)

    def deactivate(self) -> None:
        """Mark all ports as not ready and drop control messages."""
        super().deactivate()
        self._control.clear()
        for port in self._ports:
            port.is_ready = False
            port.sent = 0

    def save(self) -> ConsoleState:
        """The ports with their unread input, and pending control messages."""
        return ConsoleState(
            ports=[
                PortState(is_ready=p.is_ready, input=bytes(p.input), sent=p.sent)
                for p in self._ports
            ],
            control=list(self._control),
        )

    def restore(self, state: ConsoleState) -> None:
        """Restore the ports; PORT_OPEN tells the driver whether each chardev has a peer now."""
        if len(state.ports) != len(self._ports):
            raise SnapshotError(
                f"{self.name}: it carries {len(self._ports)} ports and the snapshot's carried "
                f"{len(state.ports)}"
            )
        self._control = list(state.control)
        for port, saved in zip(self._ports, state.ports, strict=True):
            port.is_ready = saved.is_ready
            port.input[:] = saved.input
            port.sent = saved.sent
            self._opened(port, port.chardev.is_connected)

    def handle(self, queue: int, chain: DescriptorChain) -> bool:
        """Move bytes or control messages in the queue's direction."""
        if queue == CONTROL_TRANSMIT:
            self._heard(chain.read(CONTROL.size))
            return True
        if queue == CONTROL_RECEIVE:
            return self._tell(chain)
        port = self._by_queue.get(queue)
        if port is None:
            # No such port: output is dropped, and a receive buffer stays in the ring.
            return queue % 2 == 1
        if queue == port.transmit_queue:
            return self._transmit(port, chain)
        return self._receive(port, chain)

    def _transmit(self, port: Port, chain: DescriptorChain) -> bool:
        # Never refused: Linux's console driver waits for the buffer with a spinlock held, so a peer
        # that does not read would stop a vCPU.  The chardev keeps up to its limit, drops the rest.
        chain.skip(port.sent)
        for _ in range(TURN_BYTES // OUTPUT_CHUNK):
            port.chardev.write(chain.read(OUTPUT_CHUNK))
            if not chain.readable_len:
                port.sent = 0
                return True
        port.sent = chain.moved
        self.serve_soon(port.transmit_queue)
        return False

    def _receive(self, port: Port, chain: DescriptorChain) -> bool:
        if not port.input:
            return False
        count = chain.write(bytes(port.input[: chain.writable_len]))
        del port.input[:count]
        port.chardev.resume_input()
        return True

    def _input(self, port: Port, received: bytes) -> None:
        port.input += received
        self.serve(port.receive_queue)

    def _opened(self, port: Port, is_open: bool) -> None:
        if port.is_ready:
            self._send_control(port.number, PORT_OPEN, int(is_open))

    def _send_control(self, port: int, event: int, value: int, text: bytes = b"") -> None:
        message = CONTROL.pack(port, event, value) + text
        # A driver without buffers hears the newest of each event: none is lost, none piles up.
        about = message[: CONTROL.size - 2]
        self._control = [older for older in self._control if not older.startswith(about)]
        self._control.append(message)
        self.serve(CONTROL_RECEIVE)

    def _tell(self, chain: DescriptorChain) -> bool:
        if not self._control:
            return False
        chain.write(self._control.pop(0))
        return True

    def _heard(self, message: bytes) -> None:
        if len(message) < CONTROL.size:
            return
        number, event, value = CONTROL.unpack(message)
        if event == DEVICE_READY and value == 1:
            for port in self._ports:
                self._send_control(port.number, PORT_ADD, 1)
        elif event == PORT_READY and value == 1 and number < len(self._ports):
            port = self._ports[number]
            port.is_ready = True
            self._send_control(number, CONSOLE_PORT, 1)
            self._send_control(number, PORT_NAME, 1, port.name.encode() + b"\0")
            if port.chardev.is_connected:
                self._send_control(number, PORT_OPEN, 1)
