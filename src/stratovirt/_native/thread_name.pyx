"""The name of a thread, as ps and /proc show it."""

import os

cdef extern from "sys/prctl.h" nogil:
    int prctl(int option, const char *name)
    int PR_SET_NAME


def name_this_thread(str name not None):
    """Give the calling thread a name; the kernel keeps its first 15 bytes.

    The first thread's name is the process's.
    """
    cdef bytes text = os.fsencode(name)
    prctl(PR_SET_NAME, text)
