"""What the broker lets a locked-down machine open: what clients have named, and no more."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratovirt.errors import StratovirtError
from stratovirt.host.grants import DRAFT, IMAGE, MOST_GRANTS, TAP, UNIX, VFIO, Grants, Witness
from stratovirt.host.modules import open_module


def said(*commands: dict[str, object]) -> Grants:
    """The grants after a client has sent these."""
    grants = Grants()
    witness = Witness(grants)
    for command in commands:
        witness.read(json.dumps(command).encode() + b"\n")
    return grants


def add_image(path: str) -> dict[str, object]:
    return {"execute": "blockdev-add", "arguments": {"node-name": "n", "file": {"filename": path}}}


def test_what_a_command_names_can_be_opened_once() -> None:
    grants = said(add_image("/a"))
    assert not grants.take(IMAGE, "/b") and not grants.take(TAP, "/a")
    assert grants.take(IMAGE, "/a")
    assert not grants.take(IMAGE, "/a")


def test_each_command_grants_what_it_names() -> None:
    address = {"type": "unix", "data": {"path": "/run/s"}}
    grants = said(
        {"execute": "netdev_add", "arguments": {"type": "tap", "id": "n", "ifname": "tap0"}},
        {"execute": "device_add", "arguments": {"driver": "vfio-pci", "host": "1A:00.3"}},
        {"execute": "migrate", "arguments": {"uri": "file:/srv/t"}},
        {
            "execute": "chardev-add",
            "arguments": {"id": "c", "backend": {"type": "socket", "data": {"addr": address}}},
        },
    )
    for grant in ((TAP, "tap0"), (VFIO, "0000:1a:00.3"), (DRAFT, "/srv/t")):
        assert grants.take(*grant) and not grants.take(*grant)
    # A back end comes back, as often as it likes.
    assert grants.take(UNIX, "/run/s") and grants.take(UNIX, "/run/s")


def test_other_commands_grant_nothing() -> None:
    grants = said(
        {"execute": "query-block", "arguments": {"file": {"filename": "/a"}}},
        {"execute": "getfd", "arguments": {"fdname": "blockdev-add"}},
        {"execute": ["blockdev-add"], "arguments": {"file": {"filename": "/a"}}},
        {"execute": "blockdev-add", "arguments": ["/a"]},
        {"execute": "blockdev-add", "arguments": {"file": {"filename": 7}}},
    )
    assert not grants.take(IMAGE, "/a")


def test_a_command_in_pieces_is_read_when_it_is_whole() -> None:
    grants = Grants()
    witness = Witness(grants)
    text = json.dumps(add_image("/a")).encode()
    for byte in text[:-1]:
        witness.read(bytes([byte]))
    assert not grants.take(IMAGE, "/a")
    witness.read(text[-1:])
    assert grants.take(IMAGE, "/a")


def test_half_a_command_is_gone_with_its_client() -> None:
    grants = Grants()
    witness = Witness(grants)
    text = json.dumps(add_image("/a")).encode()
    witness.read(text[:20])
    witness.forget()
    witness.read(text[20:] + b"\n")
    assert not grants.take(IMAGE, "/a")


def test_grants_that_nobody_uses_do_not_pile_up() -> None:
    grants = said(*(add_image(f"/{number}") for number in range(2 * MOST_GRANTS)))
    assert not grants.take(IMAGE, "/0")
    assert grants.take(IMAGE, f"/{2 * MOST_GRANTS - 1}")


@given(st.binary(max_size=200))
def test_nonsense_grants_nothing_and_harms_nobody(content: bytes) -> None:
    grants = Grants()
    Witness(grants).read(content + b'{"execute": "blockdev-add", "arguments": ')
    assert grants._once == []


@pytest.mark.parametrize("name", ["antigravity.x", "pytest", "_socket", "..", "", "json.nothing"])
def test_no_module_is_run_for_being_asked_for(name: str) -> None:
    with pytest.raises(StratovirtError, match="is no Python module that could be given"):
        open_module(name)
    assert "antigravity" not in sys.modules
