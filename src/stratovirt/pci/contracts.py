"""What a PCI function needs of its bus, and a bus of the host bridge; for type checkers only."""

from __future__ import annotations

from typing import Protocol

from stratovirt.memory.address_space import AddressSpace, IoRegion


class Occupant(Protocol):
    """A function that has a place."""

    bus: Bus | None
    devfn: int


class Bus(Protocol):
    """Where a function is."""

    host: Host

    @property
    def number(self) -> int:
        """What configuration cycles for this bus carry."""

    def gsi(self, devfn: int, pin: int) -> int:
        """The GSI that interrupt pin `pin` (1 is INTA) of a function reaches."""

    def detach(self, devfn: int) -> None:
        """Take a function off the bus."""


class Host(Protocol):
    """The root of the hierarchy."""

    memory: AddressSpace
    ports: AddressSpace
    first_gsi: int

    def next_priority(self) -> int:
        """A priority that no other region has: what was placed first answers first."""

    def set_intx(self, function: Occupant, pin: int, level: bool) -> None:
        """Drive an interrupt pin of a function."""


class MessageTable(Protocol):
    """MSI-X of a function."""

    @property
    def is_enabled(self) -> bool:
        """Whether the function speaks through MSI-X and not through its pin."""

    def table_region(self) -> IoRegion:
        """The registers of the table."""

    def config_written(self) -> None:
        """The guest may have changed the control register."""

    def detach(self, fd: int) -> None:
        """Let the eventfd speak through no vector."""

    def reset(self) -> None:
        """All vectors masked and without a message, as after power-on."""
