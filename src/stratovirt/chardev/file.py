"""A chardev that writes output to a file."""

from __future__ import annotations

import os

from stratovirt.chardev.backend import Chardev, ChardevError
from stratovirt.config.chardev import FileChardev
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.runtime.process import Process

log = Log(__name__)


class OutputFile(Chardev):
    """An output file; it has no input."""

    chunk = 1 << 16

    def __init__(self, process: Process, loop: Loop, options: FileChardev) -> None:
        super().__init__(loop, options.id)
        self._outputs = process.outputs
        self.description = f"file:{options.path}"
        start = 0 if options.append else os.O_TRUNC
        # A FIFO is not waited for, neither now nor when it is full.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | start | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self._file = os.open(options.path, flags, 0o600)
        except OSError as error:
            raise ChardevError(
                f"{options.flag},path={options.path}: cannot open: {error.strerror}"
            ) from error
        self._outputs.add(self._file)

    def open(self) -> None:
        """Start to write."""
        self._attach(-1, self._file)
        self.on_connected()

    def _output_failed(self, error: OSError) -> None:
        # The disk is full: this is lost, and what comes when there is room again is written.
        if not self._dropped:
            log.warn(f"chardev {self.label}: output is dropped: {error.strerror}")
        self._dropped = True
        self._drop_output()

    def close(self) -> None:
        """Close the file."""
        super().close()
        self._outputs.discard(self._file)
        os.close(self._file)
