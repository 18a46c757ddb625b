"""A flash chip with the command set of Intel (CFI, JEDEC JESD68.01), eight bits wide.

While the guest only reads, the chip is mapped as ROM; a command replaces it by registers until
the guest selects the array again.
"""

from __future__ import annotations

import os

from stratovirt._native.ram_mapping import RamMapping
from stratovirt.block.image_files import lock_file
from stratovirt.config.drive import Pflash as PflashOptions
from stratovirt.config.kinds import Choice, Integer
from stratovirt.config.options import opt
from stratovirt.errors import StratovirtError
from stratovirt.memory.address_space import AddressSpace, IoRegion, RomRegion
from stratovirt.runtime.descriptors import open_at_once
from stratovirt.runtime.log import Log
from stratovirt.snapshot.errors import SnapshotError
from stratovirt.snapshot.state import FLAG, U8, U32, Bytes, Each, State, Struct

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


NOTHING, PROGRAM_BYTE, ERASE_SECTOR, LOCK_SECTOR = "", "program", "erase", "lock"
BUFFER_SIZE, BUFFER_BYTE, BUFFER_CONFIRM = "size", "byte", "confirm"
"""What the chip expects of the next write: a command, or an operand of the last one."""


class BufferedWrite(State):
    """A write of the guest into the write buffer."""

    offset: int = opt(U32)
    content: bytes = opt(Bytes(8))


class PflashState(State):
    """The command that is carried out; what the chip holds is in its file."""

    size: int = opt(U32)
    is_array: bool = opt(FLAG)
    command: int = opt(U8)
    status: int = opt(U8)
    expected: str = opt(
        Choice(
            NOTHING, PROGRAM_BYTE, ERASE_SECTOR, LOCK_SECTOR,
            BUFFER_SIZE, BUFFER_BYTE, BUFFER_CONFIRM,
        )
    )  # fmt: skip
    buffer_count: int = opt(Integer(0, WRITE_BUFFER), help="writes that the buffer will have")
    buffer: list[BufferedWrite] = opt(Each(Struct(BufferedWrite), WRITE_BUFFER))


class PflashError(StratovirtError):
    """The file cannot be a flash chip; the text names the -drive."""


class Pflash:
    """One chip backed by a file; program and erase commands write the file before they end."""

    state_type = PflashState

    def __init__(self, options: PflashOptions) -> None:
        self.source = f"-drive if=pflash,unit={options.unit},file={options.file}"
        self.unit = options.unit
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
        self._expected = NOTHING
        self._buffer_count = 0
        self._buffer: list[tuple[int, bytes]] = []

    def save(self) -> PflashState:
        """The command that is carried out."""
        return PflashState(
            size=self.size, is_array=self._is_array, command=self._command, status=self._status,
            expected=self._expected, buffer_count=self._buffer_count,
            buffer=[BufferedWrite(offset=at, content=piece) for at, piece in self._buffer],
        )  # fmt: skip

    def restore(self, state: PflashState) -> None:
        """Go on with the saved command; raises SnapshotError for a chip of another size."""
        if state.size != self.size:
            raise SnapshotError(
                f"{self.source}: the file has {self.size} bytes and the snapshot's had {state.size}"
            )
        self._command, self._status = state.command, state.status
        self._expected, self._buffer_count = state.expected, state.buffer_count
        self._buffer = [(write.offset, write.content) for write in state.buffer]
        self._show_array(state.is_array)

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
        expected, self._expected = self._expected, NOTHING
        if expected == NOTHING:
            self._obey(value & 0xFF)
        else:
            actions = {
                PROGRAM_BYTE: self._program, ERASE_SECTOR: self._erase, LOCK_SECTOR: self._lock,
                BUFFER_SIZE: self._begin_buffer, BUFFER_BYTE: self._collect,
                BUFFER_CONFIRM: self._end_buffer,
            }  # fmt: skip
            actions[expected](offset, value.to_bytes(size, "little"))

    def _obey(self, command: int) -> None:
        if command in (READ_ARRAY, READ_ARRAY_AMD, 0):
            self._command = READ_ARRAY
            self._show_array(True)
            return
        self._show_array(False)
        self._command = command
        if command in (PROGRAM, PROGRAM_ALIAS):
            self._expected = PROGRAM_BYTE
        elif command == ERASE:
            self._expected = ERASE_SECTOR
        elif command == BUFFERED:
            self._expected = BUFFER_SIZE
        elif command == LOCK:
            self._expected = LOCK_SECTOR
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
        self._buffer_count, self._buffer = count, []
        self._expected = BUFFER_BYTE

    def _collect(self, offset: int, content: bytes) -> None:
        self._buffer.append((offset, content))
        is_full = len(self._buffer) >= self._buffer_count
        self._expected = BUFFER_CONFIRM if is_full else BUFFER_BYTE

    def _end_buffer(self, _offset: int, content: bytes) -> None:
        pending, self._buffer = self._buffer, []
        if content[0] != CONFIRM:
            self._status |= PROGRAM_ERROR
            return
        for at, piece in pending:
            self._store(at, piece, PROGRAM_ERROR)

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
