"""The front end's half of vhost-user, as far as one queue of one device needs it."""

from __future__ import annotations

import array
import socket
import struct

from bench.ring_load import RAM_BYTES, RING_SIZE, RingLoad

GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 1, 2, 3, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL = 8, 9, 10, 12, 13
VERSION = 1
RING_EVENT_IDX, VERSION_1 = 1 << 29, 1 << 32


class VhostUser:
    """A connection to a back end, which serves the load's ring once it is set up."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)

    def set_up(self, load: RingLoad) -> None:
        """Hand over memory and the ring."""
        self._send(SET_OWNER)
        self._send(GET_FEATURES)
        _, _, size = struct.unpack("<III", self._receive(12))
        (offered,) = struct.unpack("<Q", self._receive(size))
        wanted = VERSION_1 | RING_EVENT_IDX
        if wanted & ~offered:
            raise RuntimeError(f"the back end lacks features: 0x{wanted & ~offered:x}")
        self._send(SET_FEATURES, struct.pack("<Q", wanted))
        region = struct.pack("<IIQQQQ", 1, 0, 0, RAM_BYTES, load.address, 0)
        self._send(SET_MEM_TABLE, region, load.ram_fd)
        self._send(SET_VRING_NUM, struct.pack("<II", 0, RING_SIZE))
        self._send(SET_VRING_BASE, struct.pack("<II", 0, 0))
        rings = (load.address + part for part in (load.desc, load.used, load.avail))
        self._send(SET_VRING_ADDR, struct.pack("<IIQQQQ", 0, 0, *rings, 0))
        self._send(SET_VRING_CALL, struct.pack("<Q", 0), load.call_fd)
        self._send(SET_VRING_KICK, struct.pack("<Q", 0), load.kick_fd)

    def close(self) -> None:
        """Leave."""
        self._socket.close()

    def _send(self, request: int, payload: bytes = b"", fd: int | None = None) -> None:
        rights = []
        if fd is not None:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        message = struct.pack("<III", request, VERSION, len(payload)) + payload
        self._socket.sendmsg([message], rights)

    def _receive(self, size: int) -> bytes:
        return self._socket.recv(size, socket.MSG_WAITALL)
