"""Many vCPUs: all are there, all run, and the tables list them."""

import _thread
import struct
import threading
from pathlib import Path

import pytest

from stratovirt.accel.kvm.x86_64 import X8664Accelerator
from stratovirt.boot.x86_64_linux import ACPI_TABLES, GENERATION_ID
from stratovirt.runtime.loop import Loop
from tests.machine_process import MachineProcess, QmpClient
from tests.payload import SPIN, say, write_kernel

TRAMPOLINE, COUNTER = 0x6000, 0x6800
# Real mode: lock inc word [COUNTER]; hlt for ever.
AP_CODE = b"\xf0\xff\x06" + struct.pack("<H", COUNTER) + SPIN
APIC_BASE, X2APIC_ICR = 0x1B, 0x830
X2APIC_ENABLE = 1 << 10
INIT_ALL_BUT_SELF, STARTUP_ALL_BUT_SELF = 0xC_4500, 0xC_4600


def wrmsr(index: int, value: int) -> bytes:
    """mov ecx, index; mov eax, value; xor edx, edx; wrmsr."""
    return (
        b"\xb9"
        + struct.pack("<I", index)
        + b"\xb8"
        + struct.pack("<I", value)
        + b"\x31\xd2\x0f\x30"
    )


def start_all_and_wait(count: int) -> bytes:
    """Start the other processors, wait until `count` of them have counted, and say so."""
    return (
        b"\x48\xb8" + AP_CODE.ljust(8, b"\xf4")  # mov rax, the code
        + b"\x48\x89\x04\x25" + struct.pack("<I", TRAMPOLINE)  # mov [TRAMPOLINE], rax
        # In x2APIC mode, because the page tables do not reach the APIC's registers.
        + wrmsr(APIC_BASE, 0xFEE0_0000 | 1 << 8 | 1 << 11 | X2APIC_ENABLE)
        + wrmsr(X2APIC_ICR, INIT_ALL_BUT_SELF)
        + wrmsr(X2APIC_ICR, STARTUP_ALL_BUT_SELF | TRAMPOLINE >> 12)
        + b"\x66\x81\x3c\x25" + struct.pack("<IH", COUNTER, count)  # cmp word [COUNTER], count
        + b"\x75\xf4"  # jne to the cmp
        + say("all here\n") + SPIN
    )  # fmt: skip


@pytest.mark.parametrize("count", [64, 254])
def test_every_vcpu_starts_and_is_listed(tmp_path: Path, count: int) -> None:
    path = tmp_path / "qmp"
    kernel = write_kernel(tmp_path, start_all_and_wait(count - 1))
    with (
        MachineProcess(
            "-machine", "microvm,mem-share=on", "-kernel", str(kernel), "-serial", "stdio",
            "-smp", str(count), "-qmp", f"unix:{path},server,nowait",
        ) as machine,
        QmpClient(path) as qmp,
    ):  # fmt: skip
        machine.expect("all here\n")
        threads = {cpu["thread-id"] for cpu in qmp.cmd("query-cpus-fast")}
        assert len(threads) == count
        assert len(local_apics(read_tables(machine.process.pid))) == count


def read_tables(pid: int) -> bytes:
    """The ACPI area of a machine whose RAM is a memfd."""
    folder = Path(f"/proc/{pid}/fd")
    ram = next(fd for fd in folder.iterdir() if "stratovirt-ram" in str(fd.readlink()))
    with ram.open("rb") as memory:
        memory.seek(ACPI_TABLES)
        return memory.read(GENERATION_ID - ACPI_TABLES)


def local_apics(tables: bytes) -> set[int]:
    """The ids of the enabled processors that the MADT lists (ACPI 6.5, 5.2.12.2)."""
    at = tables.index(b"APIC")
    (length,) = struct.unpack_from("<I", tables, at + 4)
    found: set[int] = set()
    entry = at + 44
    while entry < at + length:
        kind, size = tables[entry], tables[entry + 1]
        if kind == 0 and tables[entry + 4] & 1:
            found.add(tables[entry + 3])
        entry += size
    return found


def test_a_long_access_lets_in_who_waits_for_the_lock() -> None:
    lock = _thread.RLock()
    accelerator = X8664Accelerator(Loop(lock), lock)
    let_in = False

    def want_in() -> None:
        nonlocal let_in
        with lock:
            let_in = True

    with lock:
        another = threading.Thread(target=want_in)
        another.start()
        for _ in range(1000):
            accelerator.let_others_in()
            if let_in:
                break
        assert let_in
    another.join()


BRAND = 0x20_0000
SAY_BRAND = b"".join(
    b"\xb8" + struct.pack("<I", leaf) + b"\x0f\xa2"  # mov eax, leaf; cpuid
    + b"\xbe" + struct.pack("<I", BRAND)  # mov esi, BRAND
    + b"\x89\x06\x89\x5e\x04\x89\x4e\x08\x89\x56\x0c"  # mov [rsi...], eax, ebx, ecx, edx
    + b"\xb9\x10\x00\x00\x00\x66\xba\xf8\x03"  # mov ecx, 16; mov dx, 0x3f8
    + b"\xac\xee\xe2\xfc"  # lodsb; out dx, al; loop to the lodsb
    for leaf in (0x8000_0002, 0x8000_0003, 0x8000_0004)
)  # fmt: skip


def test_a_guest_reads_the_name_of_the_hosts_cpu(tmp_path: Path) -> None:
    words = Path("/proc/cpuinfo").read_text().partition("model name\t: ")[2]
    kernel = write_kernel(tmp_path, say("<") + SAY_BRAND + say(">") + SPIN)
    with MachineProcess("-kernel", str(kernel), "-serial", "stdio") as machine:
        name = machine.expect("<([^>]*)>")[1].rstrip(b"\0").strip().decode()
        assert name and " ".join(name.split()) == " ".join(words.splitlines()[0].split())
