"""An encoder for the part of AML that boards need (ACPI 6.5, chapter 20)."""

from __future__ import annotations

import struct


class Term:
    """Encoded AML."""

    __slots__ = ("code",)

    def __init__(self, code: bytes) -> None:
        self.code = code


def _package_length(size: int) -> bytes:
    """PkgLength (20.2.4), which includes its own length."""
    if size + 1 < 0x40:
        return bytes([size + 1])
    for extra in (1, 2, 3):
        total = size + 1 + extra
        if total < 1 << (4 + 8 * extra):
            rest = (total >> 4).to_bytes(extra, "little")
            return bytes([extra << 6 | total & 0xF]) + rest
    raise ValueError("AML package too long")


def name_string(path: str) -> bytes:
    """NameString (20.2.2) of ``\\_SB_.COM1`` and the like."""
    root = b"\\" if path.startswith("\\") else b""
    segments = [part.ljust(4, "_").encode() for part in path.lstrip("\\").split(".") if part]
    if any(len(segment) != 4 for segment in segments):
        raise ValueError(f"'{path}' has a segment longer than four characters")
    if len(segments) == 1:
        return root + segments[0]
    if len(segments) == 2:
        return root + b"\x2e" + b"".join(segments)
    return root + b"\x2f" + bytes([len(segments)]) + b"".join(segments)


def encode(value: int | str | bytes | Term) -> bytes:
    """DataRefObject (20.2.3): an integer, a string, a buffer, or a term as it is."""
    if isinstance(value, Term):
        return value.code
    if isinstance(value, str):
        return b"\x0d" + value.encode("ascii") + b"\0"
    if isinstance(value, bytes):
        body = encode(len(value)) + value
        return b"\x11" + _package_length(len(body)) + body
    if value in (0, 1):
        return bytes([value])
    for prefix, size in ((0x0A, 1), (0x0B, 2), (0x0C, 4), (0x0E, 8)):
        if value < 1 << 8 * size:
            return bytes([prefix]) + value.to_bytes(size, "little")
    raise ValueError(f"{value} does not fit into 64 bits")


def name(path: str, value: int | str | bytes | Term) -> Term:
    """DefName."""
    return Term(b"\x08" + name_string(path) + encode(value))


def scope(path: str, *terms: Term) -> Term:
    """DefScope."""
    body = name_string(path) + b"".join(term.code for term in terms)
    return Term(b"\x10" + _package_length(len(body)) + body)


def device(path: str, *terms: Term) -> Term:
    """DefDevice."""
    body = name_string(path) + b"".join(term.code for term in terms)
    return Term(b"\x5b\x82" + _package_length(len(body)) + body)


SYSTEM_MEMORY = 0
DWORD_ACCESS = 3
LOCAL0 = Term(b"\x60")
ARG0, ARG1, ARG3 = Term(b"\x68"), Term(b"\x69"), Term(b"\x6b")


def operation_region(path: str, base: int, size: int) -> Term:
    """DefOpRegion in system memory."""
    area = bytes([SYSTEM_MEMORY]) + encode(base) + encode(size)
    return Term(b"\x5b\x80" + name_string(path) + area)


def field(region: str, path: str) -> Term:
    """DefField: one 32-bit field at the region's start."""
    # A field's width is encoded like PkgLength, but does not include itself.
    body = name_string(region) + bytes([DWORD_ACCESS]) + name_string(path) + bytes([32])
    return Term(b"\x5b\x81" + _package_length(len(body)) + body)


def method(path: str, arguments: int, *terms: Term) -> Term:
    """DefMethod, serialized."""
    body = name_string(path) + bytes([1 << 3 | arguments]) + b"".join(t.code for t in terms)
    return Term(b"\x14" + _package_length(len(body)) + body)


def store(source: str, target: Term) -> Term:
    """DefStore of a named object's value."""
    return Term(b"\x70" + name_string(source) + target.code)


def if_bits(value: Term, mask: int, *terms: Term) -> Term:
    """DefIfElse: the terms run when any bit of `mask` is set in `value`."""
    predicate = b"\x7b" + value.code + encode(mask) + b"\0"
    body = predicate + b"".join(term.code for term in terms)
    return Term(b"\xa0" + _package_length(len(body)) + body)


def notify(path: str, code: int) -> Term:
    """DefNotify."""
    return Term(b"\x86" + name_string(path) + encode(code))


def package(*values: int | str | bytes | Term) -> Term:
    """DefPackage."""
    body = bytes([len(values)]) + b"".join(encode(value) for value in values)
    return Term(b"\x12" + _package_length(len(body)) + body)


def eisa_id(text: str) -> int:
    """EISAID macro: a seven-character id as the number that _HID holds (19.6.37)."""
    letters = [ord(letter) - 0x40 for letter in text[:3]]
    number = letters[0] << 26 | letters[1] << 21 | letters[2] << 16 | int(text[3:], 16)
    return int.from_bytes(number.to_bytes(4, "big"), "little")


def resources(*descriptors: bytes) -> bytes:
    """ResourceTemplate: descriptors and the end tag (6.4.2.9), whose checksum 0 means unchecked."""
    return b"".join(descriptors) + b"\x79\0"


def memory32(base: int, size: int) -> bytes:
    """Memory32Fixed, read-write (6.4.3.4)."""
    return struct.pack("<BHBII", 0x86, 9, 1, base, size)


def io_ports(base: int, size: int) -> bytes:
    """IO with 16-bit decoding (6.4.2.5)."""
    return struct.pack("<BBHHBB", 0x47, 1, base, base, 1, size)


def interrupt(gsi: int) -> bytes:
    """Extended Interrupt: consumer, edge, active high, exclusive (6.4.3.6)."""
    return struct.pack("<BHBBI", 0x89, 6, 0b0011, 1, gsi)


def constant(value: int | bytes) -> Term:
    """An integer or a buffer as an expression."""
    return Term(encode(value))


def reference(path: str) -> Term:
    """A named object as an expression."""
    return Term(name_string(path))


def uuid(text: str) -> Term:
    """ToUUID (19.6.142): the first three fields are little endian."""
    first, second, third, fourth, fifth = (bytes.fromhex(part) for part in text.split("-"))
    return Term(encode(first[::-1] + second[::-1] + third[::-1] + fourth + fifth))


def dword_field(buffer: Term, offset: int, path: str) -> Term:
    """DefCreateDWordField: a name for 32 bits of a buffer."""
    return Term(b"\x8a" + buffer.code + encode(offset) + name_string(path))


def and_(left: Term, right: int, target: Term) -> Term:
    """DefAnd into `target`."""
    return Term(b"\x7b" + left.code + encode(right) + target.code)


def or_(left: Term, right: int, target: Term) -> Term:
    """DefOr into `target`."""
    return Term(b"\x7d" + left.code + encode(right) + target.code)


def assign(source: Term, target: Term) -> Term:
    """DefStore."""
    return Term(b"\x70" + source.code + target.code)


def equal(left: Term, right: Term) -> Term:
    """DefLEqual."""
    return Term(b"\x93" + left.code + right.code)


def not_(condition: Term) -> Term:
    """DefLNot."""
    return Term(b"\x92" + condition.code)


def if_(condition: Term, *terms: Term) -> Term:
    """DefIfElse without its else."""
    body = condition.code + b"".join(term.code for term in terms)
    return Term(b"\xa0" + _package_length(len(body)) + body)


def else_(*terms: Term) -> Term:
    """The else of the `if_` before it."""
    body = b"".join(term.code for term in terms)
    return Term(b"\xa1" + _package_length(len(body)) + body)


def return_(value: Term) -> Term:
    """DefReturn."""
    return Term(b"\xa4" + value.code)


MEMORY_RANGE, IO_RANGE, BUS_RANGE = 0, 1, 2
FIXED, READ_WRITE, ENTIRE_RANGE = 0x0C, 1, 3


def window16(kind: int, first: int, last: int) -> bytes:
    """Word Address Space of a producer: buses or I/O ports (6.4.3.5.3)."""
    flags = ENTIRE_RANGE if kind == IO_RANGE else 0
    return struct.pack(
        "<BHBBBHHHHH", 0x88, 13, kind, FIXED, flags, 0, first, last, 0, last - first + 1
    )


def window32(first: int, last: int) -> bytes:
    """DWord Address Space of a producer: memory, not cached (6.4.3.5.2)."""
    return struct.pack(
        "<BHBBBIIIII",
        0x87, 23, MEMORY_RANGE, FIXED, READ_WRITE, 0, first, last, 0, last - first + 1,
    )  # fmt: skip


def window64(first: int, last: int) -> bytes:
    """QWord Address Space of a producer: memory, prefetchable (6.4.3.5.1)."""
    return struct.pack(
        "<BHBBBQQQQQ",
        0x8A, 43, MEMORY_RANGE, FIXED, READ_WRITE | 3 << 1, 0, first, last, 0, last - first + 1,
    )  # fmt: skip


def port_window(base: int, size: int) -> bytes:
    """QWord Address Space of a producer: I/O ports from 0 on, reached in memory at `base`."""
    return struct.pack(
        "<BHBBBQQQQQ",
        0x8A, 43, IO_RANGE, FIXED, ENTIRE_RANGE, 0, 0, size - 1, base, size,
    )  # fmt: skip


def irq(number: int) -> bytes:
    """IRQ without flags: edge, active high (6.4.2.1)."""
    return struct.pack("<BH", 0x22, 1 << number)
