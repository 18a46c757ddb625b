"""Tiny kernels: ELF files that KVM runs at full speed anywhere, built byte by byte."""

import struct
from pathlib import Path

LOAD_ADDRESS = 0x10_0000
EM_X86_64 = 62


def elf(code: bytes, address: int = LOAD_ADDRESS) -> bytes:
    """An ELF executable of one segment that starts with `code`."""
    offset = 0x1000
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        2,
        EM_X86_64,
        1,
        address,
        64,
        0,
        0,
        64,
        56,
        1,
        0,
        0,
        0,
    )
    segment = struct.pack("<IIQQQQQQ", 1, 7, offset, address, address, len(code), len(code), 4096)
    return (header + segment).ljust(offset, b"\0") + code


def out(port: int, value: int) -> bytes:
    """mov dx, port; mov al, value; out dx, al."""
    return b"\x66\xba" + struct.pack("<H", port) + b"\xb0" + bytes([value]) + b"\xee"


def say(text: str) -> bytes:
    """Write `text` to the serial port."""
    return b"".join(out(0x3F8, byte) for byte in text.encode())


RESET = out(0x64, 0xFE)
POWER_OFF = out(0x600, 5 << 2 | 1 << 5)
SPIN = b"\xf4\xeb\xfd"  # hlt; jmp to the hlt
BUSY = b"\xeb\xfe"  # jmp to itself
TRIPLE_FAULT = b"\x0f\x0b"  # ud2 with an empty IDT
MMIO_STORE = b"\xc7\x05"


def write_kernel(folder: Path, code: bytes) -> Path:
    """Put the payload into a file for -kernel."""
    path = folder / "payload.elf"
    path.write_bytes(elf(code))
    return path


def newc(name: str, content: bytes) -> bytes:
    """One entry of a cpio archive, a regular file."""
    fields = [0] * 13
    fields[1], fields[4] = 0o100644, 1
    fields[6], fields[11] = len(content), len(name) + 1
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    head += b"\0" * (-len(head) % 4)
    return head + content + b"\0" * (-len(content) % 4)
