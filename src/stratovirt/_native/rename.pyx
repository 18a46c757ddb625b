"""renameat2(2), which Python does not have."""

from libc.errno cimport errno

import os

cdef extern from "stdio.h" nogil:
    int renameat2(int old_folder, const char *old, int new_folder, const char *new,
                  unsigned int flags)
    unsigned int RENAME_EXCHANGE

cdef extern from "fcntl.h" nogil:
    int AT_FDCWD


def exchange(str one not None, str other not None):
    """Swap two names at once, so that neither is ever missing; raises OSError."""
    if renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) != 0:
        raise OSError(errno, os.strerror(errno), other)
