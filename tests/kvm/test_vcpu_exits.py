"""Exits that end a vCPU's run: each has a name, and the machine does what the name says."""

from pathlib import Path
from typing import Any

import pytest

from stratovirt._native import kvm_vcpu as native
from stratovirt.accel.kvm.vcpu import GuestCpu
from stratovirt.accel.vcpu import VcpuExit
from stratovirt.config.command_line import parse_command_line
from stratovirt.runtime.process import Process
from stratovirt.snapshot.state import NoState
from stratovirt.vm import Vm
from tests.payload import SPIN, write_kernel


class Recorder:
    """A monitor that keeps the events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object] | None]] = []

    def send_event(self, name: str, content: dict[str, object] | None = None) -> None:
        self.events.append((name, content))

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [
        (VcpuExit.POWER_OFF, 0, "guest-shutdown"),
        (VcpuExit.RESET, 0, "guest-reset"),
        (VcpuExit.SHUTDOWN, 0, "guest-reset"),
        (VcpuExit.CRASH, 1, "host-error"),
        (VcpuExit.INTERNAL_ERROR, 1, "host-error"),
        (VcpuExit.DISCONNECTED, 0, "host-signal"),
    ],
)
def test_the_machine_does_what_an_exit_is_named_for(
    tmp_path: Path, kind: str, status: int, reason: str
) -> None:
    kernel = write_kernel(tmp_path, SPIN)
    config = parse_command_line(["-disable-seccomp", "-machine", "microvm", "-kernel", str(kernel)])
    process = Process()
    heard = Recorder()
    vm = Vm(process, config, lambda *_: heard)
    try:
        vm.build()
        vm.open()
        vm.start()
        vm.send_event = heard.send_event  # type: ignore[method-assign]
        accelerator = vm.machine.accelerator
        assert accelerator is not None
        vm.loop.call_soon(lambda: accelerator.exited(VcpuExit(kind, "vCPU 0: it has happened")))
        assert vm.run() == status
    finally:
        vm.close()
        process.cleanup.run_all()
    (shutdown,) = [content for name, content in heard.events if name == "SHUTDOWN"]
    assert shutdown == {"guest": reason.startswith("guest"), "reason": reason}


class FakeNative:
    """A vCPU of KVM that leaves its loop with one outcome."""

    index = 3

    def __init__(self, outcome: int) -> None:
        self._outcome = outcome

    def run(self) -> int:
        return self._outcome

    def describe_exit(self) -> str:
        return "the exit"


class Cpu(GuestCpu):
    """A vCPU of no architecture."""

    state_type = NoState

    def save(self) -> NoState:
        return NoState()

    def restore(self, state: NoState) -> None:
        pass

    def reset(self) -> None:
        pass

    def set_entry(self, entry: object) -> None:
        pass

    def describe_registers(self) -> str:
        return "pc=1"


@pytest.mark.parametrize(
    ("outcome", "kind", "text"),
    [
        (native.KICKED, VcpuExit.KICKED, ""),
        (native.RESET, VcpuExit.RESET, "vCPU 3: the exit; pc=1"),
        (native.POWER_OFF, VcpuExit.POWER_OFF, "vCPU 3: the exit; pc=1"),
        (native.CRASH, VcpuExit.CRASH, "vCPU 3: the exit; pc=1"),
        (native.SYSTEM_EVENT, VcpuExit.UNEXPECTED, "vCPU 3: the exit; pc=1"),
        (native.UNHANDLED, VcpuExit.UNEXPECTED, "vCPU 3: the exit; pc=1"),
        (native.RUN_FAILED, VcpuExit.RUN_FAILED, "vCPU 3: KVM_RUN failed"),
    ],
)
def test_what_native_code_leaves_is_a_value_with_a_name(outcome: int, kind: str, text: str) -> None:
    fake: Any = FakeNative(outcome)
    end = Cpu(fake).run()
    assert (end.kind, end.text) == (kind, text)
