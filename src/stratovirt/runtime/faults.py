"""Reports of unexpected exceptions: one log line with the place that raised them."""

from __future__ import annotations

from stratovirt.errors import StratovirtError, one_line
from stratovirt.runtime.log import Log

log = Log(__name__)


def describe(error: BaseException) -> str:
    """The error, and the place that raised it, in one line.

    The traceback module is not used: it opens source files, which a locked-down machine cannot.
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
    """Text of an error for the user: from the host, from StratovirtError, or a bug report."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, StratovirtError):
        return str(error)
    return f"internal error, please report it: {describe(error)}"


def access_failed(handler: object, error: Exception) -> None:
    """Handle an exception in a guest access: by `handler.failed` if there is one, else as a bug."""
    getattr(handler, "failed", report_bug)(error)


def report_bug(error: Exception) -> None:
    """Log an exception as a bug of this program; the caller goes on."""
    log.error(f"internal error, please report it: {describe(error)}")
