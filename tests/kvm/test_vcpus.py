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
from tests.payload import PAYLOADS, SPIN, say, write_kernel
from tests.payloads.x86_64 import SAY_BRAND


@pytest.mark.parametrize("count", [64, 254])
def test_every_vcpu_starts_and_is_listed(tmp_path: Path, count: int) -> None:
    path = tmp_path / "qmp"
    kernel = write_kernel(tmp_path, PAYLOADS.start_others(count - 1) + say("all here\n") + SPIN)
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


def test_a_guest_reads_the_name_of_the_hosts_cpu(tmp_path: Path) -> None:
    words = Path("/proc/cpuinfo").read_text().partition("model name\t: ")[2]
    kernel = write_kernel(tmp_path, say("<") + SAY_BRAND + say(">") + SPIN)
    with MachineProcess("-kernel", str(kernel), "-serial", "stdio") as machine:
        name = machine.expect("<([^>]*)>")[1].rstrip(b"\0").strip().decode()
        assert name and " ".join(name.split()) == " ".join(words.splitlines()[0].split())
