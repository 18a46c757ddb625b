"""A native engine and the thread that drives it."""

from __future__ import annotations

from stratovirt.runtime.io_thread import IoThread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt._native.io_loop import Engine


class EngineThread:
    """Runs `engine` from now until `stop`, in `iothread` or in a thread of its own, `name`."""

    def __init__(self, engine: Engine, iothread: IoThread | None, name: str) -> None:
        self._engine = engine
        self._own = IoThread(name) if iothread is None else None
        thread = iothread or self._own
        assert thread is not None
        try:
            engine.attach(thread.loop)
        except OSError:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the engine; when this returns no request is in flight."""
        self._engine.detach()
        if self._own is not None:
            self._own.close()
            self._own = None
