"""The commands of the test client (docs/test-accelerator.md): their arguments and replies."""

from __future__ import annotations

from stratovirt.accel.test.lines import TestLines
from stratovirt.accel.test.view import ClientView
from stratovirt.memory.dirty_log import DirtyLog, DirtyLogError
from stratovirt.runtime.clock import VirtualClock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stratovirt._native.guest_memory import GuestMemory

SIZES = {"b": 1, "w": 2, "l": 4, "q": 8}
TRANSFER_LIMIT = 1 << 19
"""Most bytes of one read, write or memset."""

NONE, NONE_OR_ONE, ONE, TWO, TWO_OR_THREE, THREE = (
    range(1), range(2), range(1, 2), range(2, 3), range(2, 4), range(3, 4)
)  # fmt: skip
"""Allowed numbers of arguments of a command."""


class CommandError(ValueError):
    """A command that cannot be executed; its text is the reply to the client."""


class Commands:
    """Executes the client's commands."""

    def __init__(
        self, view: ClientView, lines: TestLines, clock: VirtualClock, memory: GuestMemory
    ) -> None:
        self._view, self._lines, self._clock = view, lines, clock
        self._log = DirtyLog(memory)

    def answer(self, line: str) -> str:
        """Execute a line; returns the reply."""
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
            value = self._view.read_port(_hex(address), size)
        else:
            value = int.from_bytes(self._view.read(_hex(address), size), "little")
        return f"OK 0x{value:016x}"

    def _write(self, command: str, address: str, text: str) -> str:
        size = SIZES[command[-1]]
        value = _hex(text) & ((1 << 8 * size) - 1)
        if command[0] == "o":
            self._view.write_port(_hex(address), size, value)
        else:
            self._view.write(_hex(address), value.to_bytes(size, "little"))
        return "OK"

    def _read_block(self, _command: str, address: str, size: str) -> str:
        return "OK 0x" + self._view.read(_hex(address), _length(size)).hex()

    def _write_block(self, _command: str, address: str, size: str, text: str) -> str:
        content = bytes.fromhex(text.removeprefix("0x"))
        if len(content) != _length(size):
            raise CommandError(f"{len(content)} bytes given, {_length(size)} announced")
        self._view.write(_hex(address), content)
        return "OK"

    def _set_block(self, _command: str, address: str, size: str, pattern: str) -> str:
        digits = pattern.removeprefix("0x")
        unit = bytes.fromhex(digits if len(digits) % 2 == 0 else "0" + digits)
        if not unit:
            raise CommandError("the pattern is empty")
        length = _length(size)
        self._view.write(_hex(address), (unit * (length // len(unit) + 1))[:length])
        return "OK"

    def _clock_step(self, _command: str, step_ns: str = "") -> str:
        deadline = self._clock.next_deadline_ns() if not step_ns else None
        target = int(step_ns) + self._clock.now_ns() if step_ns else deadline
        if target is not None:
            self._clock.move_to(target)
        return f"OK {self._clock.now_ns()}"

    def _clock_set(self, _command: str, now_ns: str) -> str:
        self._clock.move_to(int(now_ns))
        return f"OK {self._clock.now_ns()}"

    def _query_msix(
        self, _command: str, address: str, payload: str, requester: str | None = None
    ) -> str:
        sender = int(requester) if requester is not None else None
        return _truth(self._lines.take_message(int(address), int(payload), sender))

    def _query_intx(self, _command: str, gsi: str) -> str:
        return _truth(self._lines.level(int(gsi)))

    def _eoi_intx(self, _command: str, gsi: str) -> str:
        return _truth(self._lines.take_down(int(gsi)))

    def _log_start(self, _command: str) -> str:
        self._log.start()
        try:
            self._log.wait()
        except DirtyLogError:
            self._log.stop()
            raise
        return "OK"

    def _log_collect(self, _command: str) -> str:
        blocks = self._log.collect()
        return "OK" + "".join(f" 0x{page:x}" for block in blocks for page in block)

    def _log_stop(self, _command: str) -> str:
        self._log.stop()
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
        "query_msix": (_query_msix, TWO_OR_THREE),
        "query_intx": (_query_intx, ONE),
        "eoi_intx": (_eoi_intx, ONE),
        "dirty_log_start": (_log_start, NONE),
        "dirty_log_collect": (_log_collect, NONE),
        "dirty_log_stop": (_log_stop, NONE),
    }
    """Each command with its function and allowed numbers of arguments."""

    @classmethod
    def is_whole(cls, piece: bytes, *, is_first: bool) -> bool:
        """Whether the bytes since the last line are a command with all its arguments.

        `is_first` is for bytes that came in one piece.
        """
        verb, *words = piece.decode(errors="replace").split() or [""]
        if verb not in cls._commands or b"\n" in piece:
            return False
        if verb == "write" and len(words) == 3:
            # Only `write` may arrive in several pieces; it is complete with its last byte.
            digits = words[2].removeprefix("0x")
            return not _is_hex(words[1]) or len(digits) >= 2 * int(words[1], 16)
        # Others come in one piece, or with their newline.
        return is_first and len(words) >= cls._commands[verb][1].start


def _truth(value: bool) -> str:
    return f"OK {'TRUE' if value else 'FALSE'}"


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
