"""The front end's half of the vhost-user protocol (QEMU's docs/interop/vhost-user).

Every conversation has a deadline and every answer a bound: a peer that is silent or slow, talks
nonsense or goes away is a VhostUserError, after which the connection is of no use.
"""

from __future__ import annotations

import array
import os
import select
import socket
import struct
import time

from stratovirt._native.vhost import F_LOG_ALL, VRING_F_LOG
from stratovirt.runtime.sockets import receive_descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt._native.virtqueue import Virtqueue

GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 1, 2, 3, 5
SET_LOG_BASE = 6
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE = 8, 9, 10, 11
SET_VRING_KICK, SET_VRING_CALL = 12, 13
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE = 15, 16, 17, 18
GET_INFLIGHT_FD, SET_INFLIGHT_FD = 31, 32

F_PROTOCOL_FEATURES = 1 << 30
PROTOCOL_MQ, PROTOCOL_LOG_SHMFD = 1 << 0, 1 << 1
PROTOCOL_REPLY_ACK, PROTOCOL_INFLIGHT = 1 << 3, 1 << 12
PROTOCOL_WANTED = PROTOCOL_MQ | PROTOCOL_LOG_SHMFD | PROTOCOL_REPLY_ACK | PROTOCOL_INFLIGHT

HEADER = struct.Struct("<III")
VERSION, REPLY, NEED_REPLY = 1, 1 << 2, 1 << 3
VERSION_MASK = 3
LONGEST_ANSWER = 4096
MOST_REGIONS = 8
PATIENCE_S = 5.0
"""Time limit in seconds from `begin` for all answers of a conversation together."""
UNHURRIED_S = 15.0
"""The limit where no caller waits for the answers."""
INFLIGHT = struct.Struct("<QQHH4x")


class VhostUserError(OSError):
    """The peer is gone or does not follow the protocol."""


class MemoryRegion:
    """Guest RAM that the peer maps: part of an open file."""

    __slots__ = ("fd", "file_offset", "gpa", "hva", "size")

    def __init__(self, gpa: int, size: int, hva: int, fd: int, file_offset: int) -> None:
        self.gpa, self.size, self.hva = gpa, size, hva
        self.fd, self.file_offset = fd, file_offset


class Inflight:
    """The file in which a back end records requests in flight; it outlives the back end."""

    def __init__(self, fd: int, size: int, offset: int) -> None:
        self.fd, self.size, self.offset = fd, size, offset

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)


class VhostUser:
    """One connection, negotiated when it is made; raises VhostUserError."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        connection.setblocking(False)
        self.begin()
        self.protocol = 0
        self.queues = 1
        self._send(SET_OWNER)
        self.features = self._ask_number(GET_FEATURES)
        """Virtio features the peer can serve."""
        if self.features & F_PROTOCOL_FEATURES:
            self.protocol = self._ask_number(GET_PROTOCOL_FEATURES) & PROTOCOL_WANTED
            self._send(SET_PROTOCOL_FEATURES, struct.pack("<Q", self.protocol))
        if self.protocol & PROTOCOL_MQ:
            self.queues = self._ask_number(GET_QUEUE_NUM)

    @property
    def fd(self) -> int:
        """The socket, to be watched for a hang-up of the peer."""
        return self._socket.fileno()

    def begin(self, patience_s: float = PATIENCE_S) -> None:
        """Begin a conversation: its requests, until the next `begin`, share one deadline."""
        self._patience_s = patience_s
        self._deadline = time.monotonic() + patience_s

    def is_silent(self) -> bool:
        """Whether the peer is connected and has sent nothing that is unread."""
        try:
            self._socket.recvmsg(1, 0, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def _await(self, events: int) -> None:
        """Return when the socket is ready; raises VhostUserError at the deadline."""
        poller = select.poll()
        poller.register(self._socket.fileno(), events)
        left_ms = (self._deadline - time.monotonic()) * 1000
        if left_ms <= 0 or not poller.poll(left_ms):
            raise VhostUserError(0, f"the peer did not answer in {self._patience_s:.0f} seconds")

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    @property
    def can_log(self) -> bool:
        """Whether the peer can log its writes to guest memory in a file."""
        return bool(self.features & F_LOG_ALL and self.protocol & PROTOCOL_LOG_SHMFD)

    def set_log(self, fd: int, size: int) -> None:
        """Send the file of the log; `set_features` with F_LOG_ALL has the peer use it."""
        # Back ends answer this one anyway, each with what it likes: DPDK with an empty message.
        _close(self._ask(SET_LOG_BASE, struct.pack("<QQ", size, 0), size=None, fds=[fd])[1])

    def set_features(self, features: int) -> None:
        """Send the negotiated features."""
        features |= self.features & F_PROTOCOL_FEATURES
        self._command(SET_FEATURES, struct.pack("<Q", features))

    def set_memory(self, regions: list[MemoryRegion]) -> None:
        """Send the table of guest RAM regions, which the peer maps."""
        if len(regions) > MOST_REGIONS:
            raise VhostUserError(0, f"guest RAM is in more than {MOST_REGIONS} pieces")
        table = struct.pack("<II", len(regions), 0) + b"".join(
            struct.pack("<QQQQ", region.gpa, region.size, region.hva, region.file_offset)
            for region in regions
        )
        self._command(SET_MEM_TABLE, table, [region.fd for region in regions])

    def set_ring_address(self, index: int, ring: Virtqueue, logged: bool) -> None:
        """Send where ring `index` is and whether writes to its used ring are logged."""
        desc, avail, used = ring.host_addresses
        flags = VRING_F_LOG if logged else 0
        address = struct.pack("<IIQQQQ", index, flags, desc, used, avail, ring.used_gpa)
        self._command(SET_VRING_ADDR, address)

    def set_ring(
        self, index: int, ring: Virtqueue, kick_fd: int, call_fd: int, logged: bool
    ) -> None:
        """Hand ring `index` over: its addresses, position, doorbell and interrupt eventfds."""
        self._command(SET_VRING_NUM, struct.pack("<II", index, ring.size))
        self._command(SET_VRING_BASE, struct.pack("<II", index, ring.position[0]))
        self.set_ring_address(index, ring, logged)
        self._command(SET_VRING_CALL, struct.pack("<Q", index), [call_fd])
        self._command(SET_VRING_KICK, struct.pack("<Q", index), [kick_fd])

    def enable_ring(self, index: int, is_enabled: bool) -> None:
        """Enable or disable a ring."""
        if self.features & F_PROTOCOL_FEATURES:
            self._command(SET_VRING_ENABLE, struct.pack("<II", index, int(is_enabled)))

    def take_back(self, index: int) -> int:
        """Stop a ring; returns its next available index."""
        answer = self._ask(GET_VRING_BASE, struct.pack("<II", index, 0), size=8)
        number, base = struct.unpack("<II", answer[0])
        if number != index or base > 0xFFFF:
            raise VhostUserError(0, "the peer's answer names another ring")
        return int(base)

    def ask_inflight(self, queues: int, ring_size: int) -> Inflight | None:
        """Request a new inflight file; None if the peer keeps none."""
        if not self.protocol & PROTOCOL_INFLIGHT:
            return None
        payload = INFLIGHT.pack(0, 0, queues, ring_size)
        answer, fds = self._ask(GET_INFLIGHT_FD, payload, size=INFLIGHT.size)
        size, offset, *_ = INFLIGHT.unpack(answer)
        if len(fds) != 1:
            _close(fds)
            if size == 0:
                return None
            raise VhostUserError(0, "the peer sent no file for requests in flight")
        return Inflight(fds[0], size, offset)

    def set_inflight(self, inflight: Inflight, queues: int, ring_size: int) -> None:
        """Send the peer an inflight file, new or of a lost peer."""
        payload = INFLIGHT.pack(inflight.size, inflight.offset, queues, ring_size)
        self._command(SET_INFLIGHT_FD, payload, [inflight.fd])

    def _command(self, request: int, payload: bytes, fds: list[int] | None = None) -> None:
        """Send a request that has no reply; wait for the ack if the peer supports REPLY_ACK."""
        if not self.protocol & PROTOCOL_REPLY_ACK:
            self._send(request, payload, fds)
            return
        self._send(request, payload, fds, NEED_REPLY)
        answer, _ = self._receive(request, 8)
        if any(answer):
            raise VhostUserError(0, f"the peer refuses request {request}")

    def _ask_number(self, request: int) -> int:
        self._send(request)
        answer, _ = self._receive(request, 8)
        return int.from_bytes(answer, "little")

    def _ask(
        self, request: int, payload: bytes, *, size: int | None, fds: list[int] | None = None
    ) -> tuple[bytes, list[int]]:
        self._send(request, payload, fds)
        return self._receive(request, size)

    def _send(
        self, request: int, payload: bytes = b"", fds: list[int] | None = None, flags: int = 0
    ) -> None:
        rights = []
        if fds:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        message = HEADER.pack(request, VERSION | flags, len(payload)) + payload
        self._await(select.POLLOUT)
        try:
            sent = self._socket.sendmsg([message], rights, socket.MSG_NOSIGNAL)
        except OSError as error:
            raise _broken(error) from error
        if sent != len(message):
            raise VhostUserError(0, "the peer does not read")

    def _receive(self, request: int, size: int | None) -> tuple[bytes, list[int]]:
        """The answer to `request`, of `size` bytes or, without one, of any size."""
        head, fds = self._take(HEADER.size)
        try:
            kind, flags, length = HEADER.unpack(head)
            if kind != request or flags & VERSION_MASK != VERSION or not flags & REPLY:
                raise VhostUserError(0, f"the peer's answer to request {request} is another's")
            if size not in (None, length) or length > LONGEST_ANSWER:
                wanted = f"not {size}" if size is not None else f"more than {LONGEST_ANSWER}"
                raise VhostUserError(
                    0, f"the peer's answer to request {request} has {length} bytes, {wanted}"
                )
            body, more = self._take(length)
            fds += more
        except VhostUserError:
            _close(fds)
            raise
        return body, fds

    def _take(self, size: int) -> tuple[bytes, list[int]]:
        content = b""
        fds: list[int] = []
        while len(content) < size:
            try:
                self._await(select.POLLIN)
                piece, received = receive_descriptors(self._socket, size - len(content), 1)
            except BlockingIOError:
                continue
            except VhostUserError:
                _close(fds)
                raise
            except OSError as error:
                _close(fds)
                raise _broken(error) from error
            fds += received
            if not piece:
                _close(fds)
                raise VhostUserError(0, "the peer hung up")
            content += piece
        return content, fds


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _broken(error: OSError) -> VhostUserError:
    return VhostUserError(error.errno, f"the peer is gone: {error.strerror}")
