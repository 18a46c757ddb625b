"""The tree of states: what fits a machine is restored whole, from bytes that came by any way."""

import io
import json
import socket
import struct
import threading

import pytest

from stratovirt.config.options import opt
from stratovirt.errors import StratovirtError
from stratovirt.snapshot.encoding import HEADER, decode, encode, sealed
from stratovirt.snapshot.errors import SnapshotError
from stratovirt.snapshot.state import U8, Entry, State, Stateless
from stratovirt.snapshot.tree import Tree


class LampState(State):
    """A lamp."""

    brightness: int = opt(U8)


class Lamp:
    """A part with state."""

    state_type = LampState

    def __init__(self, brightness: int = 0) -> None:
        self.brightness = brightness

    def save(self) -> LampState:
        return LampState(brightness=self.brightness)

    def restore(self, state: LampState) -> None:
        self.brightness = state.brightness


def lamps(*values: int) -> list[Lamp]:
    return [Lamp(value) for value in values]


def entries(*parts: Lamp) -> list[Entry]:
    return [Entry(f"peripheral/lamp{i}", lamp, "lamp-device") for i, lamp in enumerate(parts)]


def test_a_tree_goes_through_a_socket() -> None:
    ours, theirs = socket.socketpair()
    saved = Tree.of(entries(*lamps(*range(200))))
    with ours, theirs, theirs.makefile("rb") as stream:
        content = encode(saved) + b"what follows is the stream's"
        sender = threading.Thread(target=ours.sendall, args=(content,))
        sender.start()
        received = decode(stream.read)
        assert stream.read(4) == b"what"
        sender.join()
    clones = lamps(*[0] * 200)
    received.apply(entries(*clones))
    assert [lamp.brightness for lamp in clones] == list(range(200))


def test_a_stream_that_ends_early_is_refused() -> None:
    content = encode(Tree.of(entries(Lamp(3))))
    for length in (0, 8, HEADER.size - 1, HEADER.size, len(content) - 1):
        with pytest.raises(SnapshotError, match=r"state (is not the state|has .* announces)"):
            decode(io.BytesIO(content[:length]).read)


def test_a_header_that_announces_too_much_is_refused_unread() -> None:
    head = struct.pack("<8sIxxxxQ32s", b"SVSTATE", 2, 1 << 40, bytes(32))
    asked: list[int] = []

    def read(size: int) -> bytes:
        asked.append(size)
        return head

    with pytest.raises(SnapshotError, match="state is longer than 64 MiB"):
        decode(read)
    assert asked == [HEADER.size]


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        (
            [Entry("peripheral/lamp0", Lamp(), "lamp-device")],
            "the snapshot's machine has a device peripheral/lamp1 (lamp-device) and this one has "
            "none",
        ),
        (
            [*entries(Lamp(), Lamp()), Entry("serial", Lamp(), "-serial")],
            "this machine has serial (-serial) and the snapshot's has none",
        ),
        (
            # What the user can change is named before what follows from it.
            [Entry("slot/7", Lamp()), *entries(Lamp(), Lamp(), Lamp())],
            "this machine has a device peripheral/lamp2 (lamp-device) and the snapshot's has none",
        ),
        (
            [Entry("peripheral/lamp0", Lamp(), "torch-pci"), *entries(Lamp(), Lamp())[1:]],
            "peripheral/lamp0 is torch-pci and the snapshot's is lamp-device",
        ),
        (
            [Entry("peripheral/lamp0", Stateless(), "lamp-device"), *entries(Lamp(), Lamp())[1:]],
            "peripheral/lamp0: the snapshot has a LampState, not a NoState",
        ),
    ],
    ids=["lacks one", "has one more", "has a consequence", "another driver", "another struct"],
)
def test_a_machine_of_other_parts_is_refused_by_name(parts: list[Entry], why: str) -> None:
    with pytest.raises(SnapshotError) as caught:
        Tree.of(entries(Lamp(1), Lamp(2))).apply(parts)
    assert str(caught.value) == why


def test_the_order_of_the_parts_is_the_machines_own() -> None:
    saved = Tree.of(entries(Lamp(1), Lamp(2)))
    clones = lamps(0, 0)
    saved.apply(reversed(entries(*clones)))
    assert [lamp.brightness for lamp in clones] == [1, 2]


def damaged(body: object) -> Tree:
    return decode(io.BytesIO(sealed(json.dumps(body).encode())).read)


def test_nothing_is_restored_when_one_part_is_damaged() -> None:
    body = Tree.of(entries(Lamp(1), Lamp(2))).to_json()
    body["peripheral/lamp1"]["state"]["brightness"] = 256  # type: ignore[index]
    clones = lamps(7, 7)
    with pytest.raises(StratovirtError, match="peripheral/lamp1: brightness must be a number"):
        damaged(body).apply(entries(*clones))
    assert [lamp.brightness for lamp in clones] == [7, 7]


NODE = {"struct": "LampState", "option": "", "state": {}}


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"": NODE},
        {"a\nb": NODE},
        {"x" * 257: NODE},
        {"lamp": None},
        {"lamp": {}},
        {"lamp": {**NODE, "version": 2}},
        {"lamp": {**NODE, "struct": 7}},
        {"lamp": {**NODE, "struct": "Lamp\x1bState"}},
        {"lamp": {**NODE, "option": "\n"}},
        {"lamp": {**NODE, "state": []}},
        {f"lamp{number}": NODE for number in range(4097)},
    ],
)
def test_a_damaged_tree_is_refused_in_one_line(body: object) -> None:
    with pytest.raises(StratovirtError) as caught:
        damaged(body)
    assert 0 < len(str(caught.value)) < 300


def test_a_struct_of_a_newer_program_is_refused() -> None:
    body = Tree.of(entries(Lamp(1))).to_json()
    body["peripheral/lamp0"]["state"]["version"] = 2  # type: ignore[index]
    with pytest.raises(SnapshotError, match="version 2 of LampState is not known"):
        damaged(body).apply(entries(Lamp()))
