"""renameat2(2), which Python does not have."""

from libc.errno cimport errno

from stratovirt._native.kernel cimport os_error_of

import os

cdef extern from "stdio.h" nogil:
    int renameat2(int old_folder, const char *old, int new_folder, const char *new,
                  unsigned int flags)
    unsigned int RENAME_EXCHANGE

def exchange(int folder_fd, str one not None, str other not None):
    """Swap two names of a folder at once, so that neither is ever missing; raises OSError."""
    if renameat2(folder_fd, os.fsencode(one), folder_fd, os.fsencode(other), RENAME_EXCHANGE) != 0:
        raise os_error_of(errno, other)
