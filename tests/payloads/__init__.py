"""Machine code for tiny guests: what the tests have of it on every architecture.

The code itself is in modules named after the architecture; `tests.payload` has the table of them
and gives the parts of the host's one their names.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Payloads:
    """One architecture's; what is bytes may be put behind other bytes."""

    kernel: Callable[[bytes], bytes]
    """Makes a file for -kernel that starts with the code."""
    say: Callable[[str], bytes]
    """Writes a text to the serial port."""
    say_forever: Callable[[str], bytes]
    """Writes one letter again and again."""
    say_slowly: Callable[[str], bytes]
    """Writes a text again and again, with a while between."""
    wait_for_byte: bytes
    """Goes on when the serial port has received a byte, which stays there."""
    reset: bytes
    power_off: bytes
    spin: bytes
    """Sleeps for ever."""
    busy: bytes
    """Loops for ever."""
    crash: bytes
    """What no guest goes on after, and KVM reports as the guest's own fault."""
    leave_ram: bytes
    """Jumps to an address without RAM, 0x20000000, which KVM cannot run."""
    poke_around: bytes
    """Writes to registers of many devices and to an address of none."""
    count: Callable[[int], bytes]
    """Counts in memory at an address, and says the low four bits as a letter, for ever."""
    write_pages: Callable[[int, int], bytes]
    """Writes a byte to each page of some MiB of memory from an address on, for ever."""
    start_others: Callable[[int], bytes]
    """Starts the other vCPUs, and goes on when so many of them have run."""
