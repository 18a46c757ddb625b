"""What becomes of an exception that nobody expected: one log line that says where it was raised."""

from __future__ import annotations

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
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{text} ({places[-1]})" if places else text


def report_bug(error: Exception) -> None:
    """Say that this program has a fault, and go on."""
    log.error(f"internal error, please report it: {describe(error)}")
