"""Root ports and resets: what a slot says of itself, and that a reset leaves nothing running."""

import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from qemu.qmp.qmp_client import ExecuteError

from tests.board.conftest import Board, Processor
from tests.board.pci_driver import Function, PciDriver
from tests.board.virtio_driver import VERSION_1, MmioDriver
from tests.machine_process import QmpClient, run_to_end, wait_until

Start = Callable[..., Board]
PORT = ("-device", "pcie-root-port,id=port,bus=pcie.0,addr=1,port=1")
SECONDARY, BRIDGE_CONTROL, BUS_RESET = 0x19, 0x3E, 1 << 6
SLOT_CONTROL, SLOT_STATUS = 0x18, 0x1A
BUTTON, PRESENCE = 1 << 0, 1 << 3
HOTPLUG_INTERRUPT, POWER_OFF = 1 << 5, 1 << 10
ON, BLINK, OFF = 1 << 8, 2 << 8, 3 << 8
BUFFER = 0x20_0000


class Slot:
    """A root port as its driver sees it."""

    def __init__(self, cpu: Processor) -> None:
        self.function = Function(cpu, 1)
        self._express = self.function.capability(0x10)
        self.function.set(SECONDARY, 1, 1)
        self.function.set(SECONDARY + 1, 1, 1)

    @property
    def control(self) -> int:
        return self.function.get(self._express + SLOT_CONTROL, 2)

    @control.setter
    def control(self, value: int) -> None:
        self.function.set(self._express + SLOT_CONTROL, value, 2)

    def events(self) -> int:
        """What has happened since last asked."""
        status = self.function.get(self._express + SLOT_STATUS, 2)
        self.function.set(self._express + SLOT_STATUS, status, 2)
        return status


@pytest.fixture
def machine(start_board: Start, tmp_path: Path) -> Iterator[tuple[Board, QmpClient]]:
    qmp = tmp_path / "qmp"
    (tmp_path / "disk").write_bytes(bytes(1 << 16))
    board = start_board("-qmp", f"unix:{qmp},server,nowait", *PORT, board="q35")
    with QmpClient(qmp) as client:
        yield board, client


def plug(client: QmpClient, folder: Path) -> None:
    file = {"filename": str(folder / "disk")}
    client.cmd("blockdev-add", **{"node-name": "d", "file": file, "cache": {"direct": False}})
    client.cmd("device_add", id="d", driver="virtio-blk-pci", bus="port", drive="d")


def is_there(client: QmpClient) -> bool:
    return bool(client.cmd("query-block"))


def test_what_was_plugged_before_the_guest_ran_is_asked_for(
    machine: tuple[Board, QmpClient], tmp_path: Path
) -> None:
    board, client = machine
    plug(client, tmp_path)
    slot = Slot(board.cpu)
    assert not slot.control & POWER_OFF and slot.control & OFF == ON
    slot.control |= HOTPLUG_INTERRUPT
    slot.events()
    client.cmd("device_del", id="d")
    assert slot.events() & BUTTON and is_there(client), "the guest is asked, and has not answered"
    slot.control = HOTPLUG_INTERRUPT | POWER_OFF | OFF
    client.wait_event("DEVICE_DELETED")
    assert not is_there(client)


def test_a_device_of_another_board_is_refused(machine: tuple[Board, QmpClient]) -> None:
    _board, client = machine
    for driver in ("virtio-blk-mmio", "virtio-net-mmio"):
        text = f"device_add {driver}: this board has no hot-replace slots"
        with pytest.raises(ExecuteError, match=text):
            client.cmd("device_add", id="d", driver=driver, addr="0x0")


def test_an_unplug_that_the_guest_cancels_can_be_asked_for_again(
    machine: tuple[Board, QmpClient], tmp_path: Path
) -> None:
    board, client = machine
    plug(client, tmp_path)
    slot = Slot(board.cpu)
    slot.control |= HOTPLUG_INTERRUPT
    slot.events()
    client.cmd("device_del", id="d")
    with pytest.raises(ExecuteError, match="in the process of being unplugged"):
        client.cmd("device_del", id="d")
    assert slot.events() & BUTTON
    slot.control = HOTPLUG_INTERRUPT | BLINK
    slot.control = HOTPLUG_INTERRUPT | ON
    client.cmd("device_del", id="d")
    assert slot.events() & BUTTON and is_there(client)


def test_a_disk_of_the_command_line_goes_with_its_drive_once_the_guest_lets_go(
    start_board: Start, tmp_path: Path
) -> None:
    qmp, image = tmp_path / "qmp", tmp_path / "disk"
    image.write_bytes(bytes(1 << 16))
    board = start_board(
        "-qmp", f"unix:{qmp},server,nowait", *PORT, "-drive", f"id=f,file={image},direct=off",
        "-device", "virtio-blk-pci,drive=f,id=d,bus=port,addr=0", board="q35",
    )  # fmt: skip
    slot = Slot(board.cpu)
    slot.control |= HOTPLUG_INTERRUPT
    node = {"node-name": "f"}
    with QmpClient(qmp) as client:

        def refused(command: str, text: str, **arguments: str) -> None:
            with pytest.raises(ExecuteError, match=text):
                client.cmd(command, **arguments)

        refused("blockdev-del", "the block node f is in use by d$", **node)
        client.cmd("device_del", id="d")
        refused("device_del", "d is in the process of being unplugged", id="d")
        text = "the block node f is in use by d, which the guest was asked to let go of"
        refused("blockdev-del", text, **node)
        slot.control = HOTPLUG_INTERRUPT | POWER_OFF | OFF
        assert client.wait_event("DEVICE_DELETED")["data"]["device"] == "d"
        client.cmd("blockdev-del", **node)
        refused("blockdev-del", "there is no block node f", **node)
        assert image not in {
            Path(fd).readlink() for fd in Path(f"/proc/{board.machine.process.pid}/fd").iterdir()
        }
        # Both names are free.
        file = {"filename": str(image)}
        client.cmd("blockdev-add", **node, file=file, cache={"direct": False})
        client.cmd("device_add", id="d", driver="virtio-blk-pci", bus="port", drive="f")


def test_a_disk_without_an_id_goes_with_its_drive_too(start_board: Start, tmp_path: Path) -> None:
    qmp, drives = tmp_path / "qmp", []
    for name in ("f", "g"):
        (tmp_path / name).write_bytes(bytes(1 << 16))
        drives += ["-drive", f"id={name},file={tmp_path / name},direct=off"]
    board = start_board(
        "-qmp", f"unix:{qmp},server,nowait", *PORT, *drives,
        "-device", "virtio-blk-pci,drive=f,id=d,bus=port,addr=0,multifunction=on",
        "-device", "virtio-blk-pci,drive=g,bus=port,addr=0.1,multifunction=on", board="q35",
    )  # fmt: skip
    slot = Slot(board.cpu)
    node = {"node-name": "g"}
    with QmpClient(qmp) as client:

        def anonymous() -> list[str]:
            listed = client.cmd("qom-list", path="/machine/peripheral-anon")
            return [entry["name"] for entry in listed]

        assert anonymous() == ["device[2]"]
        with pytest.raises(ExecuteError, match="the block node g is in use by -device virtio-blk"):
            client.cmd("blockdev-del", **node)
        client.cmd("device_del", id="d")
        slot.control = HOTPLUG_INTERRUPT | POWER_OFF | OFF
        assert client.wait_event("DEVICE_DELETED")["data"]["device"] == "d"
        assert not is_there(client) and anonymous() == []
        client.cmd("blockdev-del", **node)


def test_a_guest_that_does_not_answer_may_be_asked_again_after_five_seconds(
    machine: tuple[Board, QmpClient], tmp_path: Path
) -> None:
    board, client = machine
    plug(client, tmp_path)
    slot = Slot(board.cpu)
    slot.control |= HOTPLUG_INTERRUPT
    client.cmd("device_del", id="d")
    board.cpu.ask("clock_step 4999999999")
    with pytest.raises(ExecuteError, match="in the process of being unplugged"):
        client.cmd("device_del", id="d")
    board.cpu.ask("clock_step 1")
    client.cmd("device_del", id="d")


@pytest.mark.parametrize("of", ["client", "guest"])
def test_a_reset_finishes_an_unplug_that_the_guest_has_not_answered(
    machine: tuple[Board, QmpClient], tmp_path: Path, of: str
) -> None:
    board, client = machine
    plug(client, tmp_path)
    Slot(board.cpu).control |= HOTPLUG_INTERRUPT
    client.cmd("device_del", id="d")
    assert is_there(client)
    if of == "client":
        client.cmd("system_reset")
    else:
        board.cpu.do("outb cf9 6")
    client.wait_event("DEVICE_DELETED")
    assert not is_there(client)


def test_a_card_that_is_plugged_presses_the_button_too(
    machine: tuple[Board, QmpClient], tmp_path: Path
) -> None:
    board, client = machine
    slot = Slot(board.cpu)
    slot.control |= HOTPLUG_INTERRUPT
    slot.events()
    plug(client, tmp_path)
    assert slot.events() & (BUTTON | PRESENCE) == BUTTON | PRESENCE
    assert slot.control & POWER_OFF, "its power is the guest's to give"


def test_a_slot_without_power_keeps_its_device_until_that_is_deleted(
    machine: tuple[Board, QmpClient], tmp_path: Path
) -> None:
    board, client = machine
    plug(client, tmp_path)
    slot = Slot(board.cpu)
    driver = PciDriver(board.cpu, 0, bus=1)
    driver.bring_up()
    slot.control = HOTPLUG_INTERRUPT | POWER_OFF | OFF
    assert is_there(client), "nobody asked for it"
    slot.control = HOTPLUG_INTERRUPT | ON
    again = PciDriver(board.cpu, 0, bus=1)
    assert again.get(0x14, 1) == 0, "without power it has forgotten everything"
    again.bring_up()
    slot.control = HOTPLUG_INTERRUPT | POWER_OFF | OFF
    client.cmd("device_del", id="d")
    client.wait_event("DEVICE_DELETED")
    assert not is_there(client)
    plug_again = {"id": "d", "driver": "virtio-blk-pci", "bus": "port", "drive": "d"}
    client.cmd("device_add", **plug_again)
    assert is_there(client)


def test_a_slot_goes_with_all_its_functions(start_board: Start, tmp_path: Path) -> None:
    qmp = tmp_path / "qmp"
    disks: list[str] = []
    for function, name in enumerate((",id=first", ",id=second", "")):
        image = tmp_path / f"disk{function}"
        image.write_bytes(bytes(4096))
        place = f"bus=port,addr=0.{function},multifunction=on{name}"
        disks += ["-drive", f"id=d{function},file={image},direct=off"]
        disks += ["-device", f"virtio-blk-pci,drive=d{function},{place}"]
    board = start_board("-qmp", f"unix:{qmp},server,nowait", *PORT, *disks, board="q35")
    slot = Slot(board.cpu)
    with QmpClient(qmp) as client:
        slot.control |= HOTPLUG_INTERRUPT
        client.cmd("device_del", id="second")
        slot.control = HOTPLUG_INTERRUPT | POWER_OFF | OFF
        gone = {client.wait_event("DEVICE_DELETED")["data"]["device"] for _ in range(2)}
        assert gone == {"first", "second"}
        for function in range(3):
            assert Function(board.cpu, 0, function, bus=1).get(0) == 0xFFFF_FFFF
        with pytest.raises(ExecuteError, match="takes one function"):
            client.cmd("device_add", id="n", driver="virtio-net-pci", bus="port", addr="0.1")


def test_a_console_device_behind_a_port_comes_out_and_its_peer_may_go_on_typing(
    start_board: Start, tmp_path: Path
) -> None:
    qmp, hvc = tmp_path / "qmp", tmp_path / "hvc"
    board = start_board(
        "-qmp", f"unix:{qmp},server,nowait", *PORT,
        "-device", "virtio-serial-pci,id=s,bus=port,addr=0",
        "-chardev", f"socket,id=c,path={hvc},server,nowait", "-device", "virtconsole,chardev=c",
        board="q35",
    )  # fmt: skip
    slot = Slot(board.cpu)
    with QmpClient(qmp) as client, socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(hvc))
        slot.control |= HOTPLUG_INTERRUPT
        client.cmd("device_del", id="s")
        slot.control = HOTPLUG_INTERRUPT | POWER_OFF | OFF
        client.wait_event("DEVICE_DELETED")
        peer.sendall(bytes(100_000))
        assert client.cmd("query-status")["running"]
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(hvc))
        peer.sendall(b"again")
    assert board.machine.terminate() == 0


def test_a_bus_reset_stops_the_devices_behind_it(start_board: Start) -> None:
    board = start_board(
        *PORT, "-object", "rng-random,id=r,filename=/dev/zero",
        "-device", "virtio-rng-pci,rng=r,bus=port,addr=0", board="q35",
    )  # fmt: skip
    slot = Slot(board.cpu)
    driver = PciDriver(board.cpu, 0, bus=1)
    (ring,) = driver.bring_up()
    bridge = slot.function
    bridge.set(BRIDGE_CONTROL, BUS_RESET, 2)
    bridge.set(BRIDGE_CONTROL, 0, 2)
    again = PciDriver(board.cpu, 0, bus=1)
    assert again.get(0x14, 1) == 0, "device_status is as after power-on"
    ring.offer(ring.chain([(BUFFER, 64, True)]))
    board.cpu.write(BUFFER, b"\xff" * 64)
    again.kick()
    board.cpu.ask("clock_step 1000000")
    assert board.cpu.read(BUFFER, 64) == b"\xff" * 64 and ring.used_index() == 0
    (ring,) = again.bring_up()
    ring.offer(ring.chain([(BUFFER, 64, True)]))
    again.kick()
    again.done(ring, 1)


F_CSUM, F_GUEST_CSUM, F_GUEST_TSO4, F_GUEST_ECN = 1 << 0, 1 << 1, 1 << 7, 1 << 9
F_HOST_TSO4, F_CTRL_VQ, F_CTRL_RX, F_MQ = 1 << 11, 1 << 17, 1 << 18, 1 << 22


@pytest.mark.parametrize(
    ("wanted", "accepted"),
    [
        (F_GUEST_TSO4, 0),
        (F_GUEST_CSUM | F_GUEST_ECN, F_GUEST_CSUM),
        (F_HOST_TSO4, 0),
        (F_CTRL_RX, 0),
        (1 << 50, 0),
        (F_GUEST_CSUM | F_GUEST_TSO4, F_GUEST_CSUM | F_GUEST_TSO4),
    ],
)
def test_features_that_cannot_be_accepted_are_taken_out_of_the_register(
    start_board: Start, tmp_path: Path, wanted: int, accepted: int
) -> None:
    name = "svfeat0"
    subprocess.run(["ip", "tuntap", "add", name, "mode", "tap"], check=True)
    try:
        board = start_board(
            "-netdev", f"tap,id=n,ifname={name}",
            "-device", "virtio-net-pci,netdev=n,id=card,bus=pcie.0,addr=1", board="q35",
        )  # fmt: skip
        driver = PciDriver(board.cpu, 1)
        wanted, accepted = wanted | VERSION_1, accepted | VERSION_1
        for status in (0, 1, 3):
            driver.set(0x14, status, 1)
        for word in (0, 1):
            driver.set(0x08, word, 4)
            driver.set(0x0C, wanted >> 32 * word & 0xFFFF_FFFF, 4)
        driver.set(0x14, 11, 1)
        assert bool(driver.get(0x14, 1) & 8) == (wanted == accepted)
        found = 0
        for word in (0, 1):
            driver.set(0x08, word, 4)
            found |= driver.get(0x0C, 4) << 32 * word
        assert found == accepted
        driver.set(0x14, 15, 1)
        assert board.machine.process.poll() is None
    finally:
        subprocess.run(["ip", "link", "del", name], check=False)


def test_tables_follow_an_ecam_above_four_gigabytes(start_board: Start, tmp_path: Path) -> None:
    store = tmp_path / "vars.fd"
    store.write_bytes(bytes(16384))
    board = start_board("-drive", f"file={store},if=pflash,unit=0", board="q35")
    cpu = board.cpu
    cpu.do("outl cf8 80000064")
    cpu.do("outl cfc 8")
    cpu.do("outl cf8 80000060")
    cpu.do("outl cfc 1")
    cpu.write(0x1000, struct.pack(">IIQ", 0x19 << 16 | 8 | 2, 4, 0x2000))
    cpu.do("outl 518 100000")
    count = int.from_bytes(cpu.read(0x2000, 4), "big")
    cpu.write(0x1000, struct.pack(">IIQ", 2, 64 * count, 0x3000))
    cpu.do("outl 518 100000")
    for at in range(count):
        size, key, _, name = struct.unpack(">IHH56s", cpu.read(0x3000 + 64 * at, 64))
        if name.rstrip(b"\0") == b"etc/acpi/tables":
            cpu.write(0x1000, struct.pack(">IIQ", key << 16 | 8 | 2, size, 0x10_0000))
            cpu.do("outl 518 100000")
            tables = cpu.read(0x10_0000, size)
            mcfg = tables.index(b"MCFG")
            assert struct.unpack_from("<Q", tables, mcfg + 44)[0] == 8 << 32
            break
    else:
        raise AssertionError("fw_cfg has no tables")
    assert b"internal error" not in board.machine.errors


def test_one_variable_store_serves_one_machine(start_board: Start, tmp_path: Path) -> None:
    store = tmp_path / "vars.fd"
    store.write_bytes(bytes(16384))
    drive = ("-drive", f"file={store},if=pflash,unit=1")
    board = start_board(*drive, board="q35")
    wait_until(lambda: board.cpu.value("inb 71") >= 0, "the board")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "another"))
        listener.listen(1)
        mod = f"unix:{tmp_path}/another"
        second = run_to_end("-machine", "q35", "-accel", "test", "-mod-test", mod, *drive)
    assert second.returncode == 1 and "in use by another process" in second.stderr


def test_the_generation_moves_with_the_configuration(start_board: Start, tmp_path: Path) -> None:
    qmp = tmp_path / "qmp"
    board = start_board(
        "-qmp", f"unix:{qmp},server,nowait", "-device", "virtio-balloon-device,id=b"
    )
    driver = MmioDriver(board.cpu)
    before = driver.get(0xFC)
    with QmpClient(qmp) as client:
        client.cmd("balloon", value=200 << 20)
    assert driver.get(0xFC) == before + 1
