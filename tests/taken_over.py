"""stratovirt with a hole: the guest's first write to the serial port runs Python of the test.

Only tests start this program.  What runs is what an attacker has who took the process over: code
in the vCPU's thread, with every module at hand.
"""

import ctypes
import os
import sys
from typing import Any

from stratovirt import cli
from stratovirt.devices.uart16550 import Uart16550
from stratovirt.host import broker
from stratovirt.vm import Vm

ATTACK = "STRATOVIRT_TEST_ATTACK"
PATIENCE = "STRATOVIRT_TEST_PATIENCE"
"""Seconds that the broker gives a machine which has taken its leave."""


def main() -> None:
    """Run the machine of the command line and, in it, what the environment has."""
    attack = compile(os.environ[ATTACK], "attack", "exec")
    libc = ctypes.CDLL(None, use_errno=True)
    scope: dict[str, Any] = {"os": os, "ctypes": ctypes, "libc": libc}
    vm_class: Any = Vm
    uart_class: Any = Uart16550
    make, write = Vm.__init__, Uart16550.write

    def note(vm: Vm, *arguments: Any) -> None:
        scope["vm"] = vm
        make(vm, *arguments)

    def run_once(uart: Uart16550, offset: int, size: int, value: int) -> None:
        uart_class.write = write
        exec(attack, scope)
        write(uart, offset, size, value)

    if PATIENCE in os.environ:
        broker.PATIENCE_S = float(os.environ[PATIENCE])
    vm_class.__init__ = note
    uart_class.write = run_once
    sys.exit(cli.run(sys.argv[1:]))


if __name__ == "__main__":
    main()
