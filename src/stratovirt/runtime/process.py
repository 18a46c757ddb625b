"""The process that machines run in: everything that it has once, whatever machines it runs."""

from __future__ import annotations

from stratovirt.runtime.cleanup import CleanUp
from stratovirt.runtime.signals import StartSignals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt._native.uring import SpareRings


class Process:
    """Made once by the program and handed to its machines.

    `outputs` are the descriptors of logs and streams, barred from fallocate so that a guest cannot
    erase them.
    """

    def __init__(self) -> None:
        self.cleanup = CleanUp()
        self.signals = StartSignals()
        self.outputs = {0, 1, 2}
        self._rings: SpareRings | None = None

    @property
    def rings(self) -> SpareRings:
        """The io_uring rings that no disk uses; loaded with the first disk."""
        if self._rings is None:
            from stratovirt._native.uring import SpareRings

            self._rings = SpareRings()
        return self._rings

    def open_log(self, path: str | None, *, to_stderr: bool) -> None:
        """Configure the log of all modules; raises OSError and ValueError as log.configure."""
        from stratovirt.runtime import log

        log.configure(path, to_stderr=to_stderr)
        self.outputs |= log.descriptors()
