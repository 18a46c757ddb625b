"""A limit of so many a second, exact over time."""

from libc.errno cimport errno
from libc.stdint cimport uint64_t
from posix.unistd cimport close

import os

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
    BURSTS_PER_SECOND = 10  # one may run ahead by this part of a second's worth


cdef class Pace:
    """`per_second` at most; `fd` becomes readable when one that was held may go."""

    def __cinit__(self, uint64_t per_second):
        self.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)
        if self.fd < 0:
            raise OSError(errno, f"timerfd_create: {os.strerror(errno)}")
        self._interval_ns = NS_PER_SECOND // per_second
        self._ahead_ns = max(<uint64_t>(NS_PER_SECOND // BURSTS_PER_SECOND), self._interval_ns)

    def __dealloc__(self):
        if self.fd >= 0:
            close(self.fd)

    cdef bint admits(self) noexcept nogil:
        """Whether another may go now; it is counted if so, and else the clock is set."""
        cdef timespec time
        cdef itimerspec alarm
        cdef uint64_t now, at
        clock_gettime(CLOCK_MONOTONIC, &time)
        now = <uint64_t>time.tv_sec * NS_PER_SECOND + <uint64_t>time.tv_nsec
        if self._due_ns < now:
            self._due_ns = now
        if self._due_ns - now < self._ahead_ns:
            self._due_ns += self._interval_ns
            return True
        at = self._due_ns - self._ahead_ns + 1
        alarm.it_interval.tv_sec = alarm.it_interval.tv_nsec = 0
        alarm.it_value.tv_sec = <long>(at // NS_PER_SECOND)
        alarm.it_value.tv_nsec = <long>(at % NS_PER_SECOND)
        timerfd_settime(self.fd, TFD_TIMER_ABSTIME, &alarm, NULL)
        return False

    cdef void refund(self) noexcept nogil:
        """What was admitted last did not come."""
        self._due_ns -= self._interval_ns
