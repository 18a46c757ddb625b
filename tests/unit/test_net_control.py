"""The control queue of a network card: commands that change nothing do not stop the queue pairs."""

from typing import Any

import pytest

from stratovirt.virtio.net_control import NetControl

MAC = bytes.fromhex("525400000001")
OTHER = bytes.fromhex("525400000002")
TABLES = (1).to_bytes(4, "little") + OTHER + (0).to_bytes(4, "little")


class Chain:
    """A chain with a command, and the ack written to it."""

    def __init__(self, command: bytes) -> None:
        self._command, self.ack = command, b""

    def read(self, _most: int) -> bytes:
        return self._command

    def write(self, ack: bytes) -> None:
        self.ack = ack


class Card:
    """Counts how often the settings changed."""

    def __init__(self) -> None:
        self.changes = self.announced = 0
        self.control = NetControl(MAC, 4, self.changed, self.announce)
        self.control.reset(MAC, filters_vlans=True)

    def changed(self) -> None:
        self.changes += 1

    def announce(self) -> None:
        self.announced += 1

    def send(self, *command: int, content: bytes = b"") -> bytes:
        """The ack of a command."""
        chain: Any = Chain(bytes(command) + content)
        self.control.handle(chain)
        ack: bytes = chain.ack
        return ack


@pytest.mark.parametrize(
    "command, content",
    [
        ((0, 0), b"\0"), ((0, 1), b"\1"), ((1, 1), OTHER), ((1, 0), TABLES), ((2, 0), b"\5\0"),
        ((4, 0), b"\2\0"),
    ],
    ids=["promiscuous off", "all multicast", "address", "tables", "VLAN", "pairs"],
)  # fmt: skip
def test_a_command_is_in_force_once_and_done_as_often_as_it_is_sent(
    command: tuple[int, int], content: bytes
) -> None:
    card = Card()
    assert card.send(*command, content=content) == b"\0" and card.changes == 1
    for _ in range(3):
        assert card.send(*command, content=content) == b"\0"
    assert card.changes == 1


def test_the_settings_of_power_on_change_nothing() -> None:
    card = Card()
    for command, content in (((0, 0), b"\1"), ((1, 1), MAC), ((4, 0), b"\1\0"), ((2, 1), b"\5\0")):
        assert card.send(*command, content=content) == b"\0"
    assert card.changes == 0


def test_what_is_refused_or_only_acknowledged_changes_nothing() -> None:
    card = Card()
    for command, content in (
        ((4, 0), b"\5\0"),
        ((9, 9), b""),
        ((1, 1), b"short"),
        ((0, 77), b"\1"),
    ):
        assert card.send(*command, content=content) == b"\1"
    assert card.send() == b"\1" and card.send(3, 0) == b"\0"
    assert (card.changes, card.announced) == (0, 1)
