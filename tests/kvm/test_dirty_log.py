"""KVM's log of written pages: what a guest writes is in it, and nothing else."""

import _thread
import struct
from pathlib import Path
from typing import Any

import pytest

from stratovirt._native.guest_memory import GuestMemory
from stratovirt._native.kvm import KvmVm
from stratovirt._native.kvm_vcpu import HALTED
from stratovirt._native.ram_mapping import RamMapping
from stratovirt._native.x86_64_kvm import X8664Vcpu
from stratovirt.accel.kvm.x86_64 import X8664Accelerator
from stratovirt.cpu.x86_64_boot import RFLAGS_RESERVED
from stratovirt.memory.address_space import AddressSpace, RamRegion
from stratovirt.memory.dirty_log import DirtyLog
from stratovirt.runtime.loop import Loop
from tests.machine_process import NO_FILTER, MachineProcess, QmpClient, wait_until
from tests.payload import PAYLOADS, say, write_kernel

PAGE = 4096
CODE, LOW_SIZE = 0x1000, 200 * PAGE
# Neither block begins or ends at a word of KVM's or of the log's bitmap.
HIGH, HIGH_SIZE = (1 << 30) + 5 * PAGE, 70 * PAGE
HLT = b"\xf4"


class Machine:
    """One real-mode vCPU with RAM in two memslots; DS is the low block, ES the high one."""

    def __init__(self) -> None:
        lock = _thread.RLock()
        self.accelerator = X8664Accelerator(Loop(lock), lock)
        self.memory = GuestMemory()
        self.space = AddressSpace("memory", 1 << 52)
        self.accelerator.connect(self.memory, self.space, AddressSpace("port", 1 << 16))
        self.ram = RamMapping(LOW_SIZE + HIGH_SIZE)
        self.regions = []
        for gpa, size, offset in ((0, LOW_SIZE, 0), (HIGH, HIGH_SIZE, LOW_SIZE)):
            self.memory.add(gpa, self.ram, offset, size)
            self.regions.append(RamRegion(f"ram@{gpa:x}", size, self.ram, offset))
            self.space.add(gpa, self.regions[-1])
        self.space.commit()
        self.log = DirtyLog(self.memory)
        self.vcpu = X8664Vcpu(self.accelerator.vm, 0, self.accelerator.dispatcher)
        sregs = self.vcpu.get_sregs()
        for name, base in (("cs", 0), ("ds", 0), ("es", HIGH)):
            sregs[name].update(base=base, selector=0, limit=0xFFFF_FFFF)
        self.vcpu.set_sregs(sregs)

    def run(self, *writes: int) -> None:
        """Have the guest store a byte at each address."""
        code = b"".join(self._store(gpa) for gpa in writes) + HLT
        # As the host writes it, which is not logged by KVM but would be by guest memory.
        memoryview(self.ram)[CODE : CODE + len(code)] = code
        self.vcpu.set_regs({"rip": CODE, "rflags": RFLAGS_RESERVED})
        assert self.vcpu.run() == HALTED

    @staticmethod
    def _store(gpa: int) -> bytes:
        """mov byte [ds or es: 32-bit offset], 0x5a."""
        is_high = gpa >= HIGH
        offset = gpa - HIGH if is_high else gpa
        return (b"\x26" if is_high else b"") + b"\x67\xc6\x05" + struct.pack("<IB", offset, 0x5A)

    def written(self) -> list[int]:
        return [page for block in self.log.collect() for page in block]


class WithoutClear:
    """A KVM of before 2019, in which reading the log clears it."""

    def __init__(self, vm: KvmVm) -> None:
        self._vm = vm

    def enable_log_clearing(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vm, name)


@pytest.fixture(params=["clearing", "reading clears"])
def machine(request: pytest.FixtureRequest) -> Machine:
    made = Machine()
    if request.param == "clearing":
        assert made.accelerator.vm.enable_log_clearing(), "kernels since 2019 have it"
    else:
        made.accelerator._memslots._vm = WithoutClear(made.accelerator.vm)  # type: ignore[assignment]
    return made


def test_the_log_is_the_pages_that_the_guest_writes(machine: Machine) -> None:
    low = [0x5000, 0x5FFF, 63 * PAGE, 64 * PAGE + 7, 199 * PAGE + 4095]
    high = [HIGH, HIGH + 58 * PAGE, HIGH + 59 * PAGE, HIGH + 69 * PAGE + 4095]
    machine.run(0x9000)
    machine.log.start()
    assert machine.written() == [], "what was written before is not logged"
    for _ in range(2):
        machine.run(*low, *high)
        assert machine.memory.read(low[-1], 1) + machine.memory.read(high[-1], 1) == b"ZZ"
        assert machine.written() == [
            0x5000, 63 * PAGE, 64 * PAGE, 199 * PAGE,
            HIGH, HIGH + 58 * PAGE, HIGH + 59 * PAGE, HIGH + 69 * PAGE,
        ]  # fmt: skip
        assert machine.written() == []


def test_guest_and_host_share_one_log(machine: Machine) -> None:
    machine.log.start()
    machine.run(0x5000)
    machine.memory.write(0x7FFF, b"xx")
    assert machine.written() == [0x5000, 0x7000, 0x8000]


def test_a_log_that_is_stopped_forgets_and_starts_anew(machine: Machine) -> None:
    machine.log.start()
    machine.run(0x5000)
    machine.log.stop()
    machine.run(0x6000)
    machine.log.start()
    assert machine.written() == []
    machine.run(0x7000)
    assert machine.written() == [0x7000]


def test_memory_that_leaves_the_map_keeps_its_pages_and_comes_back_logged(
    machine: Machine,
) -> None:
    region = machine.regions[1]
    machine.log.start()
    machine.run(HIGH + PAGE, 0x5000)
    machine.space.remove(region)
    machine.space.commit()
    machine.space.add(HIGH, region)
    machine.space.commit()
    machine.run(HIGH + 2 * PAGE)
    assert machine.written() == [0x5000, HIGH + PAGE, HIGH + 2 * PAGE]


def test_memory_that_is_no_guest_ram_is_left_alone(machine: Machine) -> None:
    other = RamMapping(16 * PAGE)
    machine.space.add(1 << 33, RamRegion("a card's memory", 16 * PAGE, other, 0))
    machine.space.commit()
    machine.log.start()
    machine.run(0x5000)
    assert machine.written() == [0x5000]


WRITTEN_MIB = 16
WRITER = PAYLOADS.write_pages(32 << 20, WRITTEN_MIB)


@pytest.mark.parametrize("filtered", [True, False])
def test_the_dirty_rate_of_a_guest_is_measured_under_the_filter(
    tmp_path: Path, filtered: bool
) -> None:
    kernel = write_kernel(tmp_path, say("on") + WRITER)
    argv = ["-kernel", str(kernel), "-serial", "stdio", *([] if filtered else [NO_FILTER])]
    with (
        MachineProcess(*argv, "-qmp", f"unix:{tmp_path}/qmp,server,nowait") as machine,
        QmpClient(tmp_path / "qmp") as client,
    ):
        machine.expect("on")
        for _ in range(2):
            client.cmd("calc-dirty-rate", **{"calc-time": 1, "mode": "dirty-bitmap"})

            def is_measured() -> bool:
                return bool(client.cmd("query-dirty-rate")["status"] == "measured")

            wait_until(is_measured, "it is measured")
            assert client.cmd("query-dirty-rate")["dirty-rate"] == WRITTEN_MIB
        assert machine.terminate() == 0
