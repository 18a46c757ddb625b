"""Interfaces of bus, host bridge and MSI-X table to a PCI function; for type checkers only."""

from __future__ import annotations

from typing import Protocol

from stratovirt.memory.address_space import AddressSpace, IoRegion
from stratovirt.pci.state import MessageState


class Occupant(Protocol):
    """A function with a bus and a devfn."""

    bus: Bus | None
    devfn: int


class Bus(Protocol):
    """The bus of a function."""

    name: str
    host: Host

    @property
    def number(self) -> int:
        """The bus number in configuration cycles."""

    def gsi(self, devfn: int, pin: int) -> int:
        """The GSI that interrupt pin `pin` (1 is INTA) of a function reaches."""

    def detach(self, devfn: int) -> None:
        """Detach a function from the bus."""


class Host(Protocol):
    """The root of the hierarchy."""

    memory: AddressSpace
    ports: AddressSpace
    first_gsi: int

    def next_priority(self) -> int:
        """A new lowest priority: of overlapping regions the one placed first answers."""

    def set_intx(self, function: Occupant, pin: int, level: bool) -> None:
        """Drive an interrupt pin of a function."""


class MessageTable(Protocol):
    """MSI-X of a function."""

    @property
    def is_enabled(self) -> bool:
        """Whether the function interrupts by MSI-X and not by its pin."""

    def table_region(self) -> IoRegion:
        """The registers of the table."""

    def config_written(self) -> None:
        """The guest may have changed the control register."""

    def requester_changed(self) -> None:
        """Messages carry another requester id from now on."""

    def detach(self, fd: int) -> None:
        """Detach the eventfd from its vector."""

    def save(self) -> list[MessageState]:
        """The messages of all vectors."""

    def check(self, messages: list[MessageState]) -> None:
        """Raise SnapshotError unless there are as many as this table has vectors."""

    def restore(self, messages: list[MessageState]) -> None:
        """Set the messages, and obey the control register, which was restored before."""

    def reset(self) -> None:
        """All vectors masked and without a message, as after power-on."""
