"""Drivers that break the rules: one log line, a device that asks for a reset, and nothing else."""

import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.board.conftest import Board, Processor
from tests.board.virtio_driver import DATA, NEEDS_RESET, VERSION_1, MmioDriver
from tests.machine_process import QmpClient, wait_until
from tests.ring import DriverRing

Start = Callable[..., Board]
RAM_BYTES = 256 << 20

DEVICES: dict[str, tuple[int, list[str]]] = {
    "rng": (
        1,
        ["-object", "rng-random,id=r,filename=/dev/zero", "-device", "virtio-rng-device,rng=r"],
    ),
    "balloon": (3, ["-device", "virtio-balloon-device,id=b"]),
    "console": (18, ["-device", "virtio-serial-device"]),
}  # fmt: skip


def break_index(driver: MmioDriver, ring: DriverRing) -> None:
    driver.cpu.write(ring.avail + 2, struct.pack("<H", 1000))


def break_address(driver: MmioDriver, ring: DriverRing) -> None:
    ring.offer(ring.chain([(1 << 40, 64, True)]))


def break_loop(driver: MmioDriver, ring: DriverRing) -> None:
    ring.describe(0, DATA, 16, 1 | 2, 0)
    ring.offer(0)


@pytest.mark.parametrize("name", list(DEVICES))
@pytest.mark.parametrize("breakage", [break_index, break_address, break_loop])
def test_a_broken_ring_stops_that_device_and_a_reset_mends_it(
    start_board: Start, name: str, breakage: Callable[[MmioDriver, DriverRing], None]
) -> None:
    queues, argv = DEVICES[name]
    board = start_board(*argv)
    driver = MmioDriver(board.cpu)
    for queue in range(min(queues, 4)):
        rings = driver.bring_up(queues)
        breakage(driver, rings[queue])
        driver.set(0x50, queue)
        driver.wait_needs_reset()
        assert driver.get(0x70) & NEEDS_RESET
    driver.bring_up(queues)
    assert driver.get(0x70) == 15
    assert board.machine.terminate() == 0
    lines = board.machine.errors.decode().splitlines()
    assert len(lines) == min(queues, 4) and all("needs a reset" in line for line in lines)


def test_log_lines_that_a_guest_causes_are_limited_in_rate(start_board: Start) -> None:
    board = start_board(*DEVICES["rng"][1])
    driver = MmioDriver(board.cpu)
    started = time.monotonic()
    for _ in range(2000):
        driver.set(0x70, 0)
        driver.set(0x70, 4)
    time.sleep(1)
    driver.set(0x70, 0)
    driver.set(0x70, 4)
    assert board.machine.terminate() == 0
    lines = board.machine.errors.decode().splitlines()
    assert 101 <= len(lines) <= 101 + time.monotonic() - started
    assert lines[99].endswith("(too many lines: from now on at most one a second)")
    held = sum(int(line.partition(" (")[2].split()[0]) for line in lines[100:])
    assert held + len(lines) == 2001


def pages(cpu: Processor, ring: DriverRing, numbers: list[int]) -> None:
    cpu.write(DATA, struct.pack(f"<{len(numbers)}I", *numbers))
    ring.offer(ring.chain([(DATA, 4 * len(numbers), False)]))


def test_the_guest_cannot_balloon_what_it_does_not_own(start_board: Start, tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    board = start_board(
        "-device", "virtio-balloon-device,id=b", "-qmp", f"unix:{path},server,nowait"
    )
    driver = MmioDriver(board.cpu)
    inflate, deflate, _ = driver.bring_up(3)
    kept, given = 0x500_0000, 0x600_0000
    board.cpu.write(kept, b"kept")
    board.cpu.write(given, b"given")
    # Its own page, pages past the RAM, the largest number there is.
    pages(board.cpu, inflate, [given >> 12, RAM_BYTES >> 12, 0xF_FFFF, 0xFFFF_FFFF])
    driver.set(0x50, 0)
    driver.done(inflate, 1)
    assert board.cpu.read(kept, 4) == b"kept"
    assert board.cpu.read(given, 5) == bytes(5)
    # Odd lengths and deflation of anything are harmless.
    inflate.offer(inflate.chain([(DATA, 3, False)]))
    driver.set(0x50, 0)
    driver.done(inflate, 2)
    pages(board.cpu, deflate, [0xFFFF_FFFF])
    driver.set(0x50, 1)
    driver.done(deflate, 1)
    with QmpClient(path) as client:
        client.cmd("balloon", value=128 << 20)
        assert driver.get(0x100) == (128 << 20) >> 12
        driver.set(0x104, 0xFFFF_FFFF)
        assert client.cmd("query-balloon") == {"actual": 0}
        driver.set(0x104, (128 << 20) >> 12)
        assert client.cmd("query-balloon") == {"actual": 128 << 20}
        client.cmd("balloon", value=1 << 40)
        assert driver.get(0x100) == 0
    assert board.machine.terminate() == 0
    assert board.machine.errors.decode().count("pages that it does not own") == 1


def test_a_request_gives_the_balloon_16_ki_pages_at_most(start_board: Start) -> None:
    board = start_board("-m", "512M", "-device", "virtio-balloon-device,id=b")
    driver = MmioDriver(board.cpu)
    inflate = driver.bring_up(3)[0]
    last, beyond = 0x1800_0000, 0x1900_0000
    numbers = 0x1000_0000
    for page in (last, beyond):
        board.cpu.write(page, b"kept")
    # The table: numbers of no page, then the last number that counts, then one more.
    board.cpu.do(f"memset {numbers:x} 10000 0x00001a01")
    board.cpu.write(numbers + 0xFFFC, struct.pack("<II", last >> 12, beyond >> 12))
    inflate.offer(inflate.chain([(numbers, 0x10004, False)]))
    driver.set(0x50, 0)
    driver.done(inflate, 1)
    assert board.cpu.read(last, 4) == bytes(4)
    assert board.cpu.read(beyond, 4) == b"kept"
    # A single page, and a number that is cut off.
    board.cpu.write(DATA, struct.pack("<I", beyond >> 12) + b"\x01")
    board.cpu.write(last, b"kept")
    inflate.offer(inflate.chain([(DATA, 5, False)]))
    driver.set(0x50, 0)
    driver.done(inflate, 2)
    assert board.cpu.read(beyond, 4) == bytes(4)
    assert board.cpu.read(last, 4) == b"kept"


REPORTING = VERSION_1 | 1 << 5


def report(driver: MmioDriver, queue: int, ranges: list[tuple[int, int]], count: int) -> None:
    """Report free ranges of guest memory."""
    ring = driver.rings[queue]
    ring.offer(ring.chain([(gpa, size, True) for gpa, size in ranges]))
    driver.set(0x50, queue)
    driver.done(ring, count)


@pytest.mark.parametrize("board", ["microvm", "microvm,mem-share=on"])
def test_what_the_guest_reports_as_free_goes_back_to_the_host(
    start_board: Start, board: str
) -> None:
    started = start_board("-device", "virtio-balloon-device,free-page-reporting=on", board=board)
    driver, cpu = MmioDriver(started.cpu), started.cpu
    assert driver.features() & 1 << 5
    driver.bring_up(5, REPORTING)
    free, beside = 0x60_0000, 0xA0_0000
    # Linux's number of the queue, and the specification's.
    for queue in (3, 4):
        for at in range(free, beside + 1, 0x8_0000):
            cpu.do(f"memset {at:x} 80000 0x5a")
        before = resident(started)
        report(driver, queue, [(free, 2 << 20), (free + (2 << 20), 2 << 20)], 1)
        assert before - resident(started) > 3 << 20
        assert cpu.read(free, 8) == bytes(8) == cpu.read(beside - 8, 8)
        assert cpu.read(beside, 8) == b"\x5a" * 8
    assert driver.get(0x70) == 15


def resident(board: Board) -> int:
    """Bytes of memory that the machine holds, shared ones too."""
    words = Path(f"/proc/{board.machine.process.pid}/statm").read_text().split()
    return int(words[1]) * 4096


def test_only_whole_pages_of_ram_that_were_reported_go_back(start_board: Start) -> None:
    board = start_board("-m", "512M", "-device", "virtio-balloon-device,free-page-reporting=on")
    driver, cpu = MmioDriver(board.cpu), board.cpu
    driver.bring_up(5, REPORTING)
    page = 0x60_0000
    cpu.do(f"memset {page:x} 4000 0x5a")
    # No whole page; one in the middle of others; what the driver lets the device read only.
    report(driver, 4, [(page + 1, 0x1FFE)], 1)
    assert cpu.read(page, 0x4000) == b"\x5a" * 0x4000
    report(driver, 4, [(page + 0xFFF, 0x1002), (page + 0x3000, 1)], 2)
    assert cpu.read(page, 0x4000) == b"\x5a" * 0x1000 + bytes(0x1000) + b"\x5a" * 0x2000
    ring = driver.rings[4]
    ring.offer(ring.chain([(page, 0x1000, False), (page + 0x2000, 0x1000, True)]))
    driver.set(0x50, 4)
    driver.done(ring, 3)
    assert cpu.read(page, 8) == b"\x5a" * 8 and cpu.read(page + 0x2000, 8) == bytes(8)
    # 256 MiB of one request, and no more.
    last, beyond = 0x0800_0000 + (256 << 20) - 8, 0x0800_0000 + (256 << 20)
    cpu.write(last, b"\x5a" * 16)
    report(driver, 4, [(0x0800_0000, 300 << 20)], 4)
    assert cpu.read(last, 8) == bytes(8) and cpu.read(beyond, 8) == b"\x5a" * 8
    # Past the end of RAM: the device wants a reset, and nothing is lost.
    cpu.write((512 << 20) - 8, b"\x5a" * 8)
    ring.offer(ring.chain([((512 << 20) - 0x1000, 0x2000, True)]))
    driver.set(0x50, 4)
    driver.wait_needs_reset()
    assert cpu.read((512 << 20) - 8, 8) == b"\x5a" * 8


def test_a_driver_that_agreed_on_no_reports_gives_nothing_back(start_board: Start) -> None:
    board = start_board("-device", "virtio-balloon-device,free-page-reporting=on")
    driver, cpu = MmioDriver(board.cpu), board.cpu
    driver.bring_up(5)
    cpu.write(0x60_0000, b"kept")
    report(driver, 3, [(0x60_0000, 0x1000)], 1)
    assert cpu.read(0x60_0000, 4) == b"kept"


def test_statistics_that_nobody_knows_are_ignored(start_board: Start, tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    board = start_board(
        "-device", "virtio-balloon-device,id=b", "-qmp", f"unix:{path},server,nowait"
    )
    driver = MmioDriver(board.cpu)
    statistics = driver.bring_up(3, VERSION_1 | 1 << 1)[2]
    known = struct.pack("<HQ", 4, 12345)
    board.cpu.write(DATA, struct.pack("<HQHQ", 10, 1, 0xFFFF, 2) + known + b"\1")
    statistics.offer(statistics.chain([(DATA, 31, False)]))
    driver.set(0x50, 2)
    with QmpClient(path) as client:
        wait_until(
            lambda: client.cmd(
                "qom-get", path="/machine/peripheral/b", property="guest-stats"
            )["stats"]["stat-free-memory"] == 12345,
            "the statistics",
        )  # fmt: skip
    assert driver.get(0x70) == 15


def test_changes_of_the_balloon_are_told_at_most_once_a_second(
    start_board: Start, tmp_path: Path
) -> None:
    path = tmp_path / "qmp"
    board = start_board(
        "-device", "virtio-balloon-device,id=b", "-qmp", f"unix:{path},server,nowait"
    )
    driver = MmioDriver(board.cpu)
    driver.bring_up(3)
    with QmpClient(path) as client:
        for pages_given in range(1, 31):
            driver.set(0x104, pages_given)
            board.cpu.ask("clock_step 100000000")
        # The answer comes behind the events before it.
        client.cmd("query-balloon")
        told = [RAM_BYTES - e["data"]["actual"] for e in client.events()]
    # At once, and after one, two and three seconds: what it was then.
    assert told == [count << 12 for count in (1, 10, 20, 30)]


def test_each_port_of_a_console_has_queues_of_its_own(start_board: Start, tmp_path: Path) -> None:
    argv = ["-device", "virtio-serial-device"]
    logs = [tmp_path / f"hvc{number}" for number in range(3)]
    for number, log in enumerate(logs):
        argv += ["-chardev", f"file,path={log},id=c{number}"]
        argv += ["-device", f"virtconsole,chardev=c{number}"]
    board = start_board(*argv)
    driver = MmioDriver(board.cpu)
    rings = driver.bring_up(18, VERSION_1 | 1 << 1)
    for number, queue in enumerate((1, 5, 7)):
        board.cpu.write(DATA, b"port%d" % number)
        rings[queue].offer(rings[queue].chain([(DATA, 5, False)]))
        driver.set(0x50, queue)
        driver.done(rings[queue], 1)
    for number, log in enumerate(logs):
        wait_until(lambda: log.read_text() == f"port{number}", "the port's bytes")  # noqa: B023


def test_control_messages_of_a_console_that_make_no_sense(
    start_board: Start, tmp_path: Path
) -> None:
    log = tmp_path / "hvc"
    board = start_board(
        "-device", "virtio-serial-device", "-chardev", f"file,path={log},id=c",
        "-device", "virtconsole,chardev=c",
    )  # fmt: skip
    driver = MmioDriver(board.cpu)
    rings = driver.bring_up(18, VERSION_1 | 1 << 1)
    count = 0
    for message in (b"", b"\1", struct.pack("<IHH", 99, 3, 1), struct.pack("<IHH", 0, 77, 1),
                    struct.pack("<IHH", 0xFFFF_FFFF, 6, 0xFFFF), bytes(4096)):  # fmt: skip
        board.cpu.write(DATA, message)
        rings[3].offer(rings[3].chain([(DATA, len(message) or 1, False)]))
        driver.set(0x50, 3)
        count += 1
        driver.done(rings[3], count)
    # Hundreds of DEVICE_READY without a buffer for the answers do not pile up.
    for _ in range(200):
        board.cpu.write(DATA, struct.pack("<IHH", 0, 0, 1))
        rings[3].offer(rings[3].chain([(DATA, 8, False)]))
        driver.set(0x50, 3)
        count += 1
        driver.done(rings[3], count & 0xFFFF)
    # Once it offers buffers it gets what was kept, the newest of each event, and then what is new.
    answers = DATA + 0x1000
    rings[2].offer(rings[2].chain([(answers, 32, True)]))
    driver.set(0x50, 2)
    driver.done(rings[2], 1)
    assert board.cpu.read(answers, 8) == struct.pack("<IHH", 0, 1, 1)
    rings[2].offer(rings[2].chain([(answers, 32, True)]))
    driver.set(0x50, 2)
    # The device has looked at that buffer before it serves the next kick.
    board.cpu.write(DATA, b"hello")
    rings[1].offer(rings[1].chain([(DATA, 5, False)]))
    driver.set(0x50, 1)
    driver.done(rings[1], 1)
    wait_until(lambda: log.read_text() == "hello", "the port still works")
    assert rings[2].used_index() == 1
    board.cpu.write(DATA, struct.pack("<IHH", 0, 3, 1))
    rings[3].offer(rings[3].chain([(DATA, 8, False)]))
    driver.set(0x50, 3)
    driver.done(rings[2], 2)
    assert board.cpu.read(answers, 8) == struct.pack("<IHH", 0, 4, 1)
    assert driver.get(0x70) == 15
