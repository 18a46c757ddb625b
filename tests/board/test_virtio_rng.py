"""virtio-rng over virtio-mmio: what a driver gets, when, and how a broken one is stopped."""

from collections.abc import Callable
from pathlib import Path

from tests.board.conftest import Board
from tests.board.virtio_driver import BASE, DATA, SLOT_BYTES, BlkDriver
from tests.machine_process import run_to_end

Start = Callable[..., Board]
RNG = ("-object", "rng-random,id=r,filename=/dev/zero", "-device")
SECOND_NS = 1_000_000_000


def offer(driver: BlkDriver, size: int) -> None:
    driver.ring.want_interrupt_after(driver.completed)
    driver.ring.offer(driver.ring.chain([(DATA, size, True)]))
    driver.set(0x50, 0)


def test_a_buffer_is_filled(start_board: Start) -> None:
    board = start_board(*RNG, "virtio-rng-device,rng=r")
    driver = BlkDriver(board.cpu)
    assert driver.get(0x08) == 4
    driver.start()
    board.cpu.write(DATA, b"\xff" * 100)
    offer(driver, 64)
    driver.wait()
    assert board.cpu.read(DATA, 100) == bytes(64) + b"\xff" * 36


def test_a_request_gets_at_most_64_kib_at_once(start_board: Start) -> None:
    board = start_board(*RNG, "virtio-rng-device,rng=r")
    driver = BlkDriver(board.cpu)
    driver.start()
    offer(driver, 1 << 20)
    driver.wait()
    assert driver.ring.used_element(driver.completed - 1)[1] == 1 << 16


def test_what_may_flow_in_a_period_may_flow_at_its_start(start_board: Start) -> None:
    board = start_board(*RNG, "virtio-rng-device,rng=r,max-bytes=1024,period=1000")
    driver = BlkDriver(board.cpu)
    driver.start()
    for size in (384, 640):
        offer(driver, size)
        driver.wait()
        assert driver.ring.used_element(driver.completed - 1)[1] == size
    # The next byte is due after a 1024th of the period, and not before.
    offer(driver, 1)
    assert board.cpu.ask("clock_step").split()[1] == str(-(-SECOND_NS // 1024))
    driver.wait()
    # One that can never be met as a whole gets a period's worth.
    offer(driver, 4096)
    assert board.cpu.ask("clock_step").split()[1] == str(-(-SECOND_NS // 1024) + SECOND_NS)
    driver.wait()
    assert driver.ring.used_element(driver.completed - 1)[1] == 1024


def test_the_rate_is_held_by_the_clock(start_board: Start) -> None:
    board = start_board(*RNG, "virtio-rng-device,rng=r,max-bytes=1000,period=1000")
    driver = BlkDriver(board.cpu)
    driver.start()
    offer(driver, 1000)
    driver.wait()
    received = 0
    seconds = 20
    offer(driver, 64)
    for _ in range(seconds * 100):
        board.cpu.ask(f"clock_step {SECOND_NS // 100}")
        if driver.ring.used_index() != driver.completed & 0xFFFF:
            received += driver.ring.used_element(driver.completed)[1]
            driver.completed += 1
            offer(driver, 64)
    assert 1000 * seconds - 64 <= received <= 1000 * seconds


def test_eleven_devices_fit_and_a_twelfth_is_a_mistake(start_board: Start, tmp_path: Path) -> None:
    eleven = [*RNG[:2], *["-device", "virtio-rng-device,rng=r"] * 11]
    # With a monitor there are hot-replace slots too, which take none of the eleven.
    board = start_board(*eleven, "-qmp", f"unix:{tmp_path}/qmp,server,nowait")
    last = BlkDriver(board.cpu, BASE + 10 * SLOT_BYTES, 15)
    assert last.get(0x08) == 4
    last.start()
    offer(last, 8)
    last.wait()
    done = run_to_end("-kernel", "x", *eleven, "-device", "virtio-balloon-device")
    assert done.returncode == 1
    assert done.stderr == (
        "stratovirt: -device virtio-balloon-device: microvm has 11 virtio slots and all are taken\n"
    )


def test_a_source_that_cannot_be_read_breaks_its_device_and_no_other(start_board: Start) -> None:
    # A tap that is no interface yet is a character device whose read is an error.
    board = start_board(
        *RNG, "virtio-rng-device,rng=r", "-object", "rng-random,id=bad,filename=/dev/net/tun",
        "-device", "virtio-rng-device,rng=bad,id=broken",
    )  # fmt: skip
    broken, sound = BlkDriver(board.cpu, BASE + SLOT_BYTES, 6), BlkDriver(board.cpu)
    for _ in range(3):
        broken.start(at=0x11_0000)
        offer(broken, 64)
        broken.wait_needs_reset()
        assert broken.ring.used_index() == 0
        sound.start()
        offer(sound, 64)
        sound.wait()
    assert board.machine.terminate() == 0
    lines = board.machine.errors.decode().splitlines()
    assert lines and all("broken" in line and "bad state" in line for line in lines), lines
    assert len(lines) == 3, "one for each time that the driver tried"
