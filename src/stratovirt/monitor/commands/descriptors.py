"""File descriptors that clients pass (SCM_RIGHTS)."""

from __future__ import annotations

import os

from stratovirt.config.kinds import Text
from stratovirt.config.options import Options, opt
from stratovirt.monitor.registry import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.monitor.session import Session


class FdArguments(Options):
    """Arguments that name a descriptor."""

    fdname: str = opt(Text("a name", 255), help="name of the descriptor")


@command("getfd", FdArguments)
def getfd(session: Session, arguments: FdArguments) -> object:
    """Name the file descriptor that came with this request."""
    session.name_descriptor(arguments.fdname)
    return {}


@command("closefd", FdArguments)
def closefd(session: Session, arguments: FdArguments) -> object:
    """Close a named file descriptor."""
    os.close(*session.take_descriptors([arguments.fdname]))
    return {}
