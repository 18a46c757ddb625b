"""Configuration space (PCI Express Base 4.0, section 7.5): bytes and their write masks."""

from __future__ import annotations

BYTES = 4096
LEGACY_BYTES = 256

VENDOR_ID, DEVICE_ID, COMMAND, STATUS = 0x00, 0x02, 0x04, 0x06
REVISION, CLASS_CODE, CACHE_LINE, HEADER_TYPE = 0x08, 0x09, 0x0C, 0x0E
BAR0, SUBSYSTEM_VENDOR, SUBSYSTEM, ROM = 0x10, 0x2C, 0x2E, 0x30
CAPABILITIES, INTERRUPT_LINE, INTERRUPT_PIN = 0x34, 0x3C, 0x3D

COMMAND_IO, COMMAND_MEMORY, COMMAND_MASTER = 1 << 0, 1 << 1, 1 << 2
COMMAND_INTX_DISABLE = 1 << 10
COMMAND_WRITABLE = COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER | 1 << 6 | 1 << 8 | 1 << 10
STATUS_INTX, STATUS_CAPABILITIES = 1 << 3, 1 << 4
STATUS_WRITE_ONE_TO_CLEAR = 0xF900
MULTIFUNCTION = 0x80

VIRTIO_VENDOR = 0x1AF4
BOARD_SUBSYSTEM = (VIRTIO_VENDOR, 0x1100)
"""Subsystem vendor and id of the functions that come with a machine."""

CAP_MSI, CAP_VENDOR, CAP_EXPRESS, CAP_MSIX = 0x05, 0x09, 0x10, 0x11
FIRST_CAPABILITY = 0x40


class ConfigSpace:
    """4096 bytes, of which the guest writes the bits that `writable` has.

    Bits of `clearing` are cleared by writing ones to them; bits of `live` are the device's, which
    changes them while the machine runs.  `reset` restores the content of the last `keep`.
    """

    def __init__(self) -> None:
        self._bytes = bytearray(BYTES)
        self._writable = bytearray(BYTES)
        self._clearing = bytearray(BYTES)
        self._live = bytearray(BYTES)
        self._kept = bytes(BYTES)
        self._next_capability = FIRST_CAPABILITY
        self._last_pointer = CAPABILITIES

    def get(self, offset: int, size: int) -> int:
        """A little-endian register."""
        return int.from_bytes(self._bytes[offset : offset + size], "little")

    def set(self, offset: int, size: int, value: int) -> None:
        """Set a register from the device's side, regardless of the guest's write mask."""
        self._bytes[offset : offset + size] = value.to_bytes(size, "little")

    def change(self, offset: int, size: int, clear: int, set_: int) -> None:
        """Clear bits, then set bits, from the device's side."""
        self.set(offset, size, self.get(offset, size) & ~clear | set_)

    def allow(self, offset: int, size: int, bits: int) -> None:
        """Let the guest write these bits of a register."""
        self._writable[offset : offset + size] = bits.to_bytes(size, "little")

    def allow_clearing(self, offset: int, size: int, bits: int) -> None:
        """Let the guest clear these bits by writing ones."""
        self._clearing[offset : offset + size] = bits.to_bytes(size, "little")

    def allow_device(self, offset: int, size: int, bits: int) -> None:
        """Expect the device to change these bits, so that a saved function may differ in them."""
        self._live[offset : offset + size] = bits.to_bytes(size, "little")

    def write(self, offset: int, content: bytes) -> None:
        """A guest's write; only bits that it may write or clear change."""
        for at, byte in enumerate(content, start=offset):
            mask = self._writable[at]
            kept = self._bytes[at] & ~mask | byte & mask
            self._bytes[at] = kept & ~(byte & self._clearing[at])

    def read(self, offset: int, size: int) -> int:
        """A guest's read."""
        return self.get(offset, size)

    def add_capability(self, kind: int, body: bytes) -> int:
        """Append a capability (section 7.5.3.1) of `body` after its two-byte head; its offset.

        Raises ValueError when the 192 bytes for capabilities are used up.
        """
        offset = self._next_capability
        size = 2 + len(body)
        if offset + size > LEGACY_BYTES:
            raise ValueError("no room for another capability")
        self._bytes[offset : offset + size] = bytes([kind, 0]) + body
        self._bytes[self._last_pointer] = offset
        self._last_pointer = offset + 1
        self._next_capability = (offset + size + 3) & ~3
        self.change(STATUS, 2, 0, STATUS_CAPABILITIES)
        return offset

    def keep(self) -> None:
        """Make the present content the power-on state."""
        self._kept = bytes(self._bytes)

    def reset(self) -> None:
        """Restore the power-on state."""
        self._bytes[:] = self._kept

    @property
    def content(self) -> bytes:
        """All bytes, without the zeros at their end."""
        return bytes(self._bytes.rstrip(b"\0"))

    def differs_at(self, saved: bytes) -> int | None:
        """The first register in which no guest and no device could have made this into `saved`."""
        theirs = saved.ljust(BYTES, b"\0")
        if self._bytes == theirs:
            return None
        for at, (byte, other) in enumerate(zip(self._bytes, theirs, strict=True)):
            free = self._writable[at] | self._clearing[at] | self._live[at]
            if (byte ^ other) & ~free:
                return at
        return None

    def load(self, saved: bytes) -> None:
        """Take over `saved`, which differs only in bits that may."""
        self._bytes[:] = saved.ljust(BYTES, b"\0")
