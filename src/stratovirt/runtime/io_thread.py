"""A thread that runs native engines, for one device or as an iothread for several."""

from __future__ import annotations

import _thread

from stratovirt._native.io_loop import IoLoop
from stratovirt.runtime.threads import start_thread


class IoThread:
    """A thread that runs a native loop until `close`, without the GIL.

    `name` is its name in ps and /proc.
    """

    def __init__(self, name: str) -> None:
        self.loop = IoLoop()
        self._id = 0
        self._born = _thread.allocate_lock()
        self._born.acquire()
        self._ended = _thread.allocate_lock()
        self._ended.acquire()
        start_thread(name, self._serve)

    @property
    def thread_id(self) -> int:
        """The host thread id."""
        self._born.acquire()
        self._born.release()
        return self._id

    def close(self) -> None:
        """End the thread; its engines must have been detached."""
        self.loop.request_stop()
        self._ended.acquire()
        self._ended.release()
        self.loop.close()

    def _serve(self) -> None:
        self._id = _thread.get_native_id()
        self._born.release()
        try:
            self.loop.run()
        finally:
            self._ended.release()
