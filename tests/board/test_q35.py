"""q35 without a processor: PCI configuration, BARs, MSI-X, flash, fw_cfg, clock and power."""

import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.board.conftest import Board, Processor
from tests.board.pci_driver import (
    DATA,
    ECAM,
    MESSAGE,
    MSIX_BAR,
    REGISTERS_BAR,
    Function,
    PciDriver,
)
from tests.machine_process import QmpClient, wait_until

Start = Callable[..., Board]
BUFFER = 0x20_0000
RNG = ("-object", "rng-random,id=r,filename=/dev/zero", "-device")
PLACE = "bus=pcie.0,addr=0x1"
FLASH_TOP = 1 << 32
KIB = 1 << 10


@pytest.fixture
def rng(start_board: Start) -> Board:
    return start_board(*RNG, f"virtio-rng-pci,rng=r,{PLACE}", board="q35")


def fill(driver: PciDriver, count: int = 1) -> None:
    """Have the rng fill a buffer."""
    ring = driver.rings[0]
    driver.cpu.write(BUFFER, b"\xff" * 64)
    ring.want_interrupt_after(count - 1)
    ring.offer(ring.chain([(BUFFER, 64, True)]))
    driver.kick()
    driver.done(ring, count)
    assert driver.cpu.read(BUFFER, 64) == bytes(64)


def test_ports_and_memory_reach_the_same_configuration(rng: Board) -> None:
    cpu = rng.cpu
    for register in range(0, 256, 4):
        cpu.do(f"outl cf8 {0x8000_0000 | 1 << 11 | register:x}")
        assert cpu.value("inl cfc") == Function(cpu, 1).get(register)
    assert Function(cpu, 2).get(0) == 0xFFFF_FFFF
    assert Function(cpu, 1, 1).get(0) == 0xFFFF_FFFF
    cpu.do("outl cf8 800")
    assert cpu.value("inl cfc") == 0xFFFF_FFFF


def test_a_bar_tells_its_size_and_goes_where_it_is_put(rng: Board) -> None:
    function = Function(rng.cpu, 1)
    function.place(4, (1 << 64) - 1)
    assert function.get(0x20) == 0xFFFF_C00C and function.get(0x24) == 0xFFFF_FFFF
    driver = PciDriver(rng.cpu, 1)
    assert driver.get(0x12, 2) == 1
    for address in (0xC100_0000, 0x20_0000_0000):
        function.place(4, address)
        assert driver.get(0x12, 2) == 0, "still where it was"
        driver.registers = address
        assert driver.get(0x12, 2) == 1
    function.set(4, 0, 2)
    assert driver.get(0x12, 2) == 0


def test_a_bar_over_ram_hides_nothing(rng: Board) -> None:
    rng.cpu.write(0x10_0000, b"precious")
    driver = PciDriver(rng.cpu, 1)
    driver.function.place(4, 0x10_0000)
    driver.function.place(1, 0x10_4000)
    assert rng.cpu.read(0x10_0000, 8) == b"precious"
    rng.cpu.write(0x10_4000, b"\x55" * 16)
    driver.function.place(4, REGISTERS_BAR)
    assert rng.cpu.read(0x10_4000, 16) == b"\x55" * 16 and driver.get(0x12, 2) == 1


def test_bars_over_each_other_harm_neither_device(start_board: Start) -> None:
    board = start_board(
        *RNG, "virtio-rng-pci,rng=r,bus=pcie.0,addr=1",
        "-device", "virtio-balloon-pci,bus=pcie.0,addr=2", board="q35",
    )  # fmt: skip
    first = PciDriver(board.cpu, 1)
    second = PciDriver(board.cpu, 2)
    assert first.get(0x12, 2) == 1
    second.function.place(1, MSIX_BAR + 0x10_0000)
    second.function.place(4, REGISTERS_BAR + 0x10_0000)
    second.registers += 0x10_0000
    assert second.get(0x12, 2) == 3
    first.bring_up()
    fill(first)


def test_a_queue_speaks_through_its_vector(rng: Board) -> None:
    driver = PciDriver(rng.cpu, 1)
    driver.bring_up()
    fill(driver)
    wait_until(lambda: driver.spoke(0), "the message")
    assert not driver.spoke(0)


def test_a_masked_vector_speaks_when_it_may(rng: Board) -> None:
    driver = PciDriver(rng.cpu, 1)
    driver.bring_up()
    driver.set_vector(0, masked=True)
    fill(driver)
    pending = f"readl {MSIX_BAR + 0x800:x}"
    assert driver.cpu.value(pending) == 1 and not driver.spoke(0)
    driver.set_vector(0)
    wait_until(lambda: driver.spoke(0), "the message")
    assert driver.cpu.value(pending) == 0
    driver.enable_msix(0xC000)
    fill(driver, 2)
    assert driver.cpu.value(pending) == 1 and not driver.spoke(0)
    driver.enable_msix()
    wait_until(lambda: driver.spoke(0), "the message")


def spoke_as(driver: PciDriver, requester: int) -> bool:
    """Whether the first vector's message came from this bus, device and function."""
    return driver.cpu.ask(f"query_msix {MESSAGE} {DATA} {requester}") == "OK TRUE"


def test_a_message_carries_the_bus_device_and_function_of_its_sender(start_board: Start) -> None:
    cpu = start_board(
        *RNG, "virtio-rng-pci,rng=r,bus=pcie.0,addr=0x3.0,multifunction=on",
        "-device", "virtio-balloon-pci,bus=pcie.0,addr=0x3.2", board="q35",
    ).cpu  # fmt: skip
    driver = PciDriver(cpu, 3)
    driver.bring_up()
    fill(driver)
    assert not spoke_as(driver, 3 << 3 | 2) and not spoke_as(driver, 0)
    assert spoke_as(driver, 3 << 3) and not driver.spoke(0)
    balloon = PciDriver(cpu, 3, function=2, bars=0xC800_0000)
    (ring, _) = balloon.bring_up(2)
    ring.offer(ring.chain([(BUFFER, 4, False)]))
    balloon.kick()
    balloon.done(ring, 1)
    assert spoke_as(balloon, 3 << 3 | 2)


def test_a_message_from_behind_a_port_follows_the_number_of_its_bus(start_board: Start) -> None:
    cpu = start_board(
        "-device", "pcie-root-port,id=port,bus=pcie.0,addr=0x1,port=1",
        *RNG, "virtio-rng-pci,rng=r,bus=port,addr=0x0", board="q35",
    ).cpu  # fmt: skip
    driver = PciDriver(cpu, 0, bus=1)
    driver.bring_up()
    fill(driver)
    assert spoke_as(driver, 1 << 8)
    # Primary, secondary and subordinate number, in one write as Linux does.
    Function(cpu, 1).set(0x18, 7 << 8 | 7 << 16)
    assert driver.function.get(0) == 0xFFFF_FFFF and Function(cpu, 0, bus=7).get(0) == 0x1044_1AF4
    fill(driver, 2)
    assert spoke_as(driver, 7 << 8) and not driver.spoke(0)


def test_without_messages_a_queue_raises_its_pin(rng: Board) -> None:
    driver = PciDriver(rng.cpu, 1)
    driver.bring_up(msix=False)
    fill(driver)
    # Slot 1, INTA: the second of the four lines from GSI 16 on.
    wait_until(lambda: rng.cpu.ask("query_intx 17") == "OK TRUE", "the line is up")
    assert driver.function.get(6, 2) & 8
    assert driver.get(0x1000, 1) == 1
    assert rng.cpu.ask("query_intx 17") == "OK FALSE" and driver.get(0x1000, 1) == 0


def test_the_window_in_configuration_space_reaches_the_registers(rng: Board) -> None:
    function = Function(rng.cpu, 1)
    at = function.get(0x34, 1)
    while function.get(at, 1) != 9 or function.get(at + 3, 1) != 5:
        at = function.get(at + 1, 1)
    function.set(at + 4, 4, 1)
    function.set(at + 8, 0x12)
    function.set(at + 12, 2)
    assert function.get(at + 16, 2) == 1
    function.set(at + 8, 0x3FFF)
    assert function.get(at + 16, 2) == 0


def test_a_disk_on_pci_uses_its_iothread(start_board: Start, tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(bytes(4096))
    board = start_board(
        "-object", "iothread,id=io", "-drive", f"id=d,file={image},direct=off",
        "-device", f"virtio-blk-pci,drive=d,iothread=io,{PLACE}", board="q35",
    )  # fmt: skip
    tasks = Path(f"/proc/{board.machine.process.pid}/task")
    PciDriver(board.cpu, 1).bring_up()
    # The loop's thread and the iothread's; a disk without one has a thread of its own.
    assert len(list(tasks.iterdir())) == 2


def test_a_port_takes_libvirts_chassis(start_board: Start) -> None:
    board = start_board(
        "-device", "pcie-root-port,port=0x10,chassis=1,id=pci.1,bus=pcie.0,addr=0x2", board="q35"
    )
    function = Function(board.cpu, 2)
    assert function.get(0xA, 2) == 0x0604
    assert function.get(function.capability(0x10) + 0x14) >> 19 == 0x10


def test_each_console_device_carries_the_ports_behind_it(
    start_board: Start, tmp_path: Path
) -> None:
    # The guidebook (2.4) promises one on a standard machine; here each further one works too.
    argv: list[str] = []
    for slot in (1, 2):
        argv += ["-device", f"virtio-serial-pci,bus=pcie.0,addr={slot}"]
        argv += ["-chardev", f"file,path={tmp_path}/log{slot},id=c{slot}"]
        argv += ["-device", f"virtconsole,chardev=c{slot}"]
    board = start_board(*argv, board="q35")
    for slot in (1, 2):
        driver = PciDriver(board.cpu, slot, bars=MSIX_BAR + slot * 0x10_0000)
        text = f"by the device in slot {slot}".encode()
        board.cpu.write(BUFFER, text)
        transmitq = driver.bring_up(2)[1]
        transmitq.offer(transmitq.chain([(BUFFER, len(text), False)]))
        driver.kick(1)
        driver.done(transmitq, 1)
        assert (tmp_path / f"log{slot}").read_bytes() == text
        driver.set(0x14, 0, 1)


MISTAKES = {
    "taken": ([f"virtio-balloon-pci,{PLACE}", f"virtio-rng-pci,rng=r,{PLACE}"],
              "addr=0x1.0x0: virtio-balloon is there already"),
    "no bus": (["virtio-rng-pci,rng=r,bus=pcie.7,addr=0"],
               "bus=pcie.7: there is no bus of this name"),
    "behind a port": (["pcie-root-port,id=p,bus=pcie.0,addr=2",
                       "virtio-rng-pci,rng=r,bus=p,addr=0x1"],
                      "addr=0x1.0x0: behind a root port only slot 0 exists"),
    "not multifunction": ([f"virtio-balloon-pci,{PLACE}",
                           "virtio-serial-pci,bus=pcie.0,addr=1.1"],
                          "virtio-balloon in this slot is not multifunction=on"),
    "port behind a port": (["pcie-root-port,id=p,bus=pcie.0,addr=2",
                            "pcie-root-port,id=q,bus=p,addr=0"],
                           "root ports are on pcie.0 only"),
    "no such card": (["vfio-pci,host=0000:ff:1f.7,bus=pcie.0,addr=2"],
                     "vfio-pci,host=0000:ff:1f.7: this host has no such PCI function"),
    "nothing at function 0": (["virtio-balloon-pci,bus=pcie.0,addr=0x3.0x1,multifunction=on"],
                              "addr=0x3.0x1: no guest would see it, since nothing is at "
                              "function 0 of slot 0x3; put it there"),
    "nothing at function 0 behind a port": (["pcie-root-port,id=p,bus=pcie.0,addr=2",
                                             "virtio-balloon-pci,bus=p,addr=0.1"],
                                            "bus=p,addr=0x0.0x1: no guest would see it"),
    "a port at no function 0": (["pcie-root-port,id=p,bus=pcie.0,addr=2.7"],
                                "bus=pcie.0,addr=0x2.0x7: no guest would see it"),
    "a port of no console": (["virtconsole,chardev=c"],
                             "chardev=c: no -device virtio-serial-pci before it carries it"),
    "the host bridge": (["virtio-rng-pci,rng=r,bus=pcie.0,addr=0"],
                        "addr=0x0.0x0: mch is there already"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_place_that_cannot_be_is_one_line(start_board: Start, name: str) -> None:
    devices, complaint = MISTAKES[name]
    argv = [word for device in devices for word in ("-device", device)]
    if "chardev=c" in complaint:
        argv += ["-chardev", "file,path=/dev/null,id=c"]
    if "rng=r" in " ".join(argv):
        argv += RNG[:2]
    machine = start_board(*argv, board="q35").machine
    assert machine.wait() == 1
    assert len(machine.errors.splitlines()) == 1 and complaint in machine.errors.decode()


def flash(start_board: Start, store: Path) -> Processor:
    code = store.with_name("code.fd")
    code.write_bytes(os.urandom(64 * KIB))
    return start_board(
        "-drive", f"if=pflash,unit=0,file={code},readonly=on",
        # The guidebook's line (2.10), with the comma at its end.
        "-drive", f"file={store},if=pflash,unit=1,", board="q35",
    ).cpu  # fmt: skip


def test_flash_is_memory_that_commands_change(start_board: Start, tmp_path: Path) -> None:
    store = tmp_path / "vars.fd"
    store.write_bytes(os.urandom(16 * KIB))
    cpu = flash(start_board, store)
    code = (tmp_path / "code.fd").read_bytes()
    base = FLASH_TOP - 80 * KIB
    assert cpu.read(FLASH_TOP - 64 * KIB, 64 * KIB) == code
    assert cpu.read(base, 16 * KIB) == store.read_bytes()
    cpu.do(f"writeb {base + 5:x} 50")
    cpu.do(f"writeb {base + 5:x} 70")
    assert cpu.value(f"readb {base + 5:x}") == 0, "the status is clear"
    for value in (0x20, 0xD0):
        cpu.do(f"writeb {base + 0x1000:x} {value:x}")
    assert cpu.value(f"readb {base:x}") == 0x80, "erased"
    for value in (0x10, 0x5A):
        cpu.do(f"writeb {base + 0x1003:x} {value:x}")
    cpu.do(f"writeb {base:x} ff")
    expected = b"\xff\xff\xff\x5a" + b"\xff" * 4092
    assert cpu.read(base + 0x1000, 4096) == expected
    assert store.read_bytes()[0x1000:0x2000] == expected, "it is in the file by then"
    # The code is read-only: the command is refused and the bytes stay.
    for value in (0x10, 0x00):
        cpu.do(f"writeb {FLASH_TOP - 16:x} {value:x}")
    assert cpu.value(f"readb {FLASH_TOP - 16:x}") & 0x10
    cpu.do(f"writeb {FLASH_TOP - 16:x} ff")
    assert cpu.read(FLASH_TOP - 64 * KIB, 64 * KIB) == code


def test_flash_tells_what_it_is(start_board: Start, tmp_path: Path) -> None:
    store = tmp_path / "vars.fd"
    store.write_bytes(bytes(16 * KIB))
    cpu = flash(start_board, store)
    base = FLASH_TOP - 80 * KIB
    cpu.do(f"writeb {base:x} 98")
    assert bytes(cpu.value(f"readb {base + 0x10 + at:x}") for at in range(3)) == b"QRY"
    cpu.do(f"writeb {base:x} ff")
    assert cpu.read(base, 16) == bytes(16)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "flash memory is a multiple of 4096 bytes, and not empty"),
        (bytes(5000), "the file has 5000 bytes; flash memory is a multiple of 4096 bytes"),
        (bytes(9 << 20), "flash memory is larger than 8 MiB with this file"),
        (None, "cannot open: No such file or directory"),
    ],
)
def test_a_file_that_is_no_flash_is_one_line(
    start_board: Start, tmp_path: Path, content: bytes | None, complaint: str
) -> None:
    path = tmp_path / "flash.fd"
    if content is not None:
        path.write_bytes(content)
    machine = start_board("-drive", f"if=pflash,unit=0,file={path}", board="q35").machine
    assert machine.wait() == 1
    assert len(machine.errors.splitlines()) == 1 and complaint in machine.errors.decode()


def dma(cpu: Processor, control: int, length: int, target: int) -> int:
    """One fw_cfg transfer; what is left of the control word."""
    cpu.write(0x1000, struct.pack(">IIQ", control, length, target))
    cpu.do("outl 518 100000")  # the address, big endian
    return int.from_bytes(cpu.read(0x1000, 4), "big")


def test_firmware_learns_of_the_machine_from_fw_cfg(start_board: Start, tmp_path: Path) -> None:
    store = tmp_path / "vars.fd"
    store.write_bytes(bytes(16 * KIB))
    cpu = flash(start_board, store)
    cpu.do("outw 510 0")
    assert bytes(cpu.value("inb 511") for _ in range(4)) == b"QEMU"
    assert dma(cpu, 0x19 << 16 | 8 | 2, 4, 0x2000) == 0
    count = int.from_bytes(cpu.read(0x2000, 4), "big")
    assert dma(cpu, 2, 64 * count, 0x3000) == 0
    files = {}
    for at in range(count):
        size, key, _, name = struct.unpack(">IHH56s", cpu.read(0x3000 + 64 * at, 64))
        files[name.rstrip(b"\0").decode()] = key, size
    assert {"etc/e820", "etc/acpi/tables", "etc/table-loader", "etc/acpi/rsdp"} <= set(files)
    key, size = files["etc/acpi/tables"]
    assert dma(cpu, key << 16 | 8 | 2, size, 0x10_0000) == 0
    assert b"MCFG" in cpu.read(0x10_0000, size) and b"DSDT" in cpu.read(0x10_0000, size)
    # A transfer that reaches out of RAM, or is longer than anything, is refused or zeros.
    assert dma(cpu, 2, 0xFFFF_FFFF, 0x10_0000) == 1
    assert dma(cpu, 2, 8, 0xA000_0000) == 1
    assert dma(cpu, 0x10, 8, 0x10_0000) == 1
    cpu.do("outl 518 ffffffff")
    assert cpu.value("inl 514") == int.from_bytes(b"QEMU", "little")


def test_firmware_need_not_wait_for_a_keyboard(start_board: Start) -> None:
    # OVMF asked in vain for minutes, at each boot after the first, while the status was zero.
    cpu = start_board(board="q35").cpu
    status = cpu.value("inb 64")
    assert status & 0xC0 == 0xC0, "parity error and time-out: nobody answers"
    assert status & 0x03 == 0, "both buffers are empty, so a reset by 0xFE is not put off"


def test_bridge_and_chipset_say_what_they_are(start_board: Start) -> None:
    cpu = start_board(board="q35").cpu
    assert cpu.value(f"readl {ECAM:x}") == 0x29C0_8086
    assert cpu.value(f"readl {ECAM + (0x1F << 15):x}") == 0x2918_8086


def test_the_clock_keeps_time_and_tells_memory_sizes(start_board: Start) -> None:
    cpu = start_board("-m", "3G", board="q35").cpu

    def get(index: int) -> int:
        cpu.do(f"outb 70 {index:x}")
        return cpu.value("inb 71")

    assert get(0x34) | get(0x35) << 8 == ((2 << 30) - (16 << 20)) >> 16
    assert get(0x5B) | get(0x5C) << 8 == (1 << 30) >> 16
    cpu.do("outb 70 b")
    cpu.do("outb 71 86")  # stop, binary, 24 hours
    for register, value in ((0, 59), (2, 59), (4, 23), (7, 31), (8, 12), (9, 29), (0x32, 20)):
        cpu.do(f"outb 70 {register:x}")
        cpu.do(f"outb 71 {value:x}")
    cpu.do("outb 70 b")
    cpu.do("outb 71 6")
    cpu.ask("clock_step 1000000000")
    assert [get(index) for index in (0, 2, 4, 7, 8, 9, 0x32)] == [0, 0, 0, 1, 1, 30, 20]
    # An alarm at the next second.
    cpu.do("outb 70 1")
    cpu.do("outb 71 c0")
    for register in (3, 5):
        cpu.do(f"outb 70 {register:x}")
        cpu.do("outb 71 c0")
    cpu.do("outb 70 b")
    cpu.do("outb 71 26")
    wait_until(lambda: cpu.ask("clock_step") != "" and get(0xC) & 0xA0 == 0xA0, "the alarm")


def test_an_alarm_in_twelve_hour_form_knows_the_afternoon(start_board: Start) -> None:
    cpu = start_board(board="q35").cpu

    def put(register: int, value: int) -> None:
        cpu.do(f"outb 70 {register:x}")
        cpu.do(f"outb 71 {value:x}")

    def rings_soon() -> bool:
        cpu.do("outb 70 c")
        cpu.value("inb 71")
        for _ in range(40):
            cpu.ask("clock_step 250000000")
            if cpu.value("inb 71") & 0x20:
                return True
        return False

    # It is 2:59:59 in the afternoon; the alarm is set for 3:00:05 in three ways.
    for alarm, rings in ((0x83, True), (0x03, False), (0x15, False)):
        put(0xB, 0x80)  # stopped; decimal digits and twelve hours
        for register, value in ((0, 0x59), (2, 0x59), (4, 0x82), (7, 1), (8, 1), (9, 0x29)):
            put(register, value)
        for register, value in ((1, 5), (3, 0), (5, alarm)):
            put(register, value)
        put(0xB, 0x20)
        assert rings_soon() == rings


def acpi_tables(cpu: Processor) -> dict[str, bytes]:
    """Every table, found as an operating system does."""
    pointer = cpu.read(0xE_0000, 36)
    assert pointer[:8] == b"RSD PTR " and sum(pointer) & 0xFF == 0
    (xsdt,) = struct.unpack_from("<Q", pointer, 24)

    def table(address: int) -> bytes:
        return cpu.read(address, int.from_bytes(cpu.read(address + 4, 4), "little"))

    entries = table(xsdt)[36:]
    found = {"xsdt": table(xsdt)}
    for (address,) in struct.iter_unpack("<Q", entries):
        content = table(address)
        found[content[:4].decode().lower()] = content
    facs, dsdt = struct.unpack_from("<II", found["facp"], 36)
    return found | {"dsdt": table(dsdt), "facs": table(facs)}


def test_iasl_has_nothing_against_the_tables(start_board: Start, tmp_path: Path) -> None:
    tables = acpi_tables(start_board("-serial", f"file,path={tmp_path}/tty", board="q35").cpu)
    assert set(tables) == {"xsdt", "facp", "apic", "mcfg", "dsdt", "facs"}
    iasl = shutil.which("iasl") or "/usr/bin/iasl"
    for name, content in tables.items():
        assert name == "facs" or sum(content) & 0xFF == 0
        (tmp_path / f"{name}.aml").write_bytes(content)
        done = subprocess.run(
            [iasl, "-d", f"{name}.aml"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        text = done.stdout + done.stderr
        assert done.returncode == 0 and "Error" not in text and "Warning" not in text, text
    done = subprocess.run(
        [iasl, "dsdt.dsl"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "0 Errors, 0 Warnings" in done.stdout, done.stdout + done.stderr


def test_the_power_button_is_an_event(start_board: Start, tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    board = start_board("-qmp", f"unix:{path},server,nowait", board="q35")
    cpu = board.cpu
    cpu.do("outw 602 100")
    with QmpClient(path) as client:
        client.cmd("system_powerdown")
        wait_until(lambda: cpu.ask("query_intx 9") == "OK TRUE", "the SCI")
        assert cpu.value("inw 600") == 0x100
        cpu.do("outw 600 100")
        assert cpu.ask("query_intx 9") == "OK FALSE" and cpu.value("inw 600") == 0
        before = cpu.value("inl 608")
        cpu.ask("clock_step 1000000000")
        assert (cpu.value("inl 608") - before) % (1 << 24) in range(3_579_544, 3_579_547)
    cpu.do("outw 604 2000")  # S5
    assert board.machine.wait() == 0


def test_configuration_space_moves_with_its_register(start_board: Start) -> None:
    cpu = start_board(board="q35").cpu
    mch = Function(cpu, 0)
    mch.set(0x60, 0xE000_0001)
    assert cpu.value(f"readl {ECAM:x}") == 0
    assert cpu.value("readl e0000000") == 0x29C0_8086
    # Over RAM it is nowhere to be seen.
    cpu.do("outl cf8 80000060")
    cpu.do("outl cfc 1")
    assert cpu.value("readl 0") != 0x29C0_8086
