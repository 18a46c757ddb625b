"""The log of written pages misses no writer: RAM before and after a device's work is compared."""

import os
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from stratovirt.config.registry import DRIVERS
from tests.board.conftest import Board, Processor
from tests.board.pci_driver import PciDriver
from tests.board.test_chardevs import connect
from tests.board.virtio_driver import EVENT_IDX, GET_ID, INDIRECT, OUT, VERSION_1, MmioDriver
from tests.machine_process import QmpClient, wait_until
from tests.payload import SPIN, write_kernel
from tests.ring import DESC_INDIRECT, DESC_NEXT, DESC_WRITE, DriverRing

Start = Callable[..., Board]
Load = Callable[["Machine"], Iterator[None]]
PAGE = 4096
RAM_MIB = 256
HEADERS, BUFFERS = 0x20_0000, 0x40_0000
USED = 0x30_0000 + PAGE - 4
"""A used ring's index is in one page and its elements are in the next."""
TAP, ETHERTYPE = "svdirty0", 0x88B5


class Log:
    """The pages that the machine says were written, beside those that are not as they were."""

    def __init__(self, cpu: Processor, ram: Path) -> None:
        self._cpu, self._ram = cpu, ram
        self._before = b""

    def begin(self) -> None:
        """Forget what the driver itself has written until now."""
        self.collect()
        self._before = self._ram.read_bytes()

    def collect(self) -> set[int]:
        words = self._cpu.ask("dirty_log_collect").split()
        assert words[0] == "OK", words
        return {int(word, 16) for word in words[1:]}

    def changed(self) -> set[int]:
        after = self._ram.read_bytes()
        return {
            at
            for at in range(0, len(after), PAGE)
            if after[at : at + PAGE] != self._before[at : at + PAGE]
        }

    def check(self) -> None:
        """All that changed is logged, and not much that did not."""
        changed, logged = self.changed(), self.collect()
        assert changed, "the load wrote nothing"
        assert changed <= logged, f"missed: {[hex(page) for page in sorted(changed - logged)]}"
        assert len(logged) <= len(changed) + 40, "the log is no log"
        assert self.collect() == set(), "what was collected is logged no more"


def ram_of(pid: int) -> Path:
    """The file that is the RAM of a machine with mem-share=on."""
    (found,) = (
        fd
        for fd in Path(f"/proc/{pid}/fd").iterdir()
        if os.readlink(fd).startswith("/memfd:stratovirt-ram")
    )
    return found


class Machine:
    """A board with the driver of its device on either transport."""

    def __init__(self, start: Start, folder: Path, transport: str) -> None:
        self._start, self.folder, self.transport = start, folder, transport
        self.driver: MmioDriver | PciDriver

    def start(self, *argv: str) -> Board:
        """Start it; `{}` in an argument is the transport."""
        kind = "microvm" if self.transport == "device" else "q35"
        words = [word.replace("{}", self.transport) for word in argv]
        if kind == "q35" and words[-1].startswith("virtio"):
            words[-1] += ",bus=pcie.0,addr=1"
        board = self._start("-m", f"{RAM_MIB}M", *words, board=f"{kind},mem-share=on")
        self.cpu = board.cpu
        # The board is whole, RAM and all, when it answers.
        assert self.cpu.ask("dirty_log_start") == "OK"
        self.log = Log(self.cpu, ram_of(board.machine.process.pid))
        return board

    def bring_up(self, queues: int, size: int = 64, features: int = VERSION_1) -> list[DriverRing]:
        if self.transport == "device":
            mmio = MmioDriver(self.cpu)
            self.driver = mmio
            return mmio.bring_up(queues, features, size, used_at=USED)
        pci = PciDriver(self.cpu, 1)
        self.driver = pci
        return pci.bring_up(queues, size=size, used_at=USED)

    def kick(self, queue: int) -> None:
        if isinstance(self.driver, MmioDriver):
            self.driver.set(0x50, queue)
        else:
            self.driver.kick(queue)

    def offer(self, queue: int, ring: DriverRing, heads: Iterable[int]) -> None:
        """Make chains available and kick: only then does the device write."""
        for head in heads:
            ring.offer(head)
        self.kick(queue)

    def serve(self, queue: int, ring: DriverRing, heads: Sequence[int]) -> None:
        """Make chains available and wait until they are used."""
        self.offer(queue, ring, heads)
        self.driver.done(ring, len(heads))


def requests_of_a_disk(machine: Machine, ring: DriverRing) -> list[int]:
    """Describe reads of many shapes, an id, a write and a mistake; their heads."""
    cpu, at = machine.cpu, BUFFERS
    heads: list[int] = []
    shapes = [[512], [4096], [4096 * 16], [512, 1024, 512], [65536 * 2]]
    for number, shape in enumerate(shapes * 2 + [[20]]):
        kind = GET_ID if shape == [20] else 0
        header = HEADERS + 0x100 * number
        cpu.write(header, struct.pack("<IIQ", kind, 0, number))
        # Buffers begin at the end of a page every other time, and each status has its own page.
        start = at + (0 if number < len(shapes) else PAGE - 512)
        pieces = [(header, 16, False)]
        for size in shape:
            pieces.append((start, size, True))
            start += size
        pieces.append(((start + PAGE) & -PAGE, 1, True))
        at = pieces[-1][0] + PAGE
        cpu.write(pieces[-1][0], b"\xff")
        table = HEADERS + 0x4000 + 0x100 * number
        for index, (address, length, writable) in enumerate(pieces):
            flags = (DESC_WRITE if writable else 0) | (DESC_NEXT if index + 1 < len(pieces) else 0)
            cpu.write(table + 16 * index, struct.pack("<QIHH", address, length, flags, index + 1))
        ring.describe(number, table, 16 * len(pieces), DESC_INDIRECT)
        heads.append(number)
    for kind, sector in ((OUT, 3), (0, 1 << 40)):
        header = HEADERS + 0x100 * len(heads)
        cpu.write(header, struct.pack("<IIQ", kind, 0, sector))
        cpu.write(at, b"\xff")
        pieces = [(header, 16, False), (BUFFERS, 512, kind != OUT), (at, 1, True)]
        heads.append(ring.chain(pieces, first=3 * len(heads)))
        at += PAGE
    return heads


def disk(*options: str, features: int, folder: str | None = None) -> Load:
    def load(machine: Machine) -> Iterator[None]:
        with tempfile.NamedTemporaryFile(dir=folder or machine.folder) as image:
            image.write(os.urandom(1 << 20))
            image.flush()
            os.fsync(image.fileno())
            yield from with_image(machine, image.name)

    def with_image(machine: Machine, image: str) -> Iterator[None]:
        machine.start(
            "-drive", ",".join((f"id=d,file={image}", *options)),
            "-device", "virtio-blk-{},drive=d,serial=dirty",
        )  # fmt: skip
        (ring,) = machine.bring_up(1, features=features)
        heads = requests_of_a_disk(machine, ring)
        yield
        machine.serve(0, ring, heads)

    return load


def card(machine: Machine) -> Iterator[None]:
    machine.start(
        "-netdev", f"tap,id=n,ifname={TAP},script=no,downscript=no",
        "-device", "virtio-net-{},netdev=n",
    )  # fmt: skip
    receive, transmit = machine.bring_up(2)
    frames = [b"\xff" * 6 + b"\x52" * 6 + struct.pack(">H", ETHERTYPE) + os.urandom(size)
              for size in (46, 500, 1486)]  # fmt: skip
    machine.cpu.write(HEADERS, bytes(12) + frames[0])
    sent = transmit.chain([(HEADERS, 12 + len(frames[0]), False)])
    for number in range(60):
        # From the end of a page to the next one but one.
        start = BUFFERS + 3 * PAGE * number + PAGE - 13
        receive.chain([(start, PAGE + 100, True)], first=number)
    yield
    machine.serve(1, transmit, [sent])
    machine.offer(0, receive, range(60))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE)) as wire:
        wire.bind((TAP, ETHERTYPE))
        for frame in frames * 5:
            wire.send(frame)
        # The host itself may have said something too.
        wait_until(lambda: receive.used_index() >= 15, "the packets came")


def console(machine: Machine) -> Iterator[None]:
    path = machine.folder / "console"
    machine.start(
        "-device", "virtio-serial-{},id=s" + (
            "" if machine.transport == "device" else ",bus=pcie.0,addr=1"),
        "-chardev", f"socket,id=c,path={path},server,nowait", "-device", "virtconsole,chardev=c",
    )  # fmt: skip
    receive, transmit = machine.bring_up(2)
    for number in range(8):
        start = BUFFERS + 4 * PAGE * number + PAGE - 100
        receive.chain([(start, 100, True), (start + 2 * PAGE, 900, True)], first=2 * number)
    machine.cpu.write(HEADERS, b"hello")
    sent = transmit.chain([(HEADERS, 5, False)])
    peer = connect(path)
    yield
    machine.serve(1, transmit, [sent])
    machine.offer(0, receive, range(0, 16, 2))
    peer.sendall(b"x" * 4000)
    wait_until(lambda: receive.used_index() >= 4, "the input came")
    peer.close()


def rng(machine: Machine) -> Iterator[None]:
    machine.start("-object", "rng-random,id=r,filename=/dev/urandom",
                  "-device", "virtio-rng-{},rng=r")  # fmt: skip
    (ring,) = machine.bring_up(1)
    for number in range(8):
        start = BUFFERS + 32 * PAGE * number - 7
        ring.chain([(start, 8, True), (start + 3 * PAGE, 0x8000, True)], first=2 * number)
    yield
    machine.serve(0, ring, range(0, 16, 2))


def balloon(machine: Machine) -> Iterator[None]:
    machine.start("-device", "virtio-balloon-{},free-page-reporting=true")
    rings = machine.bring_up(5, features=VERSION_1 | 1 << 5)
    given = [BUFFERS + 3 * PAGE * number for number in range(16)]
    for page in (*given, *(page + PAGE for page in given)):
        machine.cpu.write(page, b"content")
    machine.cpu.write(HEADERS, b"".join(struct.pack("<I", page // PAGE) for page in given))
    queues = [0, 1]
    for queue in queues:
        rings[queue].chain([(HEADERS, 4 * len(given), False)])
    if machine.transport == "device":
        # The helper for PCI has no features of a device, and reporting is one.
        queues.append(3)
        rings[3].chain([(given[0] + PAGE, PAGE, True)])
    yield
    for queue in queues:
        machine.serve(queue, rings[queue], [0])


LOADS: dict[str, dict[str, Load]] = {
    "virtio-blk": {
        "cached": disk("direct=off", features=VERSION_1 | INDIRECT),
        "direct": disk("direct=on", features=VERSION_1 | INDIRECT | EVENT_IDX),
        "in memory": disk("direct=off", folder="/dev/shm", features=VERSION_1 | INDIRECT),
    },
    "virtio-net": {"tap": card},
    "virtio-serial": {"input": console},
    "virtio-balloon": {"inflated": balloon},
    "virtio-rng": {"random": rng},
}
"""Each driver's loads, by its name without the transport."""
OTHERS = {
    "virtconsole": "a port of virtio-serial, which carries its data",
    "pcie-root-port": "its MSI is no write to RAM",
    "vhost-vsock": "tests/unit/test_dirty_log.py: the kernel does not log it",
    "vfio-pci": "tests/unit/test_dirty_log.py: the host's IOMMU does not log it",
}
"""Drivers without a load, with the reason or the test that shows what becomes of them."""


def stem(driver: str) -> str:
    return driver.removesuffix("-device").removesuffix("-pci") if driver != "vfio-pci" else driver


def test_every_driver_has_a_load_or_a_reason() -> None:
    assert {stem(driver) for driver in DRIVERS.variants} == set(LOADS) | set(OTHERS)


@pytest.fixture
def tap() -> Iterator[None]:
    subprocess.run(("ip", "tuntap", "add", TAP, "mode", "tap"), check=True)
    subprocess.run(("ip", "link", "set", TAP, "up"), check=True)
    yield
    subprocess.run(("ip", "link", "del", TAP), capture_output=True)


@pytest.mark.parametrize("transport", ["device", "pci"])
@pytest.mark.parametrize(
    ("driver", "load"), [(driver, load) for driver, loads in LOADS.items() for load in loads]
)
def test_no_page_that_a_device_writes_is_missed(
    start_board: Start, tap: None, tmp_path: Path, driver: str, load: str, transport: str
) -> None:
    machine = Machine(start_board, tmp_path, transport)
    work = LOADS[driver][load](machine)
    next(work)
    machine.log.begin()
    assert next(work, None) is None
    machine.log.check()


def test_no_page_that_fw_cfg_writes_is_missed(start_board: Start, tmp_path: Path) -> None:
    (tmp_path / "code.fd").write_bytes(os.urandom(65536))
    machine = Machine(start_board, tmp_path, "pci")
    machine.start("-drive", f"if=pflash,unit=0,file={tmp_path}/code.fd,readonly=on")
    cpu = machine.cpu
    cpu.write(0x1000, struct.pack(">IIQ", 0x19 << 16 | 8 | 2, 3 * PAGE, BUFFERS - 8))
    machine.log.begin()
    cpu.do("outl 518 100000")
    assert int.from_bytes(cpu.read(0x1000, 4), "big") == 0
    machine.log.check()


def test_no_page_that_a_reset_writes_is_missed(start_board: Start, tmp_path: Path) -> None:
    kernel, initrd = write_kernel(tmp_path, SPIN), tmp_path / "initrd"
    initrd.write_bytes(os.urandom(100_000))
    machine = Machine(start_board, tmp_path, "device")
    board = machine.start("-qmp", f"unix:{tmp_path}/qmp,server,nowait",
                  "-kernel", str(kernel), "-initrd", str(initrd))  # fmt: skip
    content = ram_of(board.machine.process.pid).read_bytes()
    for at in range(0, RAM_MIB << 20, PAGE):
        if content[at : at + PAGE] != bytes(PAGE):
            machine.cpu.write(at, b"\xa5" * PAGE)
    machine.log.begin()
    with QmpClient(tmp_path / "qmp") as client:
        client.cmd("system_reset")
        wait_until(lambda: machine.log.changed() != set(), "the kernel is loaded anew")
    machine.log.check()


def test_a_log_that_is_off_stays_empty_and_says_so(start_board: Start) -> None:
    cpu = start_board().cpu
    assert cpu.ask("dirty_log_collect") == "ERR dirty_log_collect: writes are not logged"
    assert cpu.ask("dirty_log_start") == "OK"
    cpu.write(0x5FFF, b"xx")
    assert cpu.ask("dirty_log_collect") == "OK 0x5000 0x6000"
    cpu.do("memset 9000 2000 0x11")
    assert cpu.ask("dirty_log_stop") == "OK"
    cpu.write(0x8000, b"x")
    assert cpu.ask("dirty_log_start") == "OK"
    assert cpu.ask("dirty_log_collect") == "OK"
