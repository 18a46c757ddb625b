"""A flash chip with the command set of Intel (CFI, JEDEC JESD68.01), eight bits wide.

While the guest only reads, the chip is mapped as ROM; a command replaces it by registers until
the guest selects the array again.
"""

from __future__ import annotations

import os

from stratovirt._native.ram_mapping import RamMapping
from stratovirt.block.image_files import lock_file
from stratovirt.config.drive import Pflash as PflashOptions
from stratovirt.errors import StratovirtError
from stratovirt.memory.address_space import AddressSpace, IoRegion, RomRegion
from stratovirt.runtime.descriptors import open_at_once
from stratovirt.runtime.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

log = Log(__name__)

SECTOR = 4096
WRITE_BUFFER = 64

READ_ARRAY, READ_ARRAY_AMD = 0xFF, 0xF0
PROGRAM, PROGRAM_ALIAS, ERASE, BUFFERED = 0x40, 0x10, 0x20, 0xE8
CLEAR_STATUS, READ_STATUS, READ_ID, QUERY, LOCK = 0x50, 0x70, 0x90, 0x98, 0x60
CONFIRM = 0xD0

READY, ERASE_ERROR, PROGRAM_ERROR = 1 << 7, 1 << 5, 1 << 4
MANUFACTURER, DEVICE = 0x89, 0x18
QUERY_TABLE = 0x10


class PflashError(StratovirtError):
    """The file cannot be a flash chip; the text names the -drive."""


class Pflash:
    """One chip backed by a file; program and erase commands write the file before they end."""

    def __init__(self, options: PflashOptions) -> None:
        self.source = f"-drive if=pflash,unit={options.unit},file={options.file}"
        self._readonly = options.readonly
        self._fd = -1
        try:
            mode = os.O_RDONLY if options.readonly else os.O_RDWR
            self._fd = open_at_once(options.file, mode)
            lock_file(self._fd, self._readonly, self.source)
            self.size = os.fstat(self._fd).st_size
            self._check_size()
            self._memory = RamMapping(self.size)
            self._bytes = memoryview(self._memory)
            self._fill()
        except OSError as error:
            self.close()
            raise PflashError(f"{self.source}: cannot open: {error.strerror}") from error
        except StratovirtError:
            self.close()
            raise
        self._power_on()

    def _check_size(self) -> None:
        if self.size == 0 or self.size % SECTOR:
            raise PflashError(
                f"{self.source}: the file has {self.size} bytes; flash memory is a multiple of "
                f"{SECTOR} bytes, and not empty"
            )

    def _fill(self) -> None:
        done = 0
        while done < self.size:
            count = os.preadv(self._fd, [self._bytes[done:]], done)
            if count == 0:
                raise PflashError(f"{self.source}: the file became shorter while it was read")
            done += count

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def place(self, space: AddressSpace, base: int) -> None:
        """Map the chip at `base`."""
        self._space, self._base = space, base
        self._array = RomRegion(f"flash@0x{base:x}", self.size, self._memory, 0, self)
        self._registers = IoRegion(f"flash-registers@0x{base:x}", self.size, self)
        space.add(base, self._array)

    def _power_on(self) -> None:
        self._is_array = True
        self._command = READ_ARRAY
        self._status = READY
        self._next: Callable[[int, bytes], None] | None = None

    def reset(self) -> None:
        """Reset to power-on state: the array is mapped."""
        self._show_array(True)
        self._power_on()

    def _show_array(self, is_array: bool) -> None:
        if is_array == self._is_array:
            return
        self._is_array = is_array
        self._space.remove(self._registers if is_array else self._array)
        self._space.add(self._base, self._array if is_array else self._registers)
        self._space.commit()

    def read(self, offset: int, size: int) -> int:
        """Array content, or the last command's byte (status, id, query) on each byte lane."""
        if self._command == READ_ARRAY:
            return int.from_bytes(self._bytes[offset : offset + size], "little")
        if self._command == READ_ID:
            byte = {0: MANUFACTURER, 1: DEVICE}.get(offset & 0xFF, 0)
        elif self._command == QUERY:
            byte = self._query(offset & 0xFF)
        else:
            byte = self._status
        return int.from_bytes(bytes([byte] * size), "little")

    def _query(self, offset: int) -> int:
        table = bytearray(b"QRY" + (1).to_bytes(2, "little") + (0x31).to_bytes(2, "little"))
        table += bytes(4) + bytes([0x45, 0x55, 0, 0, 7, 7, 10, 0, 4, 4, 4, 0])
        blocks = self.size // SECTOR - 1
        table += bytes([self.size.bit_length() - 1, 0, 0, WRITE_BUFFER.bit_length() - 1, 0, 1])
        table += blocks.to_bytes(2, "little") + (SECTOR // 256).to_bytes(2, "little")
        table += b"PRI10" + bytes(8)
        index = offset - QUERY_TABLE
        return table[index] if 0 <= index < len(table) else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """A command, or an operand of the last one."""
        if self._next is not None:
            action, self._next = self._next, None
            action(offset, value.to_bytes(size, "little"))
        else:
            self._obey(value & 0xFF)

    def _obey(self, command: int) -> None:
        if command in (READ_ARRAY, READ_ARRAY_AMD, 0):
            self._command = READ_ARRAY
            self._show_array(True)
            return
        self._show_array(False)
        self._command = command
        if command in (PROGRAM, PROGRAM_ALIAS):
            self._next = self._program
        elif command == ERASE:
            self._next = self._erase
        elif command == BUFFERED:
            self._next = self._begin_buffer
        elif command == LOCK:
            self._next = self._lock
        elif command == CLEAR_STATUS:
            self._status = 0
            self._command = READ_ARRAY
            self._show_array(True)
        elif command not in (READ_STATUS, READ_ID, QUERY):
            self._command = READ_ARRAY
            self._show_array(True)

    def _program(self, offset: int, content: bytes) -> None:
        self._command = READ_STATUS
        self._store(offset, content, PROGRAM_ERROR)

    def _erase(self, offset: int, content: bytes) -> None:
        self._command = READ_STATUS
        if content[0] != CONFIRM:
            self._status |= READY | ERASE_ERROR | PROGRAM_ERROR  # a wrong sequence
            return
        self._store(offset // SECTOR * SECTOR, b"\xff" * SECTOR, ERASE_ERROR)

    def _lock(self, _offset: int, _content: bytes) -> None:
        """Accept the lock command without effect: readonly=on protects the file."""
        self._command = READ_STATUS
        self._status |= READY

    def _begin_buffer(self, _offset: int, content: bytes) -> None:
        self._command = READ_STATUS
        self._status |= READY
        count = content[0] + 1
        if count > WRITE_BUFFER:
            self._status |= PROGRAM_ERROR
            return
        pending: list[tuple[int, bytes]] = []

        def collect(offset: int, content: bytes) -> None:
            pending.append((offset, content))
            self._next = collect if len(pending) < count else finish

        def finish(_offset: int, content: bytes) -> None:
            if content[0] != CONFIRM:
                self._status |= PROGRAM_ERROR
                return
            for at, piece in pending:
                self._store(at, piece, PROGRAM_ERROR)

        self._next = collect

    def _store(self, offset: int, content: bytes, error_bit: int) -> None:
        """Write file and array; bits may also be set, as firmware made for QEMU's chip expects."""
        self._status |= READY
        if self._readonly or offset + len(content) > self.size:
            self._status |= error_bit
            return
        try:
            os.pwrite(self._fd, content, offset)
        except OSError as error:
            log.error(f"{self.source}: cannot write: {error.strerror}")
            self._status |= error_bit
            return
        self._bytes[offset : offset + len(content)] = content
