"""SMBIOS tables (DMTF DSP0134 3.4), for the guest's inventory tools."""

from __future__ import annotations

import struct

BIOS, SYSTEM, CHASSIS, PROCESSOR = 0, 1, 3, 4
MEMORY_ARRAY, MEMORY_DEVICE, MEMORY_ARRAY_ADDRESS, BOOT, END = 16, 17, 19, 32, 127
ENTRY_POINT_BYTES = 24
MIB, GIB = 1 << 20, 1 << 30
SIZE_IN_EXTENDED = 0x7FFF
DIMM_MOST = 16 * GIB


def _structure(kind: int, handle: int, body: bytes, *texts: str) -> bytes:
    strings = b"".join(text.encode() + b"\0" for text in texts) or b"\0"
    return struct.pack("<BBH", kind, 4 + len(body), handle) + body + strings + b"\0"


def smbios_tables(
    *, uuid: bytes, sockets: int, cores: int, threads: int, ram: list[tuple[int, int]]
) -> bytes:
    """All structures; `uuid` is 16 bytes in the order it is written, `ram` (gpa, size) pieces.

    `cores` and `threads` are counts in a socket.
    """
    # Section 7.2.1: the first three fields are little endian.
    encoded = uuid[3::-1] + uuid[5:3:-1] + uuid[7:5:-1] + uuid[8:]
    structures = [
        _structure(
            BIOS, 0x0000,
            struct.pack("<BBHBBQHBBBB", 1, 2, 0xE800, 3, 0, 1 << 3, 0x1C00, 0, 0, 255, 255),
            "StratoVirt", "1.0", "01/01/2026",
        ),
        _structure(
            SYSTEM, 0x0100, struct.pack("<BBBB16sBBB", 1, 2, 3, 0, encoded, 6, 0, 4),
            "StratoVirt", "Standard PC (Q35 + ICH9)", "1.0", "Virtual Machine",
        ),
        _structure(
            CHASSIS, 0x0300, struct.pack("<BBBBBBBBBIBBBBB", 1, 1, 2, 0, 0, 3, 3, 3, 2, 0, 0, 0, 0,
                                         0, 0),
            "StratoVirt", "1.0",
        ),
    ]  # fmt: skip
    for socket in range(sockets):
        structures.append(_processor(socket, cores, threads))
    total = sum(size for _, size in ram)
    dimms = [min(DIMM_MOST, total - at) for at in range(0, total, DIMM_MOST)]
    structures.append(
        _structure(
            MEMORY_ARRAY, 0x1000,
            struct.pack("<BBBIHHQ", 1, 3, 6, 0x8000_0000, 0xFFFE, len(dimms), total),
        )
    )  # fmt: skip
    structures += [_memory_device(number, size) for number, size in enumerate(dimms)]
    for number, (gpa, size) in enumerate(ram):
        body = struct.pack("<IIHBQQ", 0xFFFF_FFFF, 0xFFFF_FFFF, 0x1000, 1, gpa, gpa + size - 1)
        structures.append(_structure(MEMORY_ARRAY_ADDRESS, 0x1300 + number, body))
    structures.append(_structure(BOOT, 0x2000, bytes(7)))
    structures.append(_structure(END, 0x7F00, b""))
    return b"".join(structures)


def _processor(socket: int, cores: int, threads: int) -> bytes:
    body = struct.pack(
        "<BBBBQBBHHHBBHHHBBBBBBHHHHH",
        1, 3, 1, 2, 0, 0, 0, 0, 0, 0, 0x41, 1, 0xFFFF, 0xFFFF, 0xFFFF, 0, 0, 0,
        min(cores, 255), min(cores, 255), min(cores * threads, 255), 0x04, 1,
        cores, cores, cores * threads,
    )  # fmt: skip
    return _structure(PROCESSOR, 0x0400 + socket, body, f"CPU {socket}", "StratoVirt")


def _memory_device(number: int, size: int) -> bytes:
    mib = size // MIB
    body = struct.pack(
        "<HHHHHBBBBBHHBBBBBIHHHH",
        0x1000, 0xFFFE, 0xFFFF, 0xFFFF, min(mib, SIZE_IN_EXTENDED), 9, 0, 1, 0, 7, 2, 0, 2, 0, 0,
        0, 0, mib if mib >= SIZE_IN_EXTENDED else 0, 0, 0, 0, 0,
    )  # fmt: skip
    return _structure(MEMORY_DEVICE, 0x1100 + number, body, f"DIMM {number}", "StratoVirt")


def entry_point(tables: bytes, address: int) -> bytes:
    """The 64-bit entry point (section 5.2.2) of `tables` at `address`."""

    def pack(checksum: int) -> bytes:
        return struct.pack(
            "<5sBBBBBBBIQ", b"_SM3_", checksum, ENTRY_POINT_BYTES, 3, 4, 0, 1, 0, len(tables),
            address,
        )  # fmt: skip

    return pack(-sum(pack(0)) & 0xFF)
