"""``make fuzz T=vhost-user``: a peer, whatever it answers, is used or left, and that is all."""

import array
import os
import socket
import struct
import sys

import atheris

with atheris.instrument_imports(include=["stratovirt.vhost"]):
    from stratovirt.vhost import user
    from stratovirt.vhost.user import VhostUser

ANSWERS = (
    (user.GET_FEATURES, 8), (user.GET_PROTOCOL_FEATURES, 8), (user.GET_QUEUE_NUM, 8),
    (user.SET_FEATURES, 8), (user.GET_VRING_BASE, 8), (user.GET_INFLIGHT_FD, user.INFLIGHT.size),
)  # fmt: skip
VERSION_1_REPLY = 5
VALUES = (0, 1, 2, 64, 0xFFFF, 1 << 30, (1 << 32) - 1, (1 << 64) - 1)


def answer(data: atheris.FuzzedDataProvider, request: int, size: int) -> bytes:
    """What a peer says to a request; mostly of the right shape."""
    flags = VERSION_1_REPLY
    if data.ConsumeIntInRange(0, 15) == 0:
        request, flags = data.ConsumeIntInRange(0, 50), data.ConsumeIntInRange(0, 31)
    payload = b"".join(
        struct.pack("<Q", data.PickValueInList(list(VALUES)))
        if data.ConsumeBool()
        else data.ConsumeBytes(8).ljust(8, b"\0")
        for _ in range((size + 7) // 8)
    )[:size]
    if data.ConsumeIntInRange(0, 15) == 0:
        size = data.PickValueInList(list(VALUES[:-1]))
        payload = payload[: data.ConsumeIntInRange(0, len(payload))]
    return struct.pack("<III", request, flags, size) + payload


def one_input(content: bytes) -> None:
    """A whole conversation, the peer's part said beforehand."""
    data = atheris.FuzzedDataProvider(content)
    spare = os.dup(0)
    os.close(spare)
    ours, theirs = socket.socketpair()
    for request, size in ANSWERS:
        fds = array.array("i", [0] * data.ConsumeIntInRange(0, 3))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
        theirs.sendmsg([answer(data, request, size)], rights)
    theirs.shutdown(socket.SHUT_WR)
    try:
        peer = VhostUser(ours)
        peer.set_features(peer.features)
        assert 0 <= peer.take_back(0) <= 0xFFFF
        inflight = peer.ask_inflight(1, 256)
        if inflight is not None:
            inflight.close()
    except OSError:
        pass
    finally:
        ours.close()
        theirs.close()
    # Whatever descriptors it sent along are not kept.
    assert os.dup(0) == spare
    os.close(spare)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
