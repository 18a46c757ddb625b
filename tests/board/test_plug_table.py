"""Every driver x board x property of what QMP adds: each request is answered, the machine lives.

The table is made of the definitions themselves, so a new driver or property is in it at once.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from stratovirt.config.chardev_add import ChardevAdd
from stratovirt.config.hot_replace import Blockdev
from stratovirt.config.hotplug import HOT_NETDEVS
from stratovirt.config.kinds import Choice, Integer, Kind, OnOff
from stratovirt.config.options import Nested, Options
from stratovirt.config.registry import DRIVERS, HOT_DRIVERS
from tests.board.conftest import Board
from tests.board.test_chardevs import connect
from tests.board.test_slots import HOTPLUG_INTERRUPT, OFF, POWER_OFF, Slot

Start = Callable[..., Board]
Arguments = dict[str, Any]

MONITORS = 8
"""Each answers a hundred commands a second."""
PLUGGABLE = {
    "microvm": {f"virtio-{kind}-{bus}" for kind in ("blk", "net") for bus in ("mmio", "device")},
    "q35": {"virtio-blk-pci", "virtio-net-pci"},
}
"""What the boards take here; without a host's device to pass through, vfio-pci is refused."""
WRONG: tuple[object, ...] = (None, [], [[]], {}, {"a": 1}, 1.5, True, 7, "7")
"""Of a type that most properties do not have; whether one has it, its definition knows."""
BEYOND: tuple[object, ...] = (
    -1, 1 << 31, 1 << 64, "-1", "", "x" * 5000, "a\0b", "%d", "../a", "é\ud800", "used",
)  # fmt: skip
PLACES = ("0", "0.0", "1", "1f.7", "0.1", "32", 0, 1, 4)
BUSES = ("port", "full", "pcie.0", "pci.0", "none", "disk0")


def plausible(key: str, kind: Kind[Any]) -> tuple[object, ...]:
    """What the property may be, its limits first."""
    if key == "addr":
        return PLACES
    if key == "bus":
        return BUSES
    if isinstance(kind, OnOff):
        return (True, False, "on")
    if isinstance(kind, Integer):
        return (kind.lowest, kind.highest, kind.highest + 1)
    if isinstance(kind, Choice):
        return kind.words
    return ("node", "net", "gone", "52:54:00:12:34:56", "0000:00:1f.7")


def variations(definition: type[Options], base: Arguments) -> Iterator[Arguments]:
    """The whole of it, and each property anew, missing, unknown."""
    yield base
    yield base | {"unknown": 1}
    for key, field in definition.fields.items():
        yield {name: value for name, value in base.items() if name != key}
        for value in (*plausible(key, field.kind), *WRONG, *BEYOND):
            yield base | {key: value}
        if isinstance(field.kind, Nested):
            for inner in variations(field.kind.definition, base.get(key, {})):
                yield base | {key: inner}


class Client:
    """Asks one monitor after the other, none of which ever hangs up."""

    def __init__(self, paths: list[Path]) -> None:
        self._sockets = [connect(path) for path in paths]
        streams = [peer.makefile("rw", newline="\n") for peer in self._sockets]
        for stream in streams:
            assert "QMP" in stream.readline()
        self._turns = cycle(streams)

    def ask(self, name: str, arguments: Arguments) -> bool:
        """Whether it was done."""
        stream = next(self._turns)
        request = json.dumps({"execute": name, "arguments": arguments})
        stream.write(request + "\n")
        stream.flush()
        while "event" in (answer := json.loads(stream.readline() or '"hung up"')):
            continue
        if "return" in answer:
            return True
        what = answer["error"]["desc"]
        assert "internal error" not in what and "\n" not in what, f"{request[:300]}: {what}"
        return False

    def close(self) -> None:
        for peer in self._sockets:
            peer.close()


@pytest.fixture
def tap() -> Iterator[str]:
    name = "svtable0"
    subprocess.run(("ip", "tuntap", "add", name, "mode", "tap"), check=True)
    yield name
    subprocess.run(("ip", "link", "del", name), check=True)


class Table:
    """A board, and what has to be there for a plausible request to be done."""

    def __init__(self, board: str, start_board: Start, folder: Path, tap: str) -> None:
        self.image, self.tap, self.socket = folder / "disk", tap, folder / "nobody"
        self.image.write_bytes(bytes(1 << 16))
        (folder / "first").write_bytes(bytes(1 << 16))
        paths = [folder / f"qmp{number}" for number in range(MONITORS)]
        argv = []
        for number, path in enumerate(paths):
            argv += ["-chardev", f"socket,id=m{number},path={path},server=on,wait=off"]
            argv += ["-mon", f"m{number}"]
        argv += ["-drive", f"id=first,file={folder}/first,direct=off"]
        argv += ["-object", "iothread,id=io"]
        disk = "drive=first,id=used"
        if board == "microvm":
            argv += ["-device", f"virtio-blk-device,{disk}"]
        else:
            for number, name in enumerate(("port", "full"), 1):
                place = f"bus=pcie.0,addr={number},port={number}"
                argv += ["-device", f"pcie-root-port,id={name},{place}"]
            argv += ["-device", f"virtio-blk-pci,{disk},bus=full,addr=0"]
        self.board = start_board(*argv, board=board)
        if board == "q35":
            # A slot that its driver leaves without power is emptied at once.
            Slot(self.board.cpu).control = HOTPLUG_INTERRUPT | POWER_OFF | OFF
        self.client = Client(paths)
        self.client.ask("blockdev-add", self.node)
        self.client.ask("netdev_add", self.netdev)

    @property
    def node(self) -> Arguments:
        file = {"driver": "file", "filename": str(self.image)}
        return {"node-name": "node", "driver": "raw", "file": file, "cache": {"direct": False}}

    @property
    def netdev(self) -> Arguments:
        return {"type": "tap", "id": "net", "ifname": self.tap}

    @property
    def chardev(self) -> Arguments:
        address = {"type": "unix", "data": {"path": str(self.socket)}}
        data = {"addr": address, "server": False, "reconnect": 0}
        return {"id": "char", "backend": {"type": "socket", "data": data}}

    def add(self, name: str, arguments: Arguments, remove: str, key: str, anew: Arguments) -> bool:
        """Ask for it; what was added is removed, and `anew` is there again."""
        done = self.client.ask(name, arguments)
        if done:
            assert self.client.ask(remove, {key: arguments[key]}), arguments
            assert not self.client.ask(remove, {key: arguments[key]}), arguments
            if anew:
                command = "blockdev-add" if "node-name" in anew else "netdev_add"
                self.client.ask(command, anew)
        return done

    def end(self) -> None:
        """It lives, and had nothing to complain about."""
        assert self.client.ask("query-status", {})
        self.client.close()
        assert self.board.machine.terminate() == 0
        assert b"internal error" not in self.board.machine.errors


def device(driver: str, definition: type[Options]) -> Arguments:
    """A request that is done where the board has such devices."""
    wanted: Arguments = {
        "driver": driver, "id": "dev", "bus": "port", "addr": "0",
        "drive": "node", "netdev": "net", "host": "0000:00:1f.7",
    }  # fmt: skip
    return {k: v for k, v in wanted.items() if k == "driver" or k in definition.fields}


@pytest.mark.parametrize("board", PLUGGABLE)
def test_every_device_that_is_asked_for_is_answered(
    start_board: Start, tmp_path: Path, tap: str, board: str
) -> None:
    table = Table(board, start_board, tmp_path, tap)
    plugged = set()
    for driver, definition in (DRIVERS.variants | HOT_DRIVERS.variants).items():
        wanted = device(driver, definition)
        # Of a driver that is there from the start only, nothing but the name is looked at.
        requests = variations(definition, wanted) if driver in HOT_DRIVERS.variants else [wanted]
        anew = table.netdev if "netdev" in definition.fields else table.node
        for arguments in requests:
            if table.add("device_add", arguments, "device_del", "id", anew):
                plugged.add(driver)
        assert table.client.ask("query-status", {})
    assert plugged == PLUGGABLE[board]
    table.end()


@pytest.mark.parametrize("board", PLUGGABLE)
def test_every_back_end_that_is_asked_for_is_answered(
    start_board: Start, tmp_path: Path, tap: str, board: str
) -> None:
    table = Table(board, start_board, tmp_path, tap)
    for taken, name in (("blockdev-del", "node-name"), ("netdev_del", "id")):
        assert table.client.ask(taken, {name: "node" if name == "node-name" else "net"})
    added = set()
    for arguments in variations(Blockdev, table.node):
        if table.add("blockdev-add", arguments, "blockdev-del", "node-name", {}):
            added.add("node")
    for kind, definition in HOT_NETDEVS.variants.items():
        base = table.netdev if kind == "tap" else {"type": kind, "id": "net", "chardev": "char"}
        for arguments in variations(definition, base):
            if table.add("netdev_add", arguments, "netdev_del", "id", {}):
                added.add(kind)
    for arguments in variations(ChardevAdd, table.chardev):
        if table.add("chardev-add", arguments, "chardev-remove", "id", {}):
            added.add("chardev")
    assert added == {"node", "tap", "chardev"}
    table.end()


@pytest.mark.parametrize("board", PLUGGABLE)
def test_an_id_that_is_taken_is_refused(
    start_board: Start, tmp_path: Path, tap: str, board: str
) -> None:
    table = Table(board, start_board, tmp_path, tap)
    driver = {"microvm": "virtio-blk-device", "q35": "virtio-blk-pci"}[board]
    request = device(driver, HOT_DRIVERS.variants[driver])
    if board == "microvm":
        request["addr"] = "1"
    ask = table.client.ask
    assert not ask("device_add", request | {"id": "used"})
    assert not ask("blockdev-add", table.node) and not ask("netdev_add", table.netdev)
    assert not ask("blockdev-add", table.node | {"node-name": "first"})
    assert ask("device_add", request)
    assert not ask("device_add", request)
    assert not ask("device_add", request | {"id": "other"}), "slot and node are taken"
    assert not ask("blockdev-add", table.node) and not ask("blockdev-del", {"node-name": "node"})
    assert ask("chardev-add", table.chardev) and not ask("chardev-add", table.chardev)
    table.end()
