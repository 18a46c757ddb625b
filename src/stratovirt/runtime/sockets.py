"""Sockets: UNIX ones, private to the user and removed at exit, and TCP ones."""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import stat
import time

from stratovirt.host.request import Opened, Request
from stratovirt.runtime.signals import held

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.runtime.cleanup import CleanUp

_UNIX_KIND = socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
"""Non-blocking: a blocking connect would wait without limit for a server with a full queue."""


def listen_unix(path: str, cleanup: CleanUp) -> socket.socket:
    """Listen at `path` with mode 0600; raises OSError.

    A socket file without a listener, left by a killed process, is replaced.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if _is_stale(path):
            os.unlink(path)
        with held():
            before = os.umask(0o177)
            try:
                listener.bind(path)
            finally:
                os.umask(before)
            cleanup.remove_at_exit(path)
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
            # A server listens, and its queue is full.
            return False
    return False


class UnixRequest(Request["socket.socket"], kind="unix"):
    """Connect to the UNIX socket at `path`, without waiting in its queue."""

    path: str

    def open(self, _machine: str = "self", /) -> Opened:
        """Connect; raises OSError."""
        peer = socket.socket(socket.AF_UNIX, _UNIX_KIND)
        try:
            peer.connect(self.path)
        except OSError:
            peer.close()
            raise
        return Opened([peer.detach()])

    def receive(self, opened: Opened) -> socket.socket:
        """The connected socket."""
        return _connected(opened.fds[0])


def _connected(fd: int) -> socket.socket:
    # All arguments are given, or Python would query the kernel; the family is not used.
    return socket.socket(socket.AF_UNIX, _UNIX_KIND, 0, fileno=fd)


class LostDescriptorsError(OSError):
    """A message had more descriptors than this process could receive; all of them are lost."""

    def __init__(self, content: bytes) -> None:
        super().__init__(errno.EMFILE, "file descriptors that were sent along are lost: too many")
        self.content = content


def receive_descriptors(peer: socket.socket, size: int, most: int) -> tuple[bytes, list[int]]:
    """Receive up to `size` bytes and `most` descriptors, close-on-exec.

    socket.recv_fds does not pass its flags on.  Raises LostDescriptorsError, with
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
"""Longest wait for a host that does not answer."""
MOST_ADDRESSES = 8
"""Most addresses of a host that are tried."""


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


class TcpRequest(Request["socket.socket"], kind="tcp"):
    """Connect to a TCP port; `receive` blocks, so call it without the machine's lock."""

    host: str
    port: int

    def open(self, _machine: str = "self", /) -> Opened:
        """Begin to connect, to each address of the host; raises OSError."""
        return Opened([peer.detach() for peer in _begin_tcp(self.host, self.port)])

    def receive(self, opened: Opened) -> socket.socket:
        """Wait for the first connection; raises OSError.

        The machine waits for it and not the broker, whose next request would be delayed.
        """
        return _await_first([_connected(fd) for fd in opened.fds])


def _begin_tcp(host: str, port: int) -> list[socket.socket]:
    """Begin connecting to a TCP port, one socket for each address; raises OSError."""
    begun: list[socket.socket] = []
    failure = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for family, kind, protocol, _, address in found[:MOST_ADDRESSES]:
        peer = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
        try:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.connect(address)
        except BlockingIOError:
            pass
        except OSError as error:
            failure = error
            peer.close()
            continue
        begun.append(peer)
    if not begun:
        raise failure
    return begun


def _await_first(begun: list[socket.socket]) -> socket.socket:
    """Wait for the first connected socket and close the others; raises OSError."""
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    poller = select.poll()
    left = {peer.fileno(): peer for peer in begun}
    for fd in left:
        poller.register(fd, select.POLLOUT)
    failure: OSError = TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    try:
        while left and (left_s := deadline - time.monotonic()) > 0:
            for fd, _events in poller.poll(left_s * 1000):
                failed = _connect_error(left[fd])
                if failed is None:
                    return left.pop(fd)
                failure = failed
                poller.unregister(fd)
                left.pop(fd).close()
    finally:
        for peer in left.values():
            peer.close()
    raise failure


def _connect_error(peer: socket.socket) -> OSError | None:
    """Error of a finished connect, None if connected; by recvmsg, which the filter allows."""
    try:
        peer.recvmsg(1, 0, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError as error:
        return error
    return None
