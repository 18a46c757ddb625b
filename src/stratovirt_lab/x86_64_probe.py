"""A kernel of one instruction that stock kernels have and some KVMs cannot emulate."""

import struct

# cmpxchg16b [rdi]; mov dx, 0x600; mov al, S5; out dx, al; jmp $
PROBE = bytes.fromhex("480fc70f66ba0006b034eeebfe")


def probe() -> bytes:
    """The ELF file: it executes the instruction and powers the machine off."""
    address, offset = 0x10_0000, 0x1000
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, address, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 7, offset, address, address, len(PROBE), len(PROBE), 1)
    return (header + segment).ljust(offset, b"\0") + PROBE
