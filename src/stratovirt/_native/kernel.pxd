# The border to the kernel: ioctl(2), and a failed call as an OSError.
from libc.errno cimport errno
from libc.string cimport strerror

cdef extern from "sys/ioctl.h" nogil:
    int ioctl(int fd, unsigned long request, ...)


cdef inline object os_error(int number):
    """The OSError of an errno."""
    return OSError(number, strerror(number).decode())


cdef inline object os_error_of(int number, str name):
    """The OSError of an errno, with a file's name."""
    return OSError(number, strerror(number).decode(), name)


cdef inline object call_error(int number, str call):
    """The OSError of an errno, whose text names the call."""
    return OSError(number, f"{call}: {strerror(number).decode()}")


cdef inline object failed(str call):
    """The OSError of the call that just failed, whose text names it."""
    return call_error(errno, call)
