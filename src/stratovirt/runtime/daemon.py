"""-daemonize: detaches the process; the caller returns when the machine runs or has failed."""

from __future__ import annotations

import os
import signal

from stratovirt.runtime.signals import SignalledError, held

NUMBER_BYTES = 4
"""Length of the daemon's first message, its process id."""
RUNS = b"\0"
"""The daemon's message when the machine runs; any other is the text of an error."""
ERROR_LONGEST = 65536


class Daemon:
    """The detached side. `report_running` or `report_error` releases the caller, once."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        # Opened now, since a locked-down machine opens no files.
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def leave_streams(self) -> None:
        """Replace the caller's standard streams by /dev/null."""
        for stream in (0, 1, 2):
            os.dup2(self._null, stream)
        os.close(self._null)

    def report_running(self) -> None:
        """Report that the machine runs, on which the caller exits."""
        self._report(RUNS)

    def report_error(self, text: str) -> None:
        """Report that the machine could not be started."""
        self._report(text.encode(errors="replace")[:ERROR_LONGEST])

    def _report(self, content: bytes) -> None:
        if self._pipe >= 0:
            os.write(self._pipe, content)
            os.close(self._pipe)
            self._pipe = -1


def detach() -> Daemon | str | None:
    """Fork the daemon off.

    In the daemon this returns a Daemon; in the caller, once the daemon has reported, None when
    the machine runs or else the text of the error.  Call it before there are threads or files.
    """
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(theirs)
        return _await_report(ours)
    os.close(ours)
    # A session of its own, and, by the second fork, no way to get a terminal again.
    os.setsid()
    if os.fork():
        os._exit(0)
    os.write(theirs, os.getpid().to_bytes(NUMBER_BYTES, "little"))
    return Daemon(theirs)


def _await_report(pipe: int) -> str | None:
    daemon = 0
    try:
        with held():
            daemon = int.from_bytes(os.read(pipe, NUMBER_BYTES), "little")
        report = _read_all(pipe)
    except SignalledError:
        # A signal to the caller ends the machine too; the caller waits for its end.
        if daemon:
            os.kill(daemon, signal.SIGTERM)
        report = _read_all(pipe)
    os.close(pipe)
    if report == RUNS:
        return None
    return report.decode(errors="replace") or "-daemonize: the daemon died before the machine ran"


def _read_all(pipe: int) -> bytes:
    content = b""
    while len(content) < ERROR_LONGEST and (part := os.read(pipe, ERROR_LONGEST)):
        content += part
    return content
