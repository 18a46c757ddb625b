"""fw_cfg (QEMU's docs/specs/fw_cfg): named blobs that the board hands to firmware."""

from __future__ import annotations

import struct

from stratovirt._native.guest_memory import GuestMemory, GuestMemoryError
from stratovirt.config.options import opt
from stratovirt.snapshot.state import U16, U32, U64, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

    Content = bytes | mmap.mmap

SELECTOR, DATA, DMA_HIGH, DMA_LOW = 0, 1, 4, 8
"""Offsets from port 0x510."""
PORTS = 12
MMIO_DATA_BYTES, MMIO_SELECTOR, MMIO_DMA, MMIO_BYTES = 8, 8, 16, 24
"""Data register at 0, offsets of the others, and size of the device in memory."""

SIGNATURE, ID, CPU_COUNT, BOOT_MENU, MAX_CPUS = 0x00, 0x01, 0x05, 0x0E, 0x0F
KERNEL_SIZE, INITRD_SIZE, KERNEL_DATA, INITRD_DATA = 0x08, 0x0B, 0x11, 0x12
COMMAND_LINE_SIZE, COMMAND_LINE_DATA, SETUP_SIZE, SETUP_DATA = 0x14, 0x15, 0x17, 0x18
FILE_DIRECTORY, FIRST_FILE = 0x19, 0x20
NO_KEY = 0xFFFF
"""A selector key that no blob has."""
FEATURES = 3
"""Feature bits: the traditional interface, and DMA."""
NAME_LONGEST = 55

DMA_ERROR, DMA_READ, DMA_SKIP, DMA_SELECT, DMA_WRITE = 1, 2, 4, 8, 16
DMA_ACCESS = struct.Struct(">IIQ")
DMA_SIGNATURE = b"QEMU CFG"
DMA_STEP = 4 << 20
"""Bytes moved at once: a request may be for 4 GiB, which must not block the loop."""


class FwCfgState(State):
    """The selected blob, the next byte of it, and the upper half of a DMA's address."""

    key: int = opt(U16)
    offset: int = opt(U64)
    dma_high: int = opt(U32)


class FwCfg:
    """The device; call `add` and `add_file` before the machine runs.

    It calls `let_others_in` between the steps of a long transfer.
    """

    state_type = FwCfgState

    def __init__(self, memory: GuestMemory, let_others_in: Callable[[], None]) -> None:
        self._memory = memory
        self._let_others_in = let_others_in
        self._makers: dict[int, Callable[[], Content]] = {}
        self._files: dict[str, tuple[int, Callable[[], int]]] = {}
        self._key = NO_KEY
        self._content: Content = b""
        self._offset = 0
        self._dma_high = 0
        self.add(SIGNATURE, b"QEMU")
        self.add(ID, struct.pack("<I", FEATURES))
        self._makers[FILE_DIRECTORY] = self._directory

    def add(self, key: int, content: Content) -> None:
        """Add a blob with a fixed selector key."""
        self._makers[key] = lambda: content

    def add_file(self, name: str, content: Content | Callable[[], bytes]) -> None:
        """Add a blob by name; a function makes it at each selection, always of the same size."""
        if len(name) > NAME_LONGEST:
            raise ValueError(f"'{name}' is too long for fw_cfg")
        key = self._files[name][0] if name in self._files else FIRST_FILE + len(self._files)
        make: Callable[[], Content] = content if callable(content) else lambda: content
        self._makers[key] = make
        self._files[name] = key, lambda: len(make())

    def _directory(self) -> bytes:
        listed = [
            struct.pack(">IHH56s", size(), key, 0, name.encode())
            for name, (key, size) in sorted(self._files.items())
        ]
        return struct.pack(">I", len(listed)) + b"".join(listed)

    def reset(self) -> None:
        """Select no blob, as after power-on."""
        self._key, self._content, self._offset, self._dma_high = NO_KEY, b"", 0, 0

    def save(self) -> FwCfgState:
        """What is selected; the blobs are the board's."""
        offset = min(self._offset, len(self._content))
        return FwCfgState(key=self._key, offset=offset, dma_high=self._dma_high)

    def restore(self, state: FwCfgState) -> None:
        """Select the blob again, which the board has added before."""
        self._select(state.key)
        self._offset, self._dma_high = state.offset, state.dma_high

    def _select(self, key: int) -> None:
        self._key = key
        make = self._makers.get(key)
        self._content = make() if make is not None else b""
        self._offset = 0

    def take(self, size: int) -> bytes:
        """The next bytes of the selected blob; fewer or none at its end."""
        piece = self._content[self._offset : self._offset + size]
        self._offset += size
        return piece

    def read(self, offset: int, size: int) -> int:
        """The next byte of the selected blob; at the DMA register, its signature."""
        if offset == DATA and size == 1:
            return int.from_bytes(self.take(1), "little")
        if offset in (DMA_HIGH, DMA_LOW) and size == 4:
            at = offset - DMA_HIGH
            return int.from_bytes(DMA_SIGNATURE[at : at + 4], "little")
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Select a blob, or start a DMA with the lower half of its address, big endian."""
        if offset == SELECTOR and size == 2:
            self._select(value)
        elif offset == DMA_HIGH and size == 4:
            self._dma_high = _swapped(value)
        elif offset == DMA_LOW and size == 4:
            address = self._dma_high << 32 | _swapped(value)
            self._dma_high = 0
            try:
                self._dma(address)
            except GuestMemoryError:
                return  # not even the answer has a place

    def _dma(self, address: int) -> None:
        control, length, target = DMA_ACCESS.unpack(self._memory.read(address, DMA_ACCESS.size))
        if control & DMA_SELECT:
            self._select(control >> 16)
        result = 0
        if control & DMA_READ:
            result = self._dma_read(target, length)
        elif control & DMA_SKIP:
            self._offset += length
        elif control & DMA_WRITE:
            result = DMA_ERROR  # nothing here is writable
        self._memory.write(address, struct.pack(">I", result))

    def _dma_read(self, target: int, length: int) -> int:
        """Copy the blob, then zeros; an invalid target is refused before any copying."""
        if not self._memory.contains(target, length):
            return DMA_ERROR if length else 0
        content, offset = self._content, self._offset
        self._offset += length
        for at in range(0, length, DMA_STEP):
            if at:
                self._let_others_in()
            step = min(DMA_STEP, length - at)
            piece = content[offset + at : offset + at + step]
            self._memory.write(target + at, piece.ljust(step, b"\0"))
        return 0


class InMemory:
    """The registers of a FwCfg in memory, where the selector is big endian."""

    def __init__(self, device: FwCfg) -> None:
        self._device = device

    def read(self, offset: int, size: int) -> int:
        """The next bytes of the selected blob in their order, or the DMA register's signature."""
        if offset < MMIO_DATA_BYTES:
            return int.from_bytes(self._device.take(size), "little")
        if offset >= MMIO_DMA:
            at = offset - MMIO_DMA
            return int.from_bytes(DMA_SIGNATURE[at : at + size], "little")
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Select a blob, or start a DMA with the whole or the lower half of its address."""
        if offset == MMIO_SELECTOR and size == 2:
            self._device.write(SELECTOR, 2, int.from_bytes(value.to_bytes(2, "little"), "big"))
        elif offset == MMIO_DMA and size == 8:
            self._device.write(DMA_HIGH, 4, value & 0xFFFF_FFFF)
            self._device.write(DMA_LOW, 4, value >> 32)
        elif offset >= MMIO_DMA:
            self._device.write(offset - MMIO_DMA + DMA_HIGH, size, value)


def _swapped(value: int) -> int:
    return int.from_bytes(value.to_bytes(4, "little"), "big")
