"""Makes the back end for a chardev's options; each kind is imported at its first use."""

from __future__ import annotations

from stratovirt.chardev.backend import Chardev
from stratovirt.config import chardev as config
from stratovirt.runtime.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stratovirt.host.access import HostAccess
    from stratovirt.runtime.process import Process


def make_chardev(
    process: Process,
    loop: Loop,
    options: config.Chardev,
    access: HostAccess,
    quit_requested: Callable[[], None],
    source: str = "",
) -> Chardev:
    """The back end for `options`; `source` is the option that errors name.

    `open` starts it once a user is attached.  Raises ChardevError.
    """
    if isinstance(options, config.StdioChardev):
        from stratovirt.chardev.stdio import Stdio

        return Stdio(process, loop, options.id, quit_requested)
    if isinstance(options, config.FileChardev):
        from stratovirt.chardev.file import OutputFile

        return OutputFile(process, loop, options)
    if isinstance(options, config.PtyChardev):
        from stratovirt.chardev.pty import Pty

        return Pty(loop, options)
    from stratovirt.chardev.socket import SocketBackend

    source = source or f"{options.flag},id={options.id}"
    return SocketBackend(process, loop, options, access, source)
