"""Keeps one idle virtual machine in the lab for as long as the lab lives.

The first machine of a host switches static keys of its kernel on and the last switches them off:
KVM patches the scheduler's code while other CPUs run it.  QEMU's TCG, with a thread for each CPU,
now and then goes on executing the breakpoint that stands there for the moment of patching, and
the CPU never leaves it.  With a machine that is always there nothing is patched.
"""

import _thread
import signal

from stratovirt._native.dispatch import Dispatcher
from stratovirt._native.x86_64_kvm import X8664Kvm, X8664Vcpu, X8664Vm
from stratovirt.runtime.faults import access_failed

IDENTITY_MAP, TSS = 0xFEF0_C000, 0xFEF0_D000


def main() -> None:
    """Create the machine and sleep."""
    machine = X8664Vm(X8664Kvm())
    machine.create_irqchip(IDENTITY_MAP, TSS)
    # A vCPU whose local APIC is software disabled, as after power-on, holds the keys of APICs.
    vcpu = X8664Vcpu(machine, 0, Dispatcher(_thread.RLock(), access_failed))
    signal.pause()
    del vcpu


if __name__ == "__main__":
    main()
