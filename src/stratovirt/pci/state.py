"""State of PCI functions: configuration space with BARs, and the MSI-X table."""

from __future__ import annotations

from stratovirt.config.devices import VECTORS_MOST
from stratovirt.config.options import opt
from stratovirt.pci.config_space import BYTES
from stratovirt.snapshot.state import FLAG, U8, U32, U64, Bytes, Each, Line, State, Struct


class MessageState(State):
    """One vector of the MSI-X table as the guest has written it."""

    address: int = opt(U64)
    data: int = opt(U32)
    masked: bool = opt(FLAG)


class FunctionState(State):
    """Place and registers of a function; the BARs are in its configuration space."""

    bus: str = opt(Line(), help="name of the bus: pcie.0 or a root port's id")
    devfn: int = opt(U8)
    config: bytes = opt(Bytes(BYTES), help="without zeros at the end")
    messages: list[MessageState] = opt(Each(Struct(MessageState), VECTORS_MOST))


class RootPortState(FunctionState):
    """A root port: its slot's registers are in configuration space."""

    is_unplugging: bool = opt(FLAG, help="the guest was asked to release the device")
    is_signalled: bool = opt(FLAG, help="an event that has not interrupted the guest yet")
