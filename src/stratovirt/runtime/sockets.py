"""Sockets: UNIX ones private to the user and gone when the process is, and TCP ones."""

from __future__ import annotations

import array
import errno
import os
import socket
import stat

from stratovirt.runtime.cleanup import remove_at_exit

_UNIX_KIND = socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
"""A server whose queue is full makes a connect that may block wait for as long as it likes."""


def listen_unix(path: str) -> socket.socket:
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
    with socket.socket(socket.AF_UNIX, _UNIX_KIND) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except BlockingIOError:
            # Somebody lives there, and clients are queueing.
            return False
    return False


def connect_unix(path: str) -> socket.socket:
    """Connect to the UNIX socket at `path`, without waiting in its queue; raises OSError."""
    peer = socket.socket(socket.AF_UNIX, _UNIX_KIND)
    try:
        peer.connect(path)
    except OSError:
        peer.close()
        raise
    return peer


class LostDescriptorsError(OSError):
    """Descriptors were sent along that this process has no room for; all of them are lost."""

    def __init__(self, content: bytes) -> None:
        super().__init__(errno.EMFILE, "file descriptors that were sent along are lost: too many")
        self.content = content


def receive_descriptors(peer: socket.socket, size: int, most: int) -> tuple[bytes, list[int]]:
    """Up to `size` bytes and `most` descriptors sent along, which no child inherits.

    socket.recv_fds would be this, if it passed its flags on.  Raises LostDescriptorsError, with
    the content in `content`, when more than `most` came or this process may open no more.
    """
    space = socket.CMSG_LEN(most * array.array("i").itemsize)
    content, ancillary, flags, _address = peer.recvmsg(size, space, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if flags & socket.MSG_CTRUNC:
        for fd in fds:
            os.close(fd)
        raise LostDescriptorsError(content)
    return content, list(fds)


CONNECT_TIMEOUT_S = 5.0
"""A host that does not answer holds up the caller no longer."""


def listen_tcp(host: str | None, port: int) -> socket.socket:
    """Listen on a TCP port, on all addresses when `host` is None; raises OSError."""
    found = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
    )
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1)
    except OSError:
        listener.close()
        raise
    return listener


def connect_tcp(host: str, port: int) -> socket.socket:
    """Connect to a TCP port; raises OSError."""
    peer = socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peer
