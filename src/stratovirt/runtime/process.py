"""The process that machines run in: everything that it has once, whatever machines it runs."""

from __future__ import annotations

from stratovirt.runtime.cleanup import CleanUp
from stratovirt.runtime.signals import StartSignals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt._native.uring import SpareRings
    from stratovirt.runtime.log import Sink
    from stratovirt.runtime.trace import Tracing

STANDARD_STREAMS = frozenset({0, 1, 2})


class Process:
    """Made once by the program, handed to its machines, and closed after them.

    `outputs` are the descriptors of logs and streams, barred from fallocate so that a guest cannot
    erase them.  A second Process may follow a closed one in the same Python process; beside an open
    one it is refused a log and trace events, which modules find without a Process.
    """

    def __init__(self) -> None:
        self.cleanup = CleanUp()
        self.signals = StartSignals()
        self.outputs = set(STANDARD_STREAMS)
        self.may_import_packages = True
        """Whether packages that the command line did not name may still be imported."""
        self._rings: SpareRings | None = None
        self._tracing: Tracing | None = None
        self._has_log = False

    @property
    def rings(self) -> SpareRings:
        """The io_uring rings that no disk uses; loaded with the first disk."""
        if self._rings is None:
            from stratovirt._native.uring import SpareRings

            self._rings = SpareRings()
        return self._rings

    @property
    def tracing(self) -> Tracing:
        """The outputs of trace events; loaded with the first use."""
        if self._tracing is None:
            from stratovirt.runtime.trace import Tracing

            self._tracing = Tracing()
        return self._tracing

    def open_log(self, path: str | None, *, to_stderr: bool) -> Sink:
        """Open the log of all modules; raises as `log.open_sink`."""
        from stratovirt.runtime import log

        sink = log.open_sink(path, to_stderr=to_stderr)
        self._has_log = True
        self.outputs |= log.descriptors()
        return sink

    def close(self) -> None:
        """Clean up, and close outputs and rings; the machines are closed already."""
        self.cleanup.run_all()
        self._rings = None
        if self._tracing is not None:
            self._tracing.close()
            self._tracing = None
        if self._has_log:
            from stratovirt.runtime import log

            log.close_sink()
            self._has_log = False
            self.outputs = set(STANDARD_STREAMS)
