"""What is opened of KVM is closed by its owner, and using it afterwards is an error."""

import _thread
import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stratovirt._native.dispatch import Dispatcher
from stratovirt._native.kvm_vcpu import KICKED
from stratovirt._native.ram_mapping import RamMapping
from stratovirt._native.x86_64_kvm import X8664Kvm, X8664Vcpu, X8664Vm
from stratovirt.accel.base import AccelError
from stratovirt.accel.kvm import x86_64_vcpu
from stratovirt.accel.kvm.x86_64 import X8664Accelerator
from stratovirt.config.command_line import parse_command_line
from stratovirt.cpu.slots import CpuSlots
from stratovirt.cpu.x86_64_boot import RFLAGS_RESERVED
from stratovirt.runtime.faults import access_failed
from stratovirt.runtime.loop import Loop

PAGE, PORT = 0x1000, 0x10
OUT = bytes([0xE6, PORT, 0xEB, 0xFC])
"""out PORT, al; jmp back."""


@pytest.fixture(autouse=True)
def without_collector() -> Iterator[None]:
    """Nothing is closed because Python happens to look for garbage."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def left() -> Counter[str]:
    """Descriptors and mappings of KVM in this process."""
    found: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        link = Path(f"/proc/self/fd/{fd}")
        if link.is_symlink() and "kvm" in (name := os.readlink(link)):
            found[name] += 1
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "kvm" in line and ".so" not in line:
            found[line.split()[-1]] += 1
    return found


def new_accelerator(vcpus: int = 2) -> X8664Accelerator:
    lock = _thread.RLock()
    accelerator = X8664Accelerator(Loop(lock), lock)
    accelerator.interrupt_controller.create()
    config = parse_command_line(["-smp", str(vcpus), "-kernel", "/k"])
    accelerator.create_vcpus(CpuSlots(config, list(range(vcpus))), "vcpu{}")
    return accelerator


def test_a_closed_accelerator_leaves_no_descriptor_and_no_mapping() -> None:
    before = left()
    accelerator = new_accelerator()
    assert left() - before
    accelerator.close()
    accelerator.close()
    assert left() == before


def test_the_twin_of_a_reset_is_gone_when_the_reset_is_done() -> None:
    accelerator = new_accelerator()
    before = left()
    with accelerator._power_on as twin:
        accelerator.reset()
    # It is closed although there is still a reference to it.
    assert left() == before
    assert twin.vcpu(1).fd == -1
    accelerator.vcpus[1].reset()
    accelerator.interrupt_controller.reset()
    assert left() == before
    accelerator.close()


def test_vcpus_that_cannot_all_be_made_leave_none(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = new_accelerator()
    before = left()

    def fail_for_the_last(vcpu: X8664Vcpu) -> None:
        if vcpu.index == 1:
            raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(x86_64_vcpu, "set_common_state", fail_for_the_last)
    with pytest.raises(AccelError, match="cannot take the state: Cannot allocate") as caught:
        accelerator.reset()
    # Closed although the exception's traceback has references to all of them.
    assert left() == before
    assert caught.value.__cause__ is not None
    accelerator.close()


def uses(vcpu: X8664Vcpu, vm: X8664Vm, system: X8664Kvm) -> list[Callable[[], object]]:
    """Calls of everything that could touch what was closed."""
    return [
        vcpu.run, vcpu.kick, vcpu.describe_exit, vcpu.get_regs, vcpu.get_sregs, vcpu.get_lapic,
        lambda: vcpu.set_msrs([]), lambda: vm.set_irq_level(4, True),
        lambda: vm.set_memory_region(0, 0, 0, 0), lambda: vm.set_msi_routes({}), vm.create_pit,
        lambda: X8664Vcpu(vm, 1, Dispatcher(_thread.RLock(), access_failed)),
        lambda: X8664Vm(system), lambda: system.api_version, system.missing_capabilities,
        system.supported_cpuid,
    ]  # fmt: skip


def test_using_what_is_closed_is_an_error_and_closing_it_again_is_none() -> None:
    system = X8664Kvm()
    vm = X8664Vm(system)
    vcpu = X8664Vcpu(vm, 0, Dispatcher(_thread.RLock(), access_failed))
    for _ in range(2):
        for part in (vcpu, vm, system):
            part.close()
    for use in uses(vcpu, vm, system):
        with pytest.raises((OSError, ValueError)):
            use()
    vcpu.note_paused()


def test_a_vcpu_that_runs_is_not_closed() -> None:
    system = X8664Kvm()
    vm = X8664Vm(system)
    dispatcher = Dispatcher(_thread.RLock(), access_failed)
    ram = RamMapping(PAGE)
    memoryview(ram)[: len(OUT)] = OUT
    vm.set_memory_region(0, PAGE, PAGE, ram.address)
    vcpu = X8664Vcpu(vm, 0, dispatcher)
    sregs = vcpu.get_sregs()
    sregs["cs"]["base"] = sregs["cs"]["selector"] = 0
    vcpu.set_sregs(sregs)
    vcpu.set_regs({"rip": PAGE, "rflags": RFLAGS_RESERVED})
    refusals: list[str] = []

    class Closer:
        """A device that would take the vCPU away from under its own access."""

        def read(self, _offset: int, _size: int) -> int:
            return 0

        def write(self, _offset: int, _size: int, _value: int) -> None:
            vcpu.kick()
            try:
                vcpu.close()
            except ValueError as error:
                refusals.append(str(error))

    dispatcher.publish(True, [(PORT, 1, 0, Closer())])
    assert vcpu.run() == KICKED
    assert refusals == ["the vCPU runs"]
    for part in (vcpu, vm, system):
        part.close()
