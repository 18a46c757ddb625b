"""stratovirt whose main thread burns the GIL for two seconds at SIGUSR1."""

import signal
import sys
import time

import stratovirt.vm
from stratovirt import cli

BURN_S = 2.0


def burn() -> None:
    """Keep the interpreter busy, and its lock."""
    end = time.monotonic() + BURN_S
    while time.monotonic() < end:
        pass


class BurningVm(stratovirt.vm.Vm):
    """A machine that can be told to burn."""

    def build(self) -> None:
        """As usual, with a signal more."""
        super().build()
        self.loop.on_signal(signal.SIGUSR1, burn)


stratovirt.vm.Vm = BurningVm  # type: ignore[misc]
sys.setswitchinterval(BURN_S)
sys.argv[0] = "stratovirt"
cli.main()
