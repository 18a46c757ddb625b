"""Listening UNIX sockets: private to the user, gone when the process is, stale ones replaced."""

from __future__ import annotations

import os
import socket
import stat

from stratovirt.runtime.cleanup import remove_at_exit


def listen(path: str) -> socket.socket:
    """Listen at `path` with mode 0600; raises OSError.

    A socket file that nobody listens on, left by a killed process, is replaced.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if _is_stale(path):
            os.unlink(path)
        before = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(before)
        remove_at_exit(path)
        listener.listen(1)
    except OSError:
        listener.close()
        raise
    return listener


def _is_stale(path: str) -> bool:
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
    return False
