"""What becomes of an exception that nobody expected: one log line that says where it was raised."""

from __future__ import annotations

from stratovirt.errors import StratovirtError, one_line
from stratovirt.runtime.log import Log

log = Log(__name__)


def describe(error: BaseException) -> str:
    """The error, and the place that raised it, in one line.

    Without the traceback module: it opens the source files, which a running machine cannot.
    """
    places = []
    frame = error.__traceback__
    while frame is not None:
        name = frame.tb_frame.f_code.co_filename.rpartition("/")[2]
        places.append(f"{name}:{frame.tb_lineno}")
        frame = frame.tb_next
    log.debug(" > ".join(places))
    text = one_line(f"{type(error).__name__}: {error}")
    return f"{text} ({places[-1]})" if places else text


def reason(error: Exception) -> str:
    """What to tell the user of an error: the host's words, ours, or that it is a fault of ours."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, StratovirtError):
        return str(error)
    return f"internal error, please report it: {describe(error)}"


def access_failed(handler: object, error: Exception) -> None:
    """An access of the guest's failed: `handler` says what becomes of it, if it has a say."""
    getattr(handler, "failed", report_bug)(error)


def report_bug(error: Exception) -> None:
    """Say that this program has a fault, and go on."""
    log.error(f"internal error, please report it: {describe(error)}")
