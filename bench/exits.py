"""``make bench-exits``: the cost of one port-write exit, ours beside a bare C loop.

The same real-mode payload, the same /dev/kvm, alternating runs.  Printed are the medians, in ns
an exit, and the ratios ours/C: with a native region and with a Python device.
"""

from __future__ import annotations

import _thread
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stratovirt._native import kvm_vcpu as native
from stratovirt._native.dispatch import Dispatcher
from stratovirt._native.interrupt import InterruptStatus
from stratovirt._native.ram_mapping import RamMapping
from stratovirt._native.x86_64_kvm import X8664Kvm, X8664Vcpu, X8664Vm
from stratovirt.cpu.x86_64_boot import RFLAGS_RESERVED
from stratovirt.runtime.faults import access_failed

COUNT = 100_000
ROUNDS = 9
PORT = 0x10
LOAD_ADDRESS = 0x1000
RAM_BYTES = 1 << 20
PAYLOAD = bytes([0xE6, PORT, 0xEB, 0xFC])  # out PORT, al; jmp back
TARGET_RATIO = 1.15


class StopAfter:
    """A Python device: counts writes and kicks the vCPU out after the last."""

    def __init__(self, vcpu: native.KvmVcpu) -> None:
        self._vcpu = vcpu
        self._left = 0

    def expect(self, count: int) -> None:
        """Kick after `count` writes."""
        self._left = count

    def read(self, _offset: int, _size: int) -> int:
        """Nothing to read."""
        return 0

    def write(self, _offset: int, _size: int, _value: int) -> None:
        """Count."""
        self._left -= 1
        if self._left == 0:
            self._vcpu.kick()


class Machine:
    """The payload under our loop."""

    def __init__(self) -> None:
        self.dispatcher = Dispatcher(_thread.RLock(), access_failed)
        self.ram = RamMapping(RAM_BYTES)
        memoryview(self.ram)[LOAD_ADDRESS : LOAD_ADDRESS + len(PAYLOAD)] = PAYLOAD
        self.vm = X8664Vm(X8664Kvm())
        self.vm.create_irqchip(0xFEF0_C000, 0xFEF0_D000)
        self.vm.set_memory_region(0, 0, RAM_BYTES, self.ram.address)
        self.vcpu = X8664Vcpu(self.vm, 0, self.dispatcher)
        sregs = self.vcpu.get_sregs()
        sregs["cs"]["base"] = sregs["cs"]["selector"] = 0
        self.vcpu.set_sregs(sregs)
        self.vcpu.set_regs({"rip": LOAD_ADDRESS, "rflags": RFLAGS_RESERVED})

    def native_ns(self) -> float:
        """ns an exit with a region that native code answers, as measured from another thread."""
        self.dispatcher.publish(True, [(PORT, 8, 0, InterruptStatus().native_ops())])
        ended = _thread.allocate_lock()
        ended.acquire()

        def run() -> None:
            self.vcpu.run()
            ended.release()

        _thread.start_new_thread(run, ())
        while self.vcpu.exits < COUNT // 10:
            time.sleep(0.001)
        before, start = self.vcpu.exits, time.perf_counter_ns()
        while self.vcpu.exits < before + COUNT:
            time.sleep(0.02)
        done, elapsed = self.vcpu.exits - before, time.perf_counter_ns() - start
        self.vcpu.kick()
        ended.acquire()
        return elapsed / done

    def python_ns(self) -> float:
        """ns an exit with a Python device."""
        device = StopAfter(self.vcpu)
        self.dispatcher.publish(True, [(PORT, 8, 0, device)])
        device.expect(COUNT // 10)
        self.vcpu.run()
        device.expect(COUNT)
        start = time.perf_counter_ns()
        self.vcpu.run()
        return (time.perf_counter_ns() - start) / COUNT


def compile_peer(folder: Path) -> Path:
    """Build the C program."""
    program = folder / "exits"
    subprocess.run(["gcc", "-O2", "-o", program, Path(__file__).with_name("exits.c")], check=True)
    return program


def main() -> int:
    """Measure, print, and say whether the target is met."""
    native.prepare_vcpu_signals()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        payload = folder / "payload"
        payload.write_bytes(PAYLOAD)
        peer = compile_peer(folder)
        bare: list[float] = []
        ours: list[float] = []
        python: list[float] = []
        for number in range(ROUNDS):
            print(f"\rround {number + 1}/{ROUNDS}", end="", file=sys.stderr, flush=True)
            done = subprocess.run([peer, payload, str(COUNT)], capture_output=True, text=True)
            if done.returncode != 0:
                print("\nbench: the C program failed; is /dev/kvm usable?", file=sys.stderr)
                return 1
            bare.append(float(done.stdout))
            machine = Machine()
            ours.append(machine.native_ns())
            python.append(Machine().python_ns())
        print(file=sys.stderr)
    base, native_ns, python_ns = map(statistics.median, (bare, ours, python))
    print(
        f"{platform.processor() or platform.machine()}, {platform.release()}, "
        f"{ROUNDS} alternating rounds of {COUNT} port writes, medians"
    )
    print(f"{'':<24}{'ns/exit':>10}{'ratio':>8}")
    print(f"{'bare C loop':<24}{base:>10.0f}{1:>8.2f}")
    print(
        f"{'native region':<24}{native_ns:>10.0f}{native_ns / base:>8.2f}  (target {TARGET_RATIO})"
    )
    print(f"{'Python device':<24}{python_ns:>10.0f}{python_ns / base:>8.2f}  (for the record)")
    return 0 if native_ns <= TARGET_RATIO * base else 1


if __name__ == "__main__":
    sys.exit(main())
