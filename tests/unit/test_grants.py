"""What the broker lets a locked-down machine open: what clients have named, and no more."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratovirt.config.chardev import SocketChardev
from stratovirt.config.net import VhostUser
from stratovirt.config.vm_config import VmConfig
from stratovirt.errors import StratovirtError
from stratovirt.host.broker import _first_grants
from stratovirt.host.grants import (
    DRAFT,
    IMAGE,
    MOST_WAITING,
    TAP,
    TCP,
    UNIX,
    VFIO,
    VHOST_NET,
    Grants,
    Named,
    Witness,
)
from stratovirt.host.modules import open_module

Command = dict[str, object]


class Client:
    """What a client has said, and what may be opened for it."""

    def __init__(self, *commands: Command) -> None:
        self.grants = Grants()
        self.take = self.grants.take
        self.witness = Witness(self.grants)
        self.say(*commands)

    def say(self, *commands: Command) -> None:
        for command in commands:
            self.witness.read(json.dumps(command).encode() + b"\n")


def add_image(path: str, **more: object) -> Command:
    arguments = {"node-name": "n", "file": {"filename": path}} | more
    return {"execute": "blockdev-add", "arguments": arguments}


def add_net(**arguments: object) -> Command:
    return {"execute": "netdev_add", "arguments": {"id": "n"} | arguments}


def add_chardev(name: str, path: str, *, server: bool = False) -> Command:
    data = {"addr": {"type": "unix", "data": {"path": path}}, "server": server}
    backend = {"type": "socket", "data": data}
    return {"execute": "chardev-add", "arguments": {"id": name, "backend": backend}}


def remove_chardev(name: str) -> Command:
    return {"execute": "chardev-remove", "arguments": {"id": name}}


def test_what_a_command_names_can_be_opened_once() -> None:
    client = Client(add_image("/a"))
    assert not client.take(IMAGE, "/b", False, True) and not client.take(TAP, "/a", 1)
    assert client.take(IMAGE, "/a", False, True)
    assert not client.take(IMAGE, "/a", False, True)


def test_an_image_is_opened_in_the_mode_that_was_named() -> None:
    client = Client(
        add_image("/a", **{"read-only": True}), add_image("/b", cache={"direct": False})
    )
    assert not client.take(IMAGE, "/a", False, True)
    assert client.take(IMAGE, "/a", True, True)
    assert not client.take(IMAGE, "/b", False, True)
    assert client.take(IMAGE, "/b", False, False)


def test_each_command_grants_what_it_names() -> None:
    client = Client(
        add_net(type="tap", ifname="tap0", queues=2),
        {
            "execute": "device_add",
            "arguments": {"driver": "vfio-pci", "id": "v", "bus": "port", "host": "1A:00.3"},
        },
        {"execute": "migrate", "arguments": {"uri": "file:/srv/t"}},
    )
    assert not client.take(TAP, "tap0", 1)
    for grant in ((TAP, "tap0", 2), (VFIO, "0000:1a:00.3"), (DRAFT, "/srv/t")):
        assert client.take(*grant) and not client.take(*grant)


@pytest.mark.parametrize(
    ("netdev", "count"),
    [
        ({"ifname": "tap0"}, 0),
        ({"ifname": "tap0", "vhost": True}, 1),
        ({"ifname": "tap0", "queues": 3, "vhost": True}, 3),
        ({"fds": "a:b", "vhost": True}, 2),
        ({"fds": "a:b", "vhostfds": "c:d", "vhost": True}, 0),
        ({"vhost": True}, 0),
    ],
)
def test_vhost_net_is_granted_to_a_card_that_uses_it_once_for_each_queue(
    netdev: Command, count: int
) -> None:
    client = Client(add_net(**netdev))
    assert [client.take(VHOST_NET) for _ in range(count + 1)] == [True] * count + [False]


REFUSED: dict[str, Command] = {
    "netdev_add {}": {"execute": "netdev_add", "arguments": {}},
    "another command": {"execute": "query-block", "arguments": {"file": {"filename": "/a"}}},
    "a name as an argument": {"execute": "getfd", "arguments": {"fdname": "blockdev-add"}},
    "a list of commands": {"execute": ["blockdev-add"], "arguments": add_image("/a")["arguments"]},
    "a list of arguments": {"execute": "blockdev-add", "arguments": ["/a"]},
    "a member too many": add_image("/a") | {"control": {}},
    "a property too many": add_image("/a", colour="red"),
    "no node-name": {"execute": "blockdev-add", "arguments": {"file": {"filename": "/a"}}},
    "a number for a path": add_image(7),  # type: ignore[arg-type]
    "a path with NUL": add_image("/a\0"),
    "exec": {"execute": "migrate", "arguments": {"uri": "exec:/srv/t"}},
    "a bare path": {"execute": "migrate", "arguments": {"uri": "/srv/t"}},
    "a server": add_chardev("c", "/run/s", server=True),
}


@pytest.mark.parametrize("command", REFUSED.values(), ids=REFUSED)
def test_a_command_that_the_machine_refuses_for_what_it_says_grants_nothing(
    command: Command,
) -> None:
    client = Client(command)
    assert client.witness._waiting == {}
    client.witness.answered(1, accepted=True)
    for grant in (
        (IMAGE, "/a", False, True), (VHOST_NET,), (DRAFT, "/srv/t"), (DRAFT, "exec:/srv/t"),
        (UNIX, "/run/s"),
    ):  # fmt: skip
        assert not client.take(*grant)


def test_what_was_not_opened_before_the_answer_never_is() -> None:
    client = Client(add_image("/a"), add_image("/b"))
    client.witness.answered(1, accepted=False)
    assert not client.take(IMAGE, "/a", False, True)
    client.witness.answered(1, accepted=True)
    assert client.take(IMAGE, "/b", False, True)
    client.say(add_image("/c"))
    client.witness.answered(3, accepted=True)
    assert not client.take(IMAGE, "/c", False, True)


def test_requests_that_name_nothing_count() -> None:
    client = Client({"execute": "query-status"})
    client.witness.read(b"nonsense\n\n" + b"x" * (2 << 20) + b"\n")
    client.say(add_image("/a"))
    assert client.witness.count == 4
    client.witness.answered(3, accepted=False)
    assert client.take(IMAGE, "/a", False, True)


def test_a_socket_is_connected_to_while_its_chardev_is_there() -> None:
    client = Client(add_chardev("c", "/run/s"), add_chardev("d", "/run/t"))
    assert not client.take(UNIX, "/run/s")
    client.witness.answered(1, accepted=True)
    client.witness.answered(2, accepted=False)
    # A back end comes back, as often as it likes, whoever is connected to the monitor.
    client.witness.forget()
    assert client.take(UNIX, "/run/s") and client.take(UNIX, "/run/s")
    assert not client.take(UNIX, "/run/t")
    client.say(remove_chardev("c"))
    client.witness.answered(3, accepted=False)
    assert client.take(UNIX, "/run/s")
    client.say(remove_chardev("c"))
    client.witness.answered(4, accepted=True)
    assert not client.take(UNIX, "/run/s")


def test_the_chardevs_of_the_command_line_are_connected_to_as_they_may_come_back() -> None:
    config = VmConfig()
    for chardev in (
        SocketChardev(id="once", path="/run/once"),
        SocketChardev(id="again", path="/run/again", reconnect=1),
        SocketChardev(id="tcp", host="h", port=7, reconnect=1),
        SocketChardev(id="server", path="/run/server", server=True),
        SocketChardev(id="card", path="/run/card"),
    ):
        config.chardevs[chardev.id] = chardev
    config.netdevs["n"] = VhostUser(id="n", chardev="card")
    grants = _first_grants(config)
    assert grants.take(UNIX, "/run/again") and grants.take(TCP, "h", 7)
    assert not grants.take(UNIX, "/run/once") and not grants.take(UNIX, "/run/server")
    assert grants.take(UNIX, "/run/card") and grants.take(UNIX, "/run/card")
    grants.settle(Named(removed="again"))
    grants.settle(Named(removed="card"))
    assert grants.take(UNIX, "/run/again") and not grants.take(UNIX, "/run/card")


def test_a_command_in_escapes_grants_what_the_machine_will_open() -> None:
    client = Client()
    client.witness.read(
        rb'{"\u0065xecute": "\u006digrate", "arguments": {"uri": "file:\/srv\/\u0074"}}'
    )
    assert client.take(DRAFT, "/srv/t")


def test_a_member_that_is_given_twice_is_the_last_one() -> None:
    client = Client()
    client.witness.read(
        b'{"execute": "migrate", "arguments": {"uri": "file:/a", "uri": "file:/b"}}'
    )
    assert client.take(DRAFT, "/b") and not client.take(DRAFT, "/a")


def test_a_command_in_pieces_is_read_when_it_is_whole() -> None:
    client = Client()
    text = json.dumps(add_image("/a")).encode()
    for byte in text[:-1]:
        client.witness.read(bytes([byte]))
    assert not client.take(IMAGE, "/a", False, True)
    client.witness.read(text[-1:])
    assert client.take(IMAGE, "/a", False, True)


def test_what_a_client_asked_for_is_gone_with_it() -> None:
    client = Client(add_image("/a"))
    text = json.dumps(add_image("/b")).encode()
    client.witness.read(text[:20])
    client.witness.forget()
    client.witness.read(text[20:] + b"\n")
    assert not client.take(IMAGE, "/a", False, True)
    assert not client.take(IMAGE, "/b", False, True)


def test_commands_without_answers_do_not_pile_up() -> None:
    client = Client(*(add_image(f"/{number}") for number in range(MOST_WAITING + 1)))
    assert not client.take(IMAGE, "/0", False, True)
    assert client.take(IMAGE, f"/{MOST_WAITING}", False, True)


@pytest.mark.parametrize("separator", [b"", b"\n"])
@given(content=st.binary(max_size=200))
def test_nonsense_grants_nothing_and_what_follows_it_is_seen(
    content: bytes, separator: bytes
) -> None:
    client = Client()
    client.witness.read(content + separator + b'{"execute": "blockdev-add", "arguments": ')
    assert client.witness._waiting == {}
    client.witness.read(b"{}}\n")
    client.say(add_image("/a"))
    assert client.take(IMAGE, "/a", False, True)


@pytest.mark.parametrize("name", ["antigravity.x", "pytest", "_socket", "..", "", "json.nothing"])
def test_no_module_is_run_for_being_asked_for(name: str) -> None:
    with pytest.raises(StratovirtError, match="is no Python module that could be given"):
        open_module(name)
    assert "antigravity" not in sys.modules
