"""stratovirt whose main thread burns the GIL for two seconds at SIGUSR1.

A child of it, its twin, burns the same way at SIGUSR1, with an interpreter of its own: what it
costs the machine is the price of a busy CPU, and anything more is the price of the GIL.
"""

import os
import signal
import sys
import time

BURN_S = 2.0


def burn() -> None:
    """Keep the interpreter busy, and its lock."""
    end = time.monotonic() + BURN_S
    while time.monotonic() < end:
        pass


def be_the_twin(parent: int) -> None:
    """Burn when told to, as long as the machine is there."""
    while os.getppid() == parent:
        if signal.sigtimedwait([signal.SIGUSR1], 1.0):
            burn()
    os._exit(0)


def run_machine() -> None:
    """Be stratovirt, with a signal more."""
    import stratovirt.vm
    from stratovirt import cli

    class BurningVm(stratovirt.vm.Vm):
        def build(self) -> None:
            super().build()
            self.loop.on_signal(signal.SIGUSR1, burn)

    stratovirt.vm.Vm = BurningVm  # type: ignore[misc]
    sys.setswitchinterval(BURN_S)
    sys.argv[0] = "stratovirt"
    cli.main()


signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
machine = os.getpid()
if os.fork() == 0:
    be_the_twin(machine)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
run_machine()
