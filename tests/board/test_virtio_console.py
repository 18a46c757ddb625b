"""virtio-console: what its driver hears of a port whose peer comes and goes."""

import socket
import struct
from collections.abc import Callable
from pathlib import Path

from tests.board.conftest import Board
from tests.board.virtio_driver import DATA, VERSION_1, MmioDriver
from tests.machine_process import wait_until

Start = Callable[..., Board]
MULTIPORT = 1 << 1
CONTROL_RECEIVE, CONTROL_TRANSMIT = 2, 3
DEVICE_READY, PORT_ADD, PORT_READY, CONSOLE_PORT, PORT_OPEN, PORT_NAME = 0, 1, 3, 4, 6, 7
BUFFER = 64


def test_a_driver_without_buffers_hears_the_last_state_of_a_port_that_came_and_went(
    start_board: Start, tmp_path: Path
) -> None:
    path = tmp_path / "console"
    board = start_board(
        "-device", "virtio-serial-device",
        "-chardev", f"socket,id=c,path={path},server,nowait", "-device", "virtconsole,chardev=c",
    )  # fmt: skip
    driver = MmioDriver(board.cpu)
    rings = driver.bring_up(4, features=VERSION_1 | MULTIPORT)
    for number, event in enumerate((DEVICE_READY, PORT_READY)):
        board.cpu.write(DATA, struct.pack("<IHH", 0, event, 1))
        ring = rings[CONTROL_TRANSMIT]
        ring.offer(ring.chain([(DATA, 8, False)]))
        driver.set(0x50, CONTROL_TRANSMIT)
        driver.done(ring, number + 1)
    for _ in range(70):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
            peer.sendall(b"x")
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
        peer.sendall(b"last")
        heard = ""
        ring = rings[0]
        # Input arrives behind the message that its peer is there.
        for count in range(1, 72):
            ring.offer(ring.chain([(DATA, BUFFER, True)]))
            driver.set(0x50, 0)
            wait_until(lambda count=count: ring.used_index() >= count, "input")  # type: ignore[misc]
            heard += board.cpu.read(DATA, ring.used_element(count - 1)[1]).decode()
            if heard.endswith("last"):
                break
        messages = []
        ring = rings[CONTROL_RECEIVE]
        for count in range(1, 5):
            ring.offer(ring.chain([(DATA, BUFFER, True)]))
            driver.set(0x50, CONTROL_RECEIVE)
            driver.done(ring, count)
            messages.append(struct.unpack("<IHH", board.cpu.read(DATA, 8)))
        # Older news of the port's peer are not told any more.
        ring.offer(ring.chain([(DATA, BUFFER, True)]))
        driver.set(0x50, CONTROL_RECEIVE)
        for _ in range(20):
            assert ring.used_index() == len(messages)
    assert [event for _, event, _ in messages] == [PORT_ADD, CONSOLE_PORT, PORT_NAME, PORT_OPEN]
    assert messages[-1] == (0, PORT_OPEN, 1)
