"""The board's clock for native engines: the host's monotonic one, or one that is moved by hand."""

from libc.stdint cimport uint64_t

import os

from stratovirt._native.atomics cimport load64, store64
from stratovirt._native.kernel cimport failed

cdef extern from "time.h" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    struct itimerspec:
        timespec it_interval
        timespec it_value
    int clock_gettime(int clock, timespec *now)
    int CLOCK_MONOTONIC

cdef extern from "sys/timerfd.h" nogil:
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec *new_value, itimerspec *old_value)
    int TFD_CLOEXEC, TFD_NONBLOCK, TFD_TIMER_ABSTIME

cdef enum:
    NS_PER_SECOND = 1000000000


cdef class BoardTime:
    """An engine reads it without the GIL and sleeps on an alarm, a descriptor to watch for edges."""

    def __cinit__(self, *, bint by_hand=False):
        self._is_moved_by_hand = by_hand
        self._alarms = []

    def new_alarm(self):
        """A descriptor that becomes readable at the time of `set_alarm`."""
        cdef int fd
        if self._is_moved_by_hand:
            fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._alarms.append(fd)
            return fd
        fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)
        if fd < 0:
            raise failed("timerfd_create")
        return fd

    def forget_alarm(self, int fd):
        """Close the descriptor; nobody watches it any more."""
        if fd in self._alarms:
            self._alarms.remove(fd)
        os.close(fd)

    def move_to(self, uint64_t now_ns):
        """Set the time of a clock moved by hand."""
        store64(&self._now_ns, now_ns)
        # Each engine looks for itself whether its time has come: it may be about to set its
        # alarm by the time before this one.
        for fd in self._alarms:
            os.eventfd_write(fd, 1)

    cdef uint64_t now_ns(self) noexcept nogil:
        """Nanoseconds since some fixed point."""
        cdef timespec time
        if self._is_moved_by_hand:
            return load64(&self._now_ns)
        clock_gettime(CLOCK_MONOTONIC, &time)
        return <uint64_t>time.tv_sec * NS_PER_SECOND + <uint64_t>time.tv_nsec

    cdef void set_alarm(self, int fd, uint64_t at_ns) noexcept nogil:
        """Make `fd` readable at `at_ns`; a clock moved by hand does so at each move."""
        cdef itimerspec alarm
        if self._is_moved_by_hand:
            return
        alarm.it_interval.tv_sec = alarm.it_interval.tv_nsec = 0
        alarm.it_value.tv_sec = <long>(at_ns // NS_PER_SECOND)
        alarm.it_value.tv_nsec = <long>(at_ns % NS_PER_SECOND)
        timerfd_settime(fd, TFD_TIMER_ABSTIME, &alarm, NULL)
