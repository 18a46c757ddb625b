"""Trace events: named, typed, off until asked for.

An event that is off costs a test of one flag, in Python as in native code.  One that is on writes
a line to the log and, where the kernel offers it, to ``trace_marker``.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memset
from posix.unistd cimport write

cdef extern from "time.h" nogil:
    ctypedef long time_t
    struct timespec:
        time_t tv_sec
        long tv_nsec
    struct tm:
        pass
    int clock_gettime(int clock, timespec *now)
    tm *localtime_r(const time_t *when, tm *result)
    size_t strftime(char *text, size_t size, const char *form, const tm *when)
    int CLOCK_REALTIME

KINDS = {"uint": "%llu", "int": "%lld", "hex": "0x%llx", "str": None}
"""Types of arguments; a `str` only comes from Python."""

cdef enum:
    MOST_ARGUMENTS = 6
    LINE = 512

cdef bint has_sinks = False
cdef int log_fd = -1
cdef int marker_fd = -1


def set_sinks(int log, int marker):
    """Send lines to the log's descriptor and trace_marker's, -1 without one, until `clear_sinks`.

    Raises ValueError while there are others.
    """
    global has_sinks, log_fd, marker_fd
    if has_sinks:
        raise ValueError("trace events have their sinks already")
    has_sinks = True
    log_fd, marker_fd = log, marker


def clear_sinks():
    """Drop all lines from now on."""
    global has_sinks, log_fd, marker_fd
    has_sinks = False
    log_fd = marker_fd = -1


cdef class TraceEvent:
    """One event; see the module's text. `arguments` maps names to kinds."""

    def __init__(self, str name, str help, dict arguments):
        if len(arguments) > MOST_ARGUMENTS or any(k not in KINDS for k in arguments.values()):
            raise ValueError(f"trace event {name}: arguments {arguments}")
        self.name = name
        self.help = help
        self.arguments = arguments
        self.enabled = False
        words = [f"{key}={KINDS[kind] or '%s'}" for key, kind in arguments.items()]
        self._format = " ".join([name, *words])
        self._c_format_bytes = self._format.encode()
        self._c_format = self._c_format_bytes

    def __call__(self, *values):
        """Report the event from Python; test `enabled` first where it could be hot."""
        if self.enabled:
            words = [f"{key}=0x{value:x}" if kind == "hex" else f"{key}={value}"
                     for (key, kind), value in zip(self.arguments.items(), values, strict=True)]
            text = " ".join([self.name, *words]).encode(errors="replace")
            _emit(text, len(text))

    cdef void report(self, uint64_t a, uint64_t b, uint64_t c, uint64_t d) noexcept nogil:
        """Report the event from native code; test `enabled` first."""
        cdef char text[LINE]
        cdef int length = snprintf(text, LINE, self._c_format, a, b, c, d)
        if length > 0:
            _emit(text, length if length < LINE else LINE - 1)


cdef void _emit(const char *text, int length) noexcept nogil:
    cdef timespec now
    cdef tm parts
    cdef char line[LINE + 64]
    cdef char stamp[32]
    cdef int total
    clock_gettime(CLOCK_REALTIME, &now)
    memset(&parts, 0, sizeof(parts))
    localtime_r(&now.tv_sec, &parts)
    strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &parts)
    if length >= LINE:
        length = LINE - 1
    total = snprintf(line, sizeof(line), "%s.%03ld trace %.*s\n", stamp, now.tv_nsec // 1000000,
                     length, text)
    if total > 0 and log_fd >= 0:
        # A log that cannot be written (full disk, closed pipe) must not stop a guest.
        write(log_fd, line, total)
    if marker_fd >= 0:
        write(marker_fd, text, length)
