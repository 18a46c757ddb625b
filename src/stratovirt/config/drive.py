"""Block back ends: -drive, for a later -device or as flash memory."""

from __future__ import annotations

from stratovirt.config.errors import ConfigError
from stratovirt.config.keyval import shown, split
from stratovirt.config.kinds import Choice, Identifier, Integer, OnOff, PathName
from stratovirt.config.options import Options, opt

IOPS_HIGHEST = 1_000_000


class Drive(Options, flag="-drive"):
    """A block back end for a later -device."""

    id: str = opt(Identifier(), help="name that the device refers to")
    file: str = opt(PathName(), help="image file or block device on the host")
    readonly: bool = opt(OnOff(), default=False, help="refuse writes")
    direct: bool = opt(OnOff(), default=True, help="bypass the host's page cache (O_DIRECT)")
    throttling_iops_total: int = opt(
        Integer(0, IOPS_HIGHEST),
        default=0,
        key="throttling.iops-total",
        help="requests a second at most; 0 for no limit",
    )
    if_: str = opt(Choice("none"), default="none", key="if", help="none: a -device uses it")
    format: str = opt(Choice("raw"), default="raw", help="image format")


class Pflash(Options, flag="-drive if=pflash"):
    """A flash device for firmware: unit 0 holds its code, unit 1 its variables."""

    file: str = opt(PathName(), help="image file on the host")
    unit: int = opt(Integer(0, 1), help="0: code, 1: variables")
    readonly: bool = opt(OnOff(), default=False, help="refuse writes")
    id: str | None = opt(Identifier(), default=None, help="name of the drive")
    if_: str = opt(Choice("pflash"), default="pflash", key="if", help="pflash")
    format: str = opt(Choice("raw"), default="raw", help="image format")


def parse_drive(text: str) -> Drive | Pflash:
    """Read -drive; ``if`` says which definition it follows."""
    pairs = split("-drive", text)
    interfaces = [value for key, value in pairs if key == "if"]
    if interfaces and interfaces[0] not in ("none", "pflash"):
        raise ConfigError(f"-drive {shown(text)}: if must be none or pflash, not '{interfaces[0]}'")
    definition = Pflash if interfaces and interfaces[0] == "pflash" else Drive
    return definition.from_pairs(pairs, f"-drive {shown(text)}")
