"""Opens a QMP session with all commands, loaded for the first client."""

from __future__ import annotations

from stratovirt.monitor.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from stratovirt.chardev.backend import Chardev
    from stratovirt.monitor.registry import Command
    from stratovirt.vm import Vm


def open_session(vm: Vm, chardev: Chardev, *, pretty: bool = False) -> Session:
    """Serve the clients of `chardev`; `pretty` replies are indented."""
    return Session(vm, chardev, _load_commands, pretty=pretty)


def _load_commands() -> Mapping[str, Command]:
    from stratovirt.monitor import commands  # noqa: F401
    from stratovirt.monitor.registry import COMMANDS

    return COMMANDS
