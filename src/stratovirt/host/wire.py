"""Messages between a machine and its broker: a JSON object and file descriptors."""

from __future__ import annotations

import json
import os
import socket

from stratovirt.runtime.sockets import receive_descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST = 1 << 16
MOST_DESCRIPTORS = 32


def pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair of sockets that preserve message boundaries."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def send(line: socket.socket, message: dict[str, object], fds: Sequence[int] = ()) -> None:
    """Send one message; raises OSError."""
    socket.send_fds(line, [json.dumps(message).encode()], list(fds))


def receive(line: socket.socket) -> tuple[dict[str, object], list[int]]:
    """Wait for one message; raises EOFError at the end, ValueError for an invalid message.

    The descriptors of an invalid message are closed.
    """
    try:
        content, fds = receive_descriptors(line, LONGEST, MOST_DESCRIPTORS)
    except ConnectionError as error:
        raise EOFError(str(error)) from error
    if not content:
        raise EOFError("the other side has hung up")
    try:
        message = json.loads(content)
        if not isinstance(message, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        for fd in fds:
            os.close(fd)
        raise ValueError(f"no message: {error}") from error
    return message, fds
