"""Descriptors and names that a manager hands over: taken whole, or refused and gone."""

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.board.conftest import Board
from tests.machine_process import QmpClient

Start = Callable[..., Board]
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 1, 0x1000


@pytest.fixture
def monitored(start_board: Start, tmp_path: Path) -> Iterator[tuple[Board, QmpClient]]:
    """A microvm and its monitor."""
    board = start_board("-qmp", f"unix:{tmp_path}/qmp,server,nowait")
    with QmpClient(tmp_path / "qmp") as client:
        yield board, client


def refused(client: QmpClient, command: str, /, **arguments: object) -> str:
    with pytest.raises(Exception, match=r".") as error:
        client.cmd(command, **arguments)
    assert client.cmd("query-status")["running"]
    return str(error.value)


def open_descriptors(board: Board) -> int:
    return len(os.listdir(f"/proc/{board.machine.process.pid}/fd"))


def send(client: QmpClient, name: str, fd: int) -> None:
    """Name a descriptor, which stays ours as well for no longer than this."""
    client.send_descriptor(fd)
    client.cmd("getfd", fdname=name)


@contextmanager
def opened(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def test_a_descriptor_of_a_path_is_refused_when_it_is_named(
    monitored: tuple[Board, QmpClient], tmp_path: Path
) -> None:
    board, client = monitored
    before = open_descriptors(board)
    for path in ("/dev/net/tun", str(tmp_path)):
        with opened(os.open(path, os.O_PATH)) as fd:
            client.send_descriptor(fd)
            assert "O_PATH" in refused(client, "getfd", fdname="f")
    assert "no file descriptor is called" in refused(
        client, "netdev_add", id="n", type="tap", fd="f"
    )
    assert open_descriptors(board) == before


def a_tun() -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"svtest%d", IFF_TUN | IFF_NO_PI))
    return fd


WRONG_TAPS: dict[str, Callable[[Path], int]] = {
    "a file": lambda folder: os.open(folder / "file", os.O_RDWR | os.O_CREAT),
    "a folder": lambda folder: os.open(folder, os.O_RDONLY),
    "an eventfd": lambda _folder: os.eventfd(0),
    "the device itself": lambda _folder: os.open("/dev/net/tun", os.O_RDWR),
    "a tun": lambda _folder: a_tun(),
}


@pytest.mark.parametrize("make", WRONG_TAPS.values(), ids=WRONG_TAPS)
def test_what_is_no_tap_is_refused_and_closed(
    monitored: tuple[Board, QmpClient], tmp_path: Path, make: Callable[[Path], int]
) -> None:
    board, client = monitored
    before = open_descriptors(board)
    with opened(make(tmp_path)) as fd:
        send(client, "f", fd)
    text = refused(client, "netdev_add", id="n", type="tap", fd="f")
    assert "netdev tap,id=n: not a tap: " in text
    assert open_descriptors(board) == before


def test_what_is_no_vhost_device_is_refused_and_closed(
    monitored: tuple[Board, QmpClient], tmp_path: Path
) -> None:
    board, client = monitored
    before = open_descriptors(board)
    with opened(os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)) as fd:
        send(client, "v", fd)
    text = refused(
        client, "netdev_add", id="n", type="tap", ifname="svtest1", vhost=True, vhostfd="v"
    )
    assert "cannot use vhost-net: VHOST_SET_OWNER: Inappropriate ioctl for device" in text
    assert open_descriptors(board) == before


def test_a_netdev_that_is_refused_takes_all_its_descriptors_or_none(
    monitored: tuple[Board, QmpClient],
) -> None:
    board, client = monitored
    before = open_descriptors(board)
    with opened(os.eventfd(0)) as fd:
        send(client, "a", fd)
        send(client, "b", fd)
    tap: dict[str, object] = {"id": "n", "type": "tap", "vhost": True}
    # None: another name is not there, or one is there twice, or the netdev is.
    client.cmd("netdev_add", id="there", type="tap", ifname="svtest1")
    for wrong in ({"fds": "a:b:c"}, {"fds": "a:b", "vhostfds": "c"}, {"fd": "a", "vhostfd": "a"}):
        assert "file descriptor" in refused(client, "netdev_add", **{**tap, **wrong})
    assert "another netdev" in refused(client, "netdev_add", type="tap", id="there", fds="a:b")
    client.cmd("netdev_del", id="there")
    assert open_descriptors(board) == before + 2
    # All: it fails when they are looked at.
    assert "not a tap" in refused(client, "netdev_add", **tap, fds="a", vhostfds="b")
    assert open_descriptors(board) == before


def test_descriptors_beside_a_name_are_closed_since_the_name_wins(
    monitored: tuple[Board, QmpClient],
) -> None:
    board, client = monitored
    before = open_descriptors(board)
    with opened(os.eventfd(0)) as fd:
        send(client, "f", fd)
    client.cmd("netdev_add", id="n", type="tap", ifname="svtest1", fd="f")
    client.cmd("netdev_del", id="n")
    assert open_descriptors(board) == before


NAMES: dict[str, tuple[str, dict[str, object], str]] = {
    "an interface with NUL": (
        "netdev_add", {"type": "tap", "id": "n", "ifname": "tap0\0x"}, "without NUL characters",
    ),
    "a pattern of the kernel's": (
        "netdev_add", {"type": "tap", "id": "n", "ifname": "tap%d"}, "no '/', ':', '%' or blank",
    ),
    "an image with NUL": (
        "blockdev-add", {"node-name": "n", "file": {"filename": "/a\0b"}}, "without NUL characters",
    ),
    "a folder with NUL": ("migrate", {"uri": "file:/a\0b"}, "without NUL characters"),
    "a socket with NUL": (
        "chardev-add",
        {"id": "c", "backend": {"type": "socket", "data": {
            "addr": {"type": "unix", "data": {"path": "/a\0b"}}, "server": False}}},
        "without NUL characters",
    ),
    "an interface of too many bytes": (
        "netdev_add",
        {"type": "tap", "id": "n", "ifname": "\u00e9" * 8},
        "at most 15 bytes",
    ),
    "a socket of too many bytes": (
        "chardev-add",
        {
            "id": "c",
            "backend": {
                "type": "socket",
                "data": {
                    "addr": {"type": "unix", "data": {"path": "/" + "\u00e9" * 54}},
                    "server": False,
                },
            },
        },
        "at most 107 bytes",
    ),
    "a descriptor with NUL": ("getfd", {"fdname": "a\0"}, "without NUL characters"),
    "a serial number with NUL": (
        "device_add",
        {"driver": "virtio-blk-mmio", "id": "d", "addr": "0x0", "serial": "a\0b"},
        "without NUL characters",
    ),
    "an option with NUL": (
        "query-command-line-options", {"option": "a\0b"}, "without NUL characters",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("command", "arguments", "why"), NAMES.values(), ids=NAMES)
def test_a_name_that_the_kernel_would_read_otherwise_is_refused(
    monitored: tuple[Board, QmpClient], command: str, arguments: dict[str, object], why: str
) -> None:
    text = refused(monitored[1], command, **arguments)
    assert why in text and "\n" not in text
