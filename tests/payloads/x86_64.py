"""Machine code for tiny guests on x86_64, which start in long mode at 1 MiB."""

import struct

from tests.payloads import Payloads

LOAD_ADDRESS = 0x10_0000
EM_X86_64 = 62
SERIAL_PORT = 0x3F8


def elf(code: bytes, address: int = LOAD_ADDRESS) -> bytes:
    """An ELF executable of one segment that starts with `code`."""
    offset = 0x1000
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, EM_X86_64, 1, address, 64, 0, 0, 64, 56, 1,
        0, 0, 0,
    )  # fmt: skip
    segment = struct.pack("<IIQQQQQQ", 1, 7, offset, address, address, len(code), len(code), 4096)
    return (header + segment).ljust(offset, b"\0") + code


def out(port: int, value: int) -> bytes:
    """mov dx, port; mov al, value; out dx, al."""
    return b"\x66\xba" + struct.pack("<H", port) + b"\xb0" + bytes([value]) + b"\xee"


def say(text: str) -> bytes:
    """Write `text` to the serial port."""
    return b"".join(out(SERIAL_PORT, byte) for byte in text.encode())


def say_forever(letter: str) -> bytes:
    """The letter, then out dx, al and a jump back to it."""
    return out(SERIAL_PORT, ord(letter)) + b"\xee\xeb\xfd"


def say_slowly(text: str) -> bytes:
    """The text, mov ecx, 2000000, loop to itself, and a jump back."""
    turn = say(text) + bytes.fromhex("b980841e00e2fe")
    return turn + b"\xe9" + (-(len(turn) + 5)).to_bytes(4, "little", signed=True)


def _poke_around() -> bytes:
    ports = (*range(0x60, 0x64), *range(SERIAL_PORT, SERIAL_PORT + 8), 0xCF8, 0x601, 0xFFFF)
    code = b"".join(out(port, 0xA5) for port in ports)
    # mov dword [0x3f000000], 1; mov eax, [0x3f000000]: beyond RAM and inside the mapped GiB
    code += bytes.fromhex("c704250000003f010000008b04250000003f")
    # The serial port as it was: eight bits a byte, no divisor latch, OUT2.
    return code + out(0x3FB, 3) + out(0x3FC, 8)


def count(address: int) -> bytes:
    """Count in memory and say the low four bits as a letter from A on, for ever."""
    return (
        b"\x48\xbb" + struct.pack("<Q", address)  # mov rbx, address
        + b"\x48\xff\x03"  # again: inc qword [rbx]
        + b"\x8a\x03\x24\x0f\x04\x41"  # mov al, [rbx]; and al, 15; add al, 'A'
        + b"\x66\xba" + struct.pack("<H", SERIAL_PORT) + b"\xee"  # mov dx, port; out dx, al
        + b"\xeb\xf0"  # jmp again
    )  # fmt: skip


def write_pages(address: int, mib: int) -> bytes:
    """Write al to each page, for ever."""
    return (
        b"\xbf" + struct.pack("<I", address)  # again: mov edi, address
        + b"\xb9" + struct.pack("<I", mib << 8)  # mov ecx, pages
        + b"\x88\x07\x81\xc7\x00\x10\x00\x00"  # next: mov [rdi], al; add edi, 4096
        + b"\xff\xc9\x75\xf4\xeb\xe8"  # dec ecx; jnz next; jmp again
    )  # fmt: skip


SPIN = b"\xf4\xeb\xfd"  # hlt; jmp to the hlt

TRAMPOLINE, COUNTER = 0x6000, 0x6800
# Real mode: lock inc word [COUNTER]; hlt for ever.
AP_CODE = b"\xf0\xff\x06" + struct.pack("<H", COUNTER) + SPIN
APIC_BASE, X2APIC_ICR = 0x1B, 0x830
X2APIC_ENABLE = 1 << 10
INIT_ALL_BUT_SELF, STARTUP_ALL_BUT_SELF = 0xC_4500, 0xC_4600


def _wrmsr(index: int, value: int) -> bytes:
    """mov ecx, index; mov eax, value; xor edx, edx; wrmsr."""
    low = b"\xb9" + struct.pack("<I", index) + b"\xb8" + struct.pack("<I", value)
    return low + b"\x31\xd2\x0f\x30"


def start_others(number: int) -> bytes:
    """Start the other processors, and wait until `number` of them have counted."""
    return (
        b"\x48\xb8" + AP_CODE.ljust(8, b"\xf4")  # mov rax, the code
        + b"\x48\x89\x04\x25" + struct.pack("<I", TRAMPOLINE)  # mov [TRAMPOLINE], rax
        # In x2APIC mode, because the page tables do not reach the APIC's registers.
        + _wrmsr(APIC_BASE, 0xFEE0_0000 | 1 << 8 | 1 << 11 | X2APIC_ENABLE)
        + _wrmsr(X2APIC_ICR, INIT_ALL_BUT_SELF)
        + _wrmsr(X2APIC_ICR, STARTUP_ALL_BUT_SELF | TRAMPOLINE >> 12)
        + b"\x66\x81\x3c\x25" + struct.pack("<IH", COUNTER, number)  # cmp word [COUNTER], number
        + b"\x75\xf4"  # jne to the cmp
    )  # fmt: skip


BRAND = 0x20_0000
SAY_BRAND = b"".join(
    b"\xb8" + struct.pack("<I", leaf) + b"\x0f\xa2"  # mov eax, leaf; cpuid
    + b"\xbe" + struct.pack("<I", BRAND)  # mov esi, BRAND
    + b"\x89\x06\x89\x5e\x04\x89\x4e\x08\x89\x56\x0c"  # mov [rsi...], eax, ebx, ecx, edx
    + b"\xb9\x10\x00\x00\x00\x66\xba\xf8\x03"  # mov ecx, 16; mov dx, 0x3f8
    + b"\xac\xee\xe2\xfc"  # lodsb; out dx, al; loop to the lodsb
    for leaf in (0x8000_0002, 0x8000_0003, 0x8000_0004)
)  # fmt: skip
"""Says the name of the CPU that CPUID has."""

PAYLOADS = Payloads(
    kernel=elf,
    say=say,
    say_forever=say_forever,
    say_slowly=say_slowly,
    wait_for_byte=bytes.fromhex("66bafd03eca80174fb"),  # mov dx,3fd; l: in al,dx; test al,1; jz l
    reset=out(0x64, 0xFE),
    power_off=out(0x600, 5 << 2 | 1 << 5),
    spin=SPIN,
    busy=b"\xeb\xfe",  # jmp to itself
    crash=b"\x0f\x0b",  # ud2 with an empty IDT: a triple fault
    leave_ram=bytes.fromhex("b800000020ffe0"),  # mov eax, 0x20000000; jmp rax
    poke_around=_poke_around(),
    count=count,
    write_pages=write_pages,
    start_others=start_others,
)
