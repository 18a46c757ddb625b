"""What the broker lets a locked-down machine open: what clients have named, and no more."""

import json
import sys
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratovirt.block.image_files import ImageRequest
from stratovirt.config.chardev import SocketChardev
from stratovirt.config.net import VhostUser
from stratovirt.config.options import Family, Options
from stratovirt.config.vm_config import VmConfig
from stratovirt.errors import StratovirtError
from stratovirt.host import grants
from stratovirt.host.broker import _first_grants
from stratovirt.host.grants import MOST_WAITING, Grants, Witness
from stratovirt.host.modules import open_module
from stratovirt.host.request import Named, Request
from stratovirt.monitor import commands as _commands  # noqa: F401
from stratovirt.monitor.registry import COMMANDS
from stratovirt.net.tap_queues import TapRequest
from stratovirt.net.vhost_net import VhostNetRequest
from stratovirt.runtime.sockets import TcpRequest, UnixRequest
from stratovirt.snapshot.files import SnapshotRequest
from stratovirt.vfio.host import VfioRequest

Command = dict[str, object]


def image(path: str, *, readonly: bool = False, direct: bool = True) -> ImageRequest:
    return ImageRequest(path=path, readonly=readonly, direct=direct, source="anything")


def is_taken(held: Grants, request: Request[Any]) -> bool:
    """Ask for a request as it comes over the wire; whether it is what was asked for and granted."""
    taken = held.take(request.kind, json.loads(json.dumps(request.fields)))
    assert taken is None or (type(taken) is type(request) and taken.fields == request.fields)
    return taken is not None


class Client:
    """What a client has said, and what may be opened for it."""

    def __init__(self, *commands: Command) -> None:
        self.grants = Grants()
        self.witness = Witness(self.grants)
        self.say(*commands)

    def take(self, request: Request[Any]) -> bool:
        return is_taken(self.grants, request)

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
    assert not client.take(image("/b")) and not client.take(TapRequest(name="/a", queues=1))
    assert client.take(image("/a"))
    assert not client.take(image("/a"))


def test_an_image_is_opened_in_the_mode_that_was_named() -> None:
    client = Client(
        add_image("/a", **{"read-only": True}), add_image("/b", cache={"direct": False})
    )
    assert not client.take(image("/a"))
    assert client.take(image("/a", readonly=True))
    assert not client.take(image("/b"))
    assert client.take(image("/b", direct=False))


def test_each_command_grants_what_it_names() -> None:
    client = Client(
        add_net(type="tap", ifname="tap0", queues=2),
        {
            "execute": "device_add",
            "arguments": {"driver": "vfio-pci", "id": "v", "bus": "port", "host": "1A:00.3"},
        },
        {"execute": "migrate", "arguments": {"uri": "file:/srv/t"}},
    )
    assert not client.take(TapRequest(name="tap0", queues=1))
    for request in (
        TapRequest(name="tap0", queues=2),
        VfioRequest(host="0000:1a:00.3"),
        SnapshotRequest(place="/srv/t"),
    ):
        assert client.take(request) and not client.take(request)


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
    assert [client.take(VhostNetRequest()) for _ in range(count + 1)] == [True] * count + [False]


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
    for request in (
        image("/a"),
        VhostNetRequest(),
        SnapshotRequest(place="/srv/t"),
        SnapshotRequest(place="exec:/srv/t"),
        UnixRequest(path="/run/s"),
    ):
        assert not client.take(request)


def test_what_was_not_opened_before_the_answer_never_is() -> None:
    client = Client(add_image("/a"), add_image("/b"))
    client.witness.answered(1, accepted=False)
    assert not client.take(image("/a"))
    client.witness.answered(1, accepted=True)
    assert client.take(image("/b"))
    client.say(add_image("/c"))
    client.witness.answered(3, accepted=True)
    assert not client.take(image("/c"))


def test_requests_that_name_nothing_count() -> None:
    client = Client({"execute": "query-status"})
    client.witness.read(b"nonsense\n\n" + b"x" * (2 << 20) + b"\n")
    client.say(add_image("/a"))
    assert client.witness.count == 4
    client.witness.answered(3, accepted=False)
    assert client.take(image("/a"))


def test_a_socket_is_connected_to_while_its_chardev_is_there() -> None:
    client = Client(add_chardev("c", "/run/s"), add_chardev("d", "/run/t"))
    assert not client.take(UnixRequest(path="/run/s"))
    client.witness.answered(1, accepted=True)
    client.witness.answered(2, accepted=False)
    # A back end comes back, as often as it likes, whoever is connected to the monitor.
    client.witness.forget()
    assert client.take(UnixRequest(path="/run/s")) and client.take(UnixRequest(path="/run/s"))
    assert not client.take(UnixRequest(path="/run/t"))
    client.say(remove_chardev("c"))
    client.witness.answered(3, accepted=False)
    assert client.take(UnixRequest(path="/run/s"))
    client.say(remove_chardev("c"))
    client.witness.answered(4, accepted=True)
    assert not client.take(UnixRequest(path="/run/s"))


def test_the_chardevs_of_the_command_line_are_connected_to_as_they_may_come_back() -> None:
    config = VmConfig()
    chardevs = (
        SocketChardev(id="once", path="/run/once"),
        SocketChardev(id="again", path="/run/again", reconnect=1),
        SocketChardev(id="tcp", host="h", port=7, reconnect=1),
        SocketChardev(id="server", path="/run/server", server=True),
        SocketChardev(id="card", path="/run/card"),
    )
    config.chardevs = {chardev.id: chardev for chardev in chardevs}
    config.netdevs = {"n": VhostUser(id="n", chardev="card")}
    first = _first_grants(config)
    again, card = UnixRequest(path="/run/again"), UnixRequest(path="/run/card")
    assert is_taken(first, again) and is_taken(first, TcpRequest(host="h", port=7))
    assert not is_taken(first, UnixRequest(path="/run/once"))
    assert not is_taken(first, UnixRequest(path="/run/server"))
    assert is_taken(first, card) and is_taken(first, card)
    first.settle(Named(removed="again"))
    first.settle(Named(removed="card"))
    assert is_taken(first, again) and not is_taken(first, card)


HOSTILE: dict[str, dict[str, object]] = {
    "none": {},
    "one too few": {"path": "/a", "readonly": False, "direct": True},
    "one too many": image("/a").fields | {"mode": 7},
    "a number for a path": image("/a").fields | {"path": 7},
    "a number for a switch": image("/a").fields | {"readonly": 0},
    "a list for a text": image("/a").fields | {"source": ["x"]},
    "null": image("/a").fields | {"direct": None},
}


@pytest.mark.parametrize("fields", HOSTILE.values(), ids=HOSTILE)
def test_fields_that_no_request_has_are_refused_and_use_up_nothing(
    fields: dict[str, object],
) -> None:
    client = Client(add_image("/a"))
    with pytest.raises(ValueError, match=r"fields|type"):
        client.grants.take("image", fields)
    assert client.grants.take("picture", fields) is None
    assert client.take(image("/a"))


def test_a_list_is_one_of_texts() -> None:
    fields = VfioRequest(host="0000:1a:00.3", known=("1", "2")).fields
    assert VfioRequest.decode(json.loads(json.dumps(fields))).known == ("1", "2")
    for known in (["1", 2], "1", {"1": 1}):
        with pytest.raises(ValueError, match="texts"):
            VfioRequest.decode(fields | {"known": known})


def test_a_request_does_not_change() -> None:
    request = image("/a")
    with pytest.raises(AttributeError):
        request.path = "/b"  # type: ignore[misc]
    with pytest.raises(TypeError):
        ImageRequest(path="/a")  # type: ignore[call-arg]
    assert (request.path, request.grant) == ("/a", ("image", "/a", False, True))


def test_the_broker_reads_each_command_that_names_something_as_the_monitor_does() -> None:
    def variants(definition: type[Options] | Family) -> Iterable[type[Options]]:
        return definition.variants.values() if isinstance(definition, Family) else [definition]

    naming = {
        name: command.arguments
        for name, command in COMMANDS.items()
        if any(options.names is not Options.names for options in variants(command.arguments))
    }
    assert {name: grants._definition(name) for name in grants.NAMING} == naming


def test_a_command_in_escapes_grants_what_the_machine_will_open() -> None:
    client = Client()
    client.witness.read(
        rb'{"\u0065xecute": "\u006digrate", "arguments": {"uri": "file:\/srv\/\u0074"}}'
    )
    assert client.take(SnapshotRequest(place="/srv/t"))


def test_a_member_that_is_given_twice_is_the_last_one() -> None:
    client = Client()
    client.witness.read(
        b'{"execute": "migrate", "arguments": {"uri": "file:/a", "uri": "file:/b"}}'
    )
    assert client.take(SnapshotRequest(place="/b")) and not client.take(SnapshotRequest(place="/a"))


def test_a_command_in_pieces_is_read_when_it_is_whole() -> None:
    client = Client()
    text = json.dumps(add_image("/a")).encode()
    for byte in text[:-1]:
        client.witness.read(bytes([byte]))
    assert not client.take(image("/a"))
    client.witness.read(text[-1:])
    assert client.take(image("/a"))


def test_what_a_client_asked_for_is_gone_with_it() -> None:
    client = Client(add_image("/a"))
    text = json.dumps(add_image("/b")).encode()
    client.witness.read(text[:20])
    client.witness.forget()
    client.witness.read(text[20:] + b"\n")
    assert not client.take(image("/a"))
    assert not client.take(image("/b"))


def test_commands_without_answers_do_not_pile_up() -> None:
    client = Client(*(add_image(f"/{number}") for number in range(MOST_WAITING + 1)))
    assert not client.take(image("/0"))
    assert client.take(image(f"/{MOST_WAITING}"))


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
    assert client.take(image("/a"))


@pytest.mark.parametrize("name", ["antigravity.x", "pytest", "_socket", "..", "", "json.nothing"])
def test_no_module_is_run_for_being_asked_for(name: str) -> None:
    with pytest.raises(StratovirtError, match="is no Python module that could be given"):
        open_module(name)
    assert "antigravity" not in sys.modules
