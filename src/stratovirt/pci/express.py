"""The PCI Express capability (PCI Express Base 4.0, section 7.5.3)."""

from __future__ import annotations

import struct

from stratovirt.pci import config_space as regs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.pci.function import PciFunction

VERSION = 2
ENDPOINT, ROOT_PORT, INTEGRATED_ENDPOINT = 0x0, 0x4, 0x9
SLOT_IMPLEMENTED = 1 << 8

DEVICE_CAPABILITIES, DEVICE_CONTROL, DEVICE_STATUS = 0x04, 0x08, 0x0A
LINK_CAPABILITIES, LINK_CONTROL, LINK_STATUS = 0x0C, 0x10, 0x12
SLOT_CAPABILITIES, SLOT_CONTROL, SLOT_STATUS = 0x14, 0x18, 0x1A
ROOT_CONTROL, ROOT_STATUS = 0x1C, 0x20
DEVICE_CONTROL_2, LINK_CONTROL_2 = 0x28, 0x30
CAPABILITY_BYTES = 0x3C

ROLE_BASED_ERRORS = 1 << 15
LINK_SPEED_2_5, LINK_WIDTH_1 = 1, 1 << 4
DLL_ACTIVE_REPORTING = 1 << 20
LINK_ACTIVE = 1 << 13


def add_express(function: PciFunction, kind: int, *, port: int = 0) -> int:
    """Append the capability for a function of this kind; returns its offset."""
    is_port = kind == ROOT_PORT
    flags = VERSION | kind << 4 | (SLOT_IMPLEMENTED if is_port else 0)
    link = 0
    if kind != INTEGRATED_ENDPOINT:
        link = LINK_SPEED_2_5 | LINK_WIDTH_1 | port << 24
        link |= DLL_ACTIVE_REPORTING if is_port else 0
    body = bytearray(CAPABILITY_BYTES - 2)
    struct.pack_into("<HI", body, 0, flags, ROLE_BASED_ERRORS)
    struct.pack_into("<I", body, LINK_CAPABILITIES - 2, link)
    config = function.config
    offset = config.add_capability(regs.CAP_EXPRESS, bytes(body))
    if link:
        config.set(offset + LINK_STATUS, 2, LINK_SPEED_2_5 | LINK_WIDTH_1)
        config.set(offset + LINK_CONTROL_2, 2, LINK_SPEED_2_5)
        config.allow(offset + LINK_CONTROL, 2, 0x00C3)
    config.allow(offset + DEVICE_CONTROL, 2, 0x7FFF)
    config.allow_clearing(offset + DEVICE_STATUS, 2, 0x000F)
    return offset
