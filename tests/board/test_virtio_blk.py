"""virtio-blk over virtio-mmio, driven register by register as a guest driver would."""

import os
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.board.conftest import Board
from tests.board.virtio_driver import (
    BASE,
    DATA,
    EVENT_IDX,
    FLUSH,
    GET_ID,
    HEADER,
    IN,
    INDIRECT,
    NEEDS_RESET,
    OUT,
    RING,
    STATUS,
    VERSION_1,
    BlkDriver,
)
from tests.machine_process import run_to_end
from tests.payload import SPIN, write_kernel
from tests.ring import DESC_NEXT, DriverRing

Start = Callable[..., Board]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(1 << 20))
    return path


def blk(start: Start, image: Path, drive: str = "", device: str = "") -> tuple[Board, BlkDriver]:
    board = start(
        "-drive", f"id=d,file={image},direct=off{drive}",
        "-device", f"virtio-blk-device,drive=d{device}",
    )  # fmt: skip
    return board, BlkDriver(board.cpu)


def test_the_device_introduces_itself(start_board: Start, image: Path) -> None:
    _, driver = blk(start_board, image)
    assert [driver.get(offset) for offset in (0, 4, 8)] == [0x74726976, 2, 2]
    assert (
        driver.features() & (VERSION_1 | EVENT_IDX | INDIRECT) == VERSION_1 | EVENT_IDX | INDIRECT
    )
    assert driver.features() & 1 << 5 == 0 and driver.features() & 1 << 9
    capacity = driver.cpu.value(f"readq {BASE + 0x100:x}")
    assert capacity == image.stat().st_size // 512
    # A slot without a device has no magic, so a driver passes it by.
    assert driver.cpu.value(f"readl {BASE + 0x200:x}") == 0


@pytest.mark.parametrize("features", [VERSION_1, VERSION_1 | EVENT_IDX | INDIRECT | 1 << 9])
def test_reads_writes_flushes_and_identifies(
    start_board: Start, image: Path, features: int
) -> None:
    _, driver = blk(start_board, image, device=",serial=disk-7")
    driver.start(features)
    before = image.read_bytes()
    assert driver.request(IN, 3, length=1024) == (0, before[3 * 512 : 5 * 512])
    assert driver.request(OUT, 5, data=b"w" * 512)[0] == 0
    assert driver.request(FLUSH, 0)[0] == 0
    assert image.read_bytes() == before[: 5 * 512] + b"w" * 512 + before[6 * 512 :]
    assert driver.request(GET_ID, 0, length=20) == (0, b"disk-7".ljust(20, b"\0"))
    assert driver.request(99, 0)[0] == 2


def test_requests_outside_the_disk_fail_alone(start_board: Start, image: Path) -> None:
    _, driver = blk(start_board, image)
    driver.start()
    before = image.read_bytes()
    last = len(before) // 512 - 1
    assert driver.request(IN, last, length=512)[0] == 0
    for sector, length in (
        (last, 1024),
        (last + 1, 512),
        ((1 << 64) - 1, 512),
        (1 << 55, 512),
        (0, 100),
    ):
        assert driver.request(IN, sector, length=length)[0] == 1
        assert driver.request(OUT, sector, data=b"x" * length)[0] == 1
    assert driver.request(IN, 0, length=512) == (0, before[:512])
    assert image.read_bytes() == before


def test_a_readonly_drive_offers_and_enforces_it(start_board: Start, image: Path) -> None:
    before = image.read_bytes()
    _, driver = blk(start_board, image, drive=",readonly=on")
    assert driver.features() & 1 << 5
    driver.start()
    assert driver.request(OUT, 0, data=b"x" * 512)[0] == 1
    assert image.read_bytes() == before


def break_loop(driver: BlkDriver) -> None:
    driver.ring.describe(0, HEADER, 16, DESC_NEXT, 0)
    driver.ring.offer(0)


def break_address(driver: BlkDriver) -> None:
    driver.ring.describe(0, 1 << 62, 16, DESC_NEXT, 1)
    driver.ring.offer(0)


def break_index(driver: BlkDriver) -> None:
    driver.cpu.write(driver.ring.avail + 2, b"\xff\x7f")


def break_short(driver: BlkDriver) -> None:
    driver.ring.offer(driver.ring.chain([(HEADER, 15, False), (STATUS, 1, True)]))


def break_no_status(driver: BlkDriver) -> None:
    driver.ring.offer(driver.ring.chain([(HEADER, 16, False)]))


@pytest.mark.parametrize(
    "break_it", [break_loop, break_address, break_index, break_short, break_no_status]
)
def test_a_broken_ring_needs_a_reset_and_a_reset_mends_it(
    start_board: Start, image: Path, break_it: Callable[[BlkDriver], None]
) -> None:
    board, driver = blk(start_board, image)
    driver.start()
    break_it(driver)
    driver.set(0x50, 0)
    driver.wait_needs_reset()
    assert driver.get(0x60) & 2 and driver.interrupted()
    driver.start()
    assert driver.request(IN, 0, length=512) == (0, image.read_bytes()[:512])
    board.machine.terminate()
    assert b"the device needs a reset" in board.machine.errors
    assert b"Traceback" not in board.machine.errors


@pytest.mark.parametrize(
    ("desc", "avail", "used", "size"),
    [(1 << 40, RING, RING + 4096, 8), (RING, RING + 4096, (1 << 64) - 8, 8), (RING, RING, RING, 3),
     (RING, RING + 4096, RING + 8192, 0), (RING + 1, RING + 4096, RING + 8192, 8),
     (RING, RING + 4096, RING + 8192, 512)],
)  # fmt: skip
def test_a_queue_in_a_wrong_place_needs_a_reset(
    start_board: Start, image: Path, desc: int, avail: int, used: int, size: int
) -> None:
    _, driver = blk(start_board, image)
    for status in (0, 1, 3):
        driver.set(0x70, status)
    driver.set(0x24, 1)
    driver.set(0x20, 1)
    driver.set(0x70, 11)
    driver.place(desc, avail, used, size)
    driver.set(0x70, 15)
    assert driver.get(0x70) & NEEDS_RESET


def test_unoffered_or_legacy_features_are_refused(start_board: Start, image: Path) -> None:
    _, driver = blk(start_board, image)
    for features in (0, VERSION_1 | 1 << 63, VERSION_1 | 1):
        for status in (0, 1, 3):
            driver.set(0x70, status)
        for word in (0, 1):
            driver.set(0x24, word)
            driver.set(0x20, features >> 32 * word & 0xFFFF_FFFF)
        driver.set(0x70, 11)
        assert driver.get(0x70) == 3


def test_nonsense_in_every_register_of_every_device_is_survived(
    start_board: Start, image: Path
) -> None:
    board, driver = blk(start_board, image)
    cpu = driver.cpu
    for value in (0, 1, 0x7FFF_FFFF, 0xFFFF_FFFF, 0xDEAD_BEEF):
        for offset in range(0, 0x200, 4):
            if offset == 0x70:
                continue
            cpu.do(f"writel {BASE + offset:x} {value:x}")
            cpu.do(f"writeq {BASE + (offset & ~7):x} {value << 32 | value:x}")
            cpu.do(f"writeb {BASE + offset + 1:x} {value & 0xFF:x}")
            for name in "bwlq":
                cpu.value(f"read{name} {BASE + offset:x}")
        for status in (0xFF, 4, 15, value & 0xFF, 0):
            cpu.do(f"writel {BASE + 0x70:x} {status:x}")
    for port in (*range(0x3F8, 0x400), 0x60, 0x61, 0x64, 0x600, 0x601):
        for value in (0, 0x5A, 0xFF):
            if (port, value) != (0x600, 0xFF):
                cpu.do(f"outb {port:x} {value:x}")
                cpu.do(f"outw {port:x} {value:x}")
                cpu.do(f"outl {port:x} {value:x}")
    driver.start()
    assert driver.request(IN, 0, length=512)[0] == 0
    assert board.machine.process.poll() is None


def test_reset_with_requests_in_flight_completes_or_forgets_them(
    start_board: Start, image: Path
) -> None:
    _, driver = blk(start_board, image)
    for _ in range(20):
        driver.start()
        driver.cpu.write(HEADER, struct.pack("<IIQ", OUT, 0, 0))
        for _ in range(5):
            driver.ring.offer(
                driver.ring.chain([(HEADER, 16, False), (DATA, 65536, False), (STATUS, 1, True)])
            )
        driver.set(0x50, 0)
        driver.set(0x70, 0)
        assert driver.get(0x70) == 0 and driver.get(0x60) == 0
    driver.start()
    assert driver.request(IN, 0, length=512)[0] == 0


def test_o_direct_takes_any_guest_buffer(start_board: Start) -> None:
    image = Path("/var/tmp") / f"stratovirt-test-{os.getpid()}.img"
    image.write_bytes(os.urandom(1 << 20))
    try:
        board = start_board(
            "-drive", f"id=d,file={image},direct=on", "-device", "virtio-blk-device,drive=d"
        )
        driver = BlkDriver(board.cpu)
        driver.start()
        content = image.read_bytes()
        driver.cpu.write(HEADER, struct.pack("<IIQ", IN, 0, 1))
        odd = DATA + 7
        driver.ring.offer(
            driver.ring.chain(
                [(HEADER, 16, False), (odd, 1500, True), (odd + 2000, 36, True), (STATUS, 1, True)]
            )
        )
        driver.set(0x50, 0)
        driver.wait()
        assert driver.cpu.read(odd, 1500) + driver.cpu.read(odd + 2000, 36) == content[512:2048]
        assert driver.request(IN, 8, length=4096) == (0, content[4096:8192])
    finally:
        image.unlink()


def test_host_errors_and_misuse_of_images_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    none, folder, empty = tmp_path / "none", tmp_path, tmp_path / "empty"
    cases = [
        (none, "", "cannot open: No such file or directory"),
        (folder, "", "cannot open: Is a directory"),
        (empty, ",direct=off", "the image holds not even one 512-byte sector"),
    ]
    kernel = write_kernel(tmp_path, SPIN)
    for path, more, message in cases:
        done = run_to_end(
            "-kernel", str(kernel), "-drive", f"id=d,file={path}{more}",
            "-device", "virtio-blk-device,drive=d",
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"stratovirt: -drive id=d,file={path}: {message}\n"


def test_the_same_image_twice_in_one_machine_says_so(tmp_path: Path, image: Path) -> None:
    done = run_to_end(
        "-kernel", str(write_kernel(tmp_path, SPIN)),
        "-drive", f"id=a,file={image},direct=off", "-device", "virtio-blk-device,drive=a",
        "-drive", f"id=b,file={image},direct=off", "-device", "virtio-blk-device,drive=b",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"stratovirt: -drive id=b,file={image}: the image is in use by this machine already\n"
    )


def test_a_limited_disk_keeps_its_pace_over_time(start_board: Start, image: Path) -> None:
    board = start_board(
        "-drive", f"id=d,file={image},direct=off,throttling.iops-total=100",
        "-device", "virtio-blk-device,drive=d",
    )  # fmt: skip
    driver = BlkDriver(board.cpu)
    driver.start()
    # What it saves up at rest is a tenth of a second's worth, and is there at the start.
    for sector in range(10):
        assert driver.request(IN, sector, length=512)[0] == 0
    for sector in range(150):
        driver.offer(IN, sector, length=512)
        assert board.cpu.ask("clock_step 9999999").startswith("OK")
        assert not driver.is_complete()
        assert board.cpu.ask("clock_step 1").startswith("OK")
        assert driver.result()[0] == 0
    assert board.cpu.ask("clock_step 0") == f"OK {150 * 10_000_000}"


def test_each_queue_of_a_disk_is_served(start_board: Start, image: Path) -> None:
    board = start_board(
        "-drive", f"id=d,file={image},direct=off",
        "-device", "virtio-blk-device,drive=d,num-queues=4",
    )  # fmt: skip
    driver = BlkDriver(board.cpu)
    assert driver.features() & 1 << 12
    assert driver.get(0x100 + 34) & 0xFFFF == 4
    content = image.read_bytes()
    for status in (0, 1, 3):
        driver.set(0x70, status)
    driver.set(0x24, 1)
    driver.set(0x20, VERSION_1 >> 32)
    driver.set(0x70, 11)
    rings = []
    for queue in range(4):
        ring = DriverRing(board.cpu, RING + 0x1000 * queue, 8)
        rings.append(ring)
        driver.set(0x30, queue)
        driver.set(0x38, 8)
        for offset, address in ((0x80, ring.desc), (0x90, ring.avail), (0xA0, ring.used)):
            driver.set(offset, address)
            driver.set(offset + 4, 0)
        driver.set(0x44, 1)
    driver.set(0x70, 15)
    for queue, ring in enumerate(rings):
        board.cpu.write(HEADER, struct.pack("<IIQ", IN, 0, queue))
        ring.offer(ring.chain([(HEADER, 16, False), (DATA, 512, True), (STATUS, 1, True)]))
        driver.set(0x50, queue)
        deadline = time.monotonic() + 10
        while ring.used_index() != 1:
            assert time.monotonic() < deadline, f"queue {queue} is not served"
        assert board.cpu.read(DATA, 512) == content[512 * queue : 512 * queue + 512]


DISCARD, WRITE_ZEROES, UNMAP = 11, 13, 1


def ranges(*parts: tuple[int, int, int]) -> bytes:
    return b"".join(struct.pack("<QII", *part) for part in parts)


def test_discarded_and_zeroed_ranges_read_as_zeroes_and_free_the_file(
    start_board: Start, image: Path
) -> None:
    content = image.read_bytes()
    board = start_board(
        "-drive", f"id=d,file={image},direct=off", "-device", "virtio-blk-device,drive=d"
    )
    driver = BlkDriver(board.cpu)
    assert driver.features() & 3 << 13 == 3 << 13
    driver.start()
    before = image.stat().st_blocks
    assert driver.request(DISCARD, 0, ranges((0, 256, 0), (512, 256, 0)))[0] == 0
    assert image.stat().st_blocks <= before - 400
    assert driver.request(WRITE_ZEROES, 0, ranges((1024, 8, 0)))[0] == 0
    assert driver.request(WRITE_ZEROES, 0, ranges((1032, 8, UNMAP)))[0] == 0
    expected = bytearray(content)
    for sector, count in ((0, 256), (512, 256), (1024, 16)):
        expected[512 * sector : 512 * (sector + count)] = bytes(512 * count)
    assert image.read_bytes() == expected


@pytest.fixture
def loop_device(image: Path) -> Iterator[str]:
    """The image as a block device of 4096-byte sectors."""
    made = subprocess.run(
        ["losetup", "-f", "--show", "-b", "4096", image], capture_output=True, text=True, check=True
    )
    yield made.stdout.strip()
    subprocess.run(["losetup", "-d", made.stdout.strip()], check=True)


@pytest.mark.parametrize("direct", ["on", "off"])
def test_a_device_of_large_sectors_takes_ranges_that_are_not_aligned(
    start_board: Start, image: Path, loop_device: str, direct: str
) -> None:
    expected = bytearray(image.read_bytes())
    board = start_board(
        "-drive", f"id=d,file={loop_device},direct={direct}", "-device", "virtio-blk-device,drive=d"
    )
    driver = BlkDriver(board.cpu)
    assert driver.features() & 1 << 10
    # blk_size, physical_block_exp and discard_sector_alignment (virtio 1.2, section 5.2.4).
    assert driver.cpu.value(f"readl {BASE + 0x114:x}") == 512
    assert driver.cpu.value(f"readb {BASE + 0x118:x}") == 3
    assert driver.cpu.value(f"readl {BASE + 0x12C:x}") == 8
    driver.start()
    # The aligned part goes, the edges stay; of one without an aligned part nothing goes.
    assert driver.request(DISCARD, 0, ranges((2, 23, 0), (33, 6, 0)))[0] == 0
    expected[8 * 512 : 24 * 512] = bytes(16 * 512)
    for flags in (0, UNMAP):
        sector = 101 + 100 * flags
        assert driver.request(WRITE_ZEROES, 0, ranges((sector, 30, flags), (3, 1, flags)))[0] == 0
        expected[512 * sector : 512 * (sector + 30)] = bytes(30 * 512)
    expected[3 * 512 : 4 * 512] = bytes(512)
    assert driver.request(OUT, 5, b"\x5a" * 512)[0] == 0
    expected[5 * 512 : 6 * 512] = b"\x5a" * 512
    assert driver.request(FLUSH, 0)[0] == 0
    assert Path(loop_device).read_bytes() == expected


def test_ranges_that_make_no_sense_are_refused_alone(start_board: Start, image: Path) -> None:
    content = image.read_bytes()
    sectors = len(content) // 512
    board = start_board(
        "-drive", f"id=d,file={image},direct=off", "-device", "virtio-blk-device,drive=d"
    )
    driver = BlkDriver(board.cpu)
    driver.start()
    io_error, unsupported = 1, 2
    for kind in (DISCARD, WRITE_ZEROES):
        for request, status in (
            (ranges((sectors, 1, 0)), io_error),
            (ranges((1 << 63, 0xFFFF_FFFF, 0)), io_error),
            (ranges((0, 8, 0x80)), unsupported),
            (ranges((0, 8, 0)) + b"x", unsupported),
            (ranges(*[(0, 1, 0)] * 17), unsupported),
        ):
            assert driver.request(kind, 0, request)[0] == status
    assert driver.request(DISCARD, 0, ranges((0, 8, UNMAP)))[0] == unsupported
    assert image.read_bytes() == content
    assert driver.request(IN, 0, length=512) == (0, content[:512])


def test_a_readonly_disk_discards_nothing(start_board: Start, image: Path) -> None:
    content = image.read_bytes()
    board = start_board(
        "-drive", f"id=d,file={image},direct=off,readonly=on",
        "-device", "virtio-blk-device,drive=d",
    )  # fmt: skip
    driver = BlkDriver(board.cpu)
    assert not driver.features() & 3 << 13
    driver.start()
    assert driver.request(DISCARD, 0, ranges((0, 8, 0)))[0] == 1
    assert image.read_bytes() == content


@pytest.mark.parametrize("direct", ["on", "off"])
def test_many_requests_in_flight_each_get_their_own_answer(
    start_board: Start, image: Path, direct: str
) -> None:
    # As many as fit in the ring, of all kinds, good and bad, offered by one kick.
    content = bytearray(image.read_bytes())
    board = start_board(
        "-drive", f"id=d,file={image},direct={direct}", "-device", "virtio-blk-device,drive=d"
    )
    driver = BlkDriver(board.cpu)
    driver.start(size=256)
    ring, expected = driver.ring, {}
    for number in range(64):
        kind, sector = (IN, OUT, FLUSH, IN)[number % 4], 16 * number
        if number % 8 == 3:
            sector = 1 << 40
        at = 0x40_0000 + number * 0x4000
        board.cpu.write(at, struct.pack("<IIQ", kind, 0, sector))
        board.cpu.write(at + 0x3000, b"\xff")
        pieces = [(at, 16, False)]
        if kind == OUT:
            board.cpu.write(at + 0x1000, bytes([number]) * 4096)
            pieces.append((at + 0x1000, 4096, False))
            content[512 * sector : 512 * sector + 4096] = bytes([number]) * 4096
        elif kind == IN:
            pieces.append((at + 0x1000, 4096, True))
        pieces.append((at + 0x3000, 1, True))
        ring.offer(ring.chain(pieces, first=3 * number))
        expected[at] = (kind, sector, 1 if sector == 1 << 40 else 0)
    driver.set(0x50, 0)
    deadline = time.monotonic() + 20
    while ring.used_index() != 64:
        assert time.monotonic() < deadline, f"only {ring.used_index()} came back"
    assert sorted(ring.used_element(i)[0] for i in range(64)) == [3 * n for n in range(64)]
    for at, (kind, sector, status) in expected.items():
        assert board.cpu.read(at + 0x3000, 1)[0] == status
        if kind == IN and status == 0:
            found = board.cpu.read(at + 0x1000, 4096)
            assert found == content[512 * sector : 512 * sector + 4096]
    driver.set(0x70, 0)
    assert image.read_bytes() == content
