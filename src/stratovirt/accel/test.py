"""The test accelerator: a client on a UNIX socket takes the place of the vCPUs.

Reads and writes go through the same address spaces a vCPU would use; interrupts are kept until
asked for; the clock moves only when told to.
"""

from __future__ import annotations

import os
import socket

from stratovirt._native.dispatch import Dispatcher
from stratovirt._native.guest_memory import GuestMemory
from stratovirt.accel.base import AccelError
from stratovirt.memory.address_space import AddressSpace, FlatRange, IoRegion, RamRegion, RomRegion
from stratovirt.memory.dirty_log import DirtyLog, DirtyLogError
from stratovirt.memory.dispatch import connect
from stratovirt.runtime.clock import VirtualClock
from stratovirt.runtime.eventfds import take_signal
from stratovirt.runtime.faults import access_failed
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import READABLE, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stratovirt.cpu.slots import CpuSlots

log = Log(__name__)

SIZES = {"b": 1, "w": 2, "l": 4, "q": 8}
LINE_LIMIT = 1 << 20
"""Longest command line, in bytes; a client that exceeds it is disconnected."""
TRANSFER_LIMIT = 1 << 19
"""Most bytes of one read, write or memset."""

NONE, NONE_OR_ONE, ONE, TWO, THREE = (
    range(1), range(2), range(1, 2), range(2, 3), range(3, 4)
)  # fmt: skip
"""Allowed numbers of arguments of a command."""

FIRST_MSI_GSI = 24
MESSAGES_KEPT = 4096


class CommandError(ValueError):
    """A command that cannot be executed; its text is the reply to the client."""


class _Doorbell:
    """Signals an eventfd in user space, as KVM's ioeventfd does."""

    def __init__(self, fd: int, value: int | None) -> None:
        self.fd = fd
        self.value = value


class _DoorbellHandler:
    """The register at one doorbell address: each write signals the matching eventfds."""

    def __init__(self) -> None:
        self.bells: list[_Doorbell] = []

    def read(self, _offset: int, _size: int) -> int:
        return 0

    def write(self, _offset: int, _size: int, value: int) -> None:
        for bell in self.bells:
            if bell.value is None or bell.value == value:
                os.eventfd_write(bell.fd, 1)


class TestAccelerator:
    """One machine without vCPUs; see the module's docstring."""

    physical_address_bits = 40
    runs_vcpus = False
    __test__ = False  # not a test class, whatever pytest makes of its name

    def __init__(self, loop: Loop, vm_lock: object, path: str) -> None:
        self.clock = VirtualClock()
        # An unmapped address reads as zeros here, not as ones (floating bus) like real hardware.
        self.dispatcher = Dispatcher(vm_lock, access_failed, 0)
        self._loop = loop
        self._levels: dict[int, bool] = {}
        self._irqfds: dict[int, int] = {}
        self._messages: list[tuple[int, int]] = []
        self._routes: dict[int, tuple[int, int]] = {}
        self._doorbells: dict[tuple[int, int], tuple[_DoorbellHandler, IoRegion]] = {}
        self._pending = b""
        self._answered_early = False
        self._waiting: list[bytes] = []
        self._has_settled = False
        self.disconnected: Callable[[], None] = lambda: None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise AccelError(f"-mod-test {path}: cannot connect: {error.strerror}") from error

    def connect(
        self, guest_memory: GuestMemory, memory: AddressSpace, ports: AddressSpace | None
    ) -> None:
        """Follow the machine's address spaces from now on, and be a writer of its memory."""
        guest_memory.add_writer(self)
        self._ram = guest_memory
        self._memory = memory
        self._ports = ports
        connect(self.dispatcher, memory, ports)

    log_obstacle = None

    def start_log(self) -> None:
        """Does nothing: the client's writes go through guest memory, which logs them."""

    def collect_log(self) -> None:
        """Does nothing: see `start_log`."""

    def stop_log(self) -> None:
        """Does nothing: see `start_log`."""

    def set_irq_level(self, gsi: int, level: bool) -> None:
        """Set the level of a GSI (global system interrupt)."""
        self._levels[gsi] = level

    def irqfd(self, gsi: int) -> int:
        """A new eventfd whose writes pulse the GSI."""
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._irqfds[fd] = gsi
        return fd

    def attach_irqfd(self, fd: int, gsi: int) -> None:
        """Let writes to eventfd `fd` pulse the GSI, earlier unread writes too."""
        self._irqfds[fd] = gsi

    def detach_irqfd(self, fd: int, _gsi: int) -> None:
        """Undo `attach_irqfd`; later writes stay in the eventfd."""
        self._collect_irqfds()
        del self._irqfds[fd]

    def attach_line(self, fd: int, gsi: int, _resample_fd: int) -> None:
        """Let writes to `fd` raise a level-triggered GSI, which the client lowers (eoi_intx)."""
        self.attach_irqfd(fd, gsi)

    def detach_line(self, fd: int, gsi: int, _resample_fd: int) -> None:
        """Undo `attach_line`."""
        self.detach_irqfd(fd, gsi)

    def set_vfio_group(self, group_fd: int, *, added: bool) -> None:
        """Does nothing: no vCPU can use the group."""

    def add_msi_route(self, address: int, data: int) -> int:
        """Allocate a GSI that sends the MSI message."""
        gsi = max(self._routes, default=FIRST_MSI_GSI - 1) + 1
        self._routes[gsi] = address, data
        return gsi

    def change_msi_route(self, gsi: int, address: int, data: int) -> None:
        """Change the message of a GSI of `add_msi_route`."""
        self._collect_irqfds()
        self._routes[gsi] = address, data

    def remove_msi_route(self, gsi: int) -> None:
        """Undo `add_msi_route`; the caller has detached every eventfd."""
        del self._routes[gsi]

    def add_doorbell(self, fd: int, address: int, size: int, value: int | None) -> None:
        """Let writes of `value` to a memory address signal eventfd `fd`."""
        if (address, size) not in self._doorbells:
            handler = _DoorbellHandler()
            region = IoRegion(f"doorbell@0x{address:x}", size, handler)
            self._memory.add(address, region, priority=2)
            self._memory.commit()
            self._doorbells[address, size] = (handler, region)
        self._doorbells[address, size][0].bells.append(_Doorbell(fd, value))

    def remove_doorbell(self, fd: int, address: int, size: int, value: int | None) -> None:
        """Undo `add_doorbell`."""
        handler, region = self._doorbells[address, size]
        handler.bells = [b for b in handler.bells if (b.fd, b.value) != (fd, value)]
        if not handler.bells:
            del self._doorbells[address, size]
            self._memory.remove(region)
            self._memory.commit()

    def let_others_in(self) -> None:
        """Does nothing: accesses run in the loop, so no other thread waits for the lock."""

    def create_interrupt_controllers(self) -> None:
        """Does nothing: levels and pulses are kept here until the client queries them."""

    def create_vcpus(self, _slots: CpuSlots, _name: str) -> None:
        """Does nothing: the client acts for all vCPUs."""

    def set_entry(self, entry: object) -> None:
        """Does nothing: there are no vCPU registers."""

    def check_host(self) -> None:
        """Does nothing: every host is suitable."""

    def reset(self) -> None:
        """Does nothing: there is no vCPU state."""

    def states(self) -> tuple[()]:
        """None: there is no vCPU and no interrupt controller."""
        return ()

    def pause(self) -> None:
        """Does nothing: no vCPU runs."""

    def resume(self) -> None:
        """Serve the client; later calls change nothing."""
        self._loop.watch(self._socket.fileno(), READABLE, self._readable)

    def stop(self) -> None:
        """Serve the client no longer."""
        self._loop.unwatch(self._socket.fileno())

    def close(self) -> None:
        """Close the connection to the client."""
        self._socket.close()

    def _readable(self, _events: int) -> None:
        try:
            received = self._socket.recv(65536)
        except OSError:
            received = b""
        if not received:
            self._loop.unwatch(self._socket.fileno())
            self.disconnected()
            return
        self._waiting += self._lines(received)
        self._serve()
        if len(self._pending) > LINE_LIMIT:
            log.error(f"the test client's line is longer than {LINE_LIMIT} bytes")
            self.disconnected()

    def _serve(self) -> None:
        while self._waiting:
            if self._waiting[0].lstrip().startswith(b"clock_") and not self._has_settled:
                # Doorbells of earlier commands are handled first: a handler may set a timer.
                self._has_settled = True
                self._loop.unwatch(self._socket.fileno())
                self._loop.call_soon(self._go_on)
                return
            self._has_settled = False
            reply = self._answer(self._waiting.pop(0).decode(errors="replace").strip())
            self._socket.sendall(reply.encode() + b"\n")

    def _go_on(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.watch(self._socket.fileno(), READABLE, self._readable)
            self._serve()

    def _lines(self, received: bytes) -> list[bytes]:
        """The command lines completed by `received`."""
        if self._answered_early:
            # Drop the late newline of a line that was answered before it arrived.
            received = received.removeprefix(b"\n")
        received = self._pending + received
        self._answered_early = self._is_whole(received)
        *lines, self._pending = [received, b""] if self._answered_early else received.split(b"\n")
        return lines

    def _is_whole(self, piece: bytes) -> bool:
        """Whether the bytes since the last line are a command with all its arguments."""
        verb, *words = piece.decode(errors="replace").split() or [""]
        if verb not in self._commands or b"\n" in piece:
            return False
        if verb == "write" and len(words) == 3:
            # Only `write` may arrive in several pieces; it is complete with its last byte.
            digits = words[2].removeprefix("0x")
            return not _is_hex(words[1]) or len(digits) >= 2 * int(words[1], 16)
        # Others come in one piece, or with their newline.
        return not self._pending and len(words) >= self._commands[verb][1].start

    def _answer(self, line: str) -> str:
        verb, *words = line.split() or [""]
        if verb not in self._commands:
            return f"Unsupported command: {verb}"
        command, counts = self._commands[verb]
        if len(words) not in counts:
            wanted = " or ".join(map(str, counts))
            return f"ERR {verb}: {len(words)} words follow, not {wanted}"
        try:
            return command(self, verb, *words)
        except (ValueError, DirtyLogError) as error:
            return f"ERR {verb}: {error}"

    def _read(self, command: str, address: str) -> str:
        size = SIZES[command[-1]]
        if command[0] == "i":
            value = self.dispatcher.read(True, _hex(address) & 0xFFFF, size)
        else:
            value = int.from_bytes(self._read_memory(_hex(address), size), "little")
        return f"OK 0x{value:016x}"

    def _write(self, command: str, address: str, text: str) -> str:
        size = SIZES[command[-1]]
        value = _hex(text) & ((1 << 8 * size) - 1)
        if command[0] == "o":
            self.dispatcher.write(True, _hex(address) & 0xFFFF, size, value)
        else:
            self._write_memory(_hex(address), value.to_bytes(size, "little"))
        return "OK"

    def _read_block(self, _command: str, address: str, size: str) -> str:
        return "OK 0x" + self._read_memory(_hex(address), _length(size)).hex()

    def _write_block(self, _command: str, address: str, size: str, text: str) -> str:
        content = bytes.fromhex(text.removeprefix("0x"))
        if len(content) != _length(size):
            raise CommandError(f"{len(content)} bytes given, {_length(size)} announced")
        self._write_memory(_hex(address), content)
        return "OK"

    def _set_block(self, _command: str, address: str, size: str, pattern: str) -> str:
        digits = pattern.removeprefix("0x")
        unit = bytes.fromhex(digits if len(digits) % 2 == 0 else "0" + digits)
        if not unit:
            raise CommandError("the pattern is empty")
        length = _length(size)
        self._write_memory(_hex(address), (unit * (length // len(unit) + 1))[:length])
        return "OK"

    def _clock_step(self, _command: str, step_ns: str = "") -> str:
        deadline = self.clock.next_deadline_ns() if not step_ns else None
        target = int(step_ns) + self.clock.now_ns() if step_ns else deadline
        if target is not None:
            self.clock.move_to(target)
        return f"OK {self.clock.now_ns()}"

    def _clock_set(self, _command: str, now_ns: str) -> str:
        self.clock.move_to(int(now_ns))
        return f"OK {self.clock.now_ns()}"

    def _query_msix(self, _command: str, address: str, payload: str) -> str:
        self._collect_irqfds()
        message = (int(address), int(payload))
        sent = message in self._messages
        if sent:
            self._messages.remove(message)
        return f"OK {'TRUE' if sent else 'FALSE'}"

    def _query_intx(self, _command: str, gsi: str) -> str:
        self._collect_irqfds()
        return f"OK {'TRUE' if self._levels.get(int(gsi)) else 'FALSE'}"

    def _eoi_intx(self, _command: str, gsi: str) -> str:
        self._collect_irqfds()
        was_up = self._levels.get(int(gsi), False)
        self._levels[int(gsi)] = False
        return f"OK {'TRUE' if was_up else 'FALSE'}"

    def _log_start(self, _command: str) -> str:
        dirty = DirtyLog(self._ram)
        dirty.start()
        try:
            dirty.wait()
        except DirtyLogError:
            dirty.stop()
            raise
        return "OK"

    def _log_collect(self, _command: str) -> str:
        blocks = DirtyLog(self._ram).collect()
        return "OK" + "".join(f" 0x{page:x}" for block in blocks for page in block)

    def _log_stop(self, _command: str) -> str:
        DirtyLog(self._ram).stop()
        return "OK"

    _commands: dict[str, tuple[Callable[..., str], range]] = {
        **dict.fromkeys(("readb", "readw", "readl", "readq", "inb", "inw", "inl"), (_read, ONE)),
        **dict.fromkeys(("writeb", "writew", "writel", "writeq"), (_write, TWO)),
        **dict.fromkeys(("outb", "outw", "outl"), (_write, TWO)),
        "read": (_read_block, TWO),
        "write": (_write_block, THREE),
        "memset": (_set_block, THREE),
        "clock_step": (_clock_step, NONE_OR_ONE),
        "clock_set": (_clock_set, ONE),
        "query_msix": (_query_msix, TWO),
        "query_intx": (_query_intx, ONE),
        "eoi_intx": (_eoi_intx, ONE),
        "dirty_log_start": (_log_start, NONE),
        "dirty_log_collect": (_log_collect, NONE),
        "dirty_log_stop": (_log_stop, NONE),
    }
    """Each command with its function and allowed numbers of arguments."""

    def _collect_irqfds(self) -> None:
        for fd, gsi in self._irqfds.items():
            if not take_signal(fd):
                continue
            if gsi in self._routes:
                # The oldest are dropped: a client that never queries must not use up memory.
                self._messages = [*self._messages[1 - MESSAGES_KEPT :], self._routes[gsi]]
            else:
                self._levels[gsi] = True

    def _pieces(self, address: int, size: int) -> list[tuple[int, int, FlatRange | None]]:
        """Split an access into (address, size, range) at the boundaries of the flat view."""
        pieces: list[tuple[int, int, FlatRange | None]] = []
        end = address + size
        for flat in self._memory.view:
            if flat.start + flat.size <= address or flat.start >= end:
                continue
            if flat.start > address:
                pieces.append((address, flat.start - address, None))
                address = flat.start
            stop = min(end, flat.start + flat.size)
            pieces.append((address, stop - address, flat))
            address = stop
        if address < end:
            pieces.append((address, end - address, None))
        return pieces

    def _read_memory(self, address: int, size: int) -> bytes:
        result = b""
        for start, length, flat in self._pieces(address, size):
            if flat is None:
                result += bytes(length)
            elif isinstance(flat.region, RomRegion):
                offset = flat.region.offset + flat.offset + start - flat.start
                result += bytes(memoryview(flat.region.mapping)[offset : offset + length])  # type: ignore[arg-type]
            elif isinstance(flat.region, RamRegion):
                result += self._ram.read(start, length)
            else:
                for at, width in _accesses(start, length):
                    result += self.dispatcher.read(False, at, width).to_bytes(width, "little")
        return result

    def _write_memory(self, address: int, content: bytes) -> None:
        for start, length, flat in self._pieces(address, len(content)):
            part = content[start - address : start - address + length]
            if flat is None:
                continue
            if isinstance(flat.region, RamRegion) and not flat.region.readonly:
                self._ram.write(start, part)
                continue
            for at, width in _accesses(start, length):
                value = int.from_bytes(part[at - start : at - start + width], "little")
                self.dispatcher.write(False, at, width, value)


def _accesses(address: int, size: int) -> list[tuple[int, int]]:
    """Split a range of registers into aligned accesses of at most 8 bytes."""
    accesses: list[tuple[int, int]] = []
    while size:
        width = next(w for w in (8, 4, 2, 1) if w <= size and address % w == 0)
        accesses.append((address, width))
        address += width
        size -= width
    return accesses


def _hex(text: str) -> int:
    value = int(text, 16)
    if not 0 <= value < 1 << 64:
        raise CommandError(f"{text} is not a 64-bit number")
    return value


def _is_hex(text: str) -> bool:
    digits = text.removeprefix("0x")
    return digits != "" and all(digit in "0123456789abcdefABCDEF" for digit in digits)


def _length(text: str) -> int:
    size = _hex(text)
    if size > TRANSFER_LIMIT:
        raise CommandError(f"{text} is more than 0x{TRANSFER_LIMIT:x} bytes")
    return size
