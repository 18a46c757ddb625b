"""The serial port as a Linux driver uses it."""

from collections.abc import Callable

from stratovirt.devices.uart16550 import Uart16550
from stratovirt.runtime.loop import Loop

DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(8)


class Line:
    """A chardev without a host: what was sent, and what waits to be received."""

    def __init__(self) -> None:
        self.sent = b""
        self.resumed = 0
        self.is_backed_up = False
        self.on_drained: Callable[[], None] = lambda: None
        self.on_input: Callable[[bytes], None] = lambda _received: None
        self.room: Callable[[], int] = lambda: 0

    def write(self, content: bytes) -> None:
        self.sent += content

    def resume_input(self) -> None:
        self.resumed += 1


def uart() -> tuple[Uart16550, Line, list[bool]]:
    line, levels = Line(), list[bool]()
    device = Uart16550(line, levels.append)  # type: ignore[arg-type]
    return device, line, levels


def test_bytes_written_leave_at_once_and_the_line_is_always_ready() -> None:
    device, line, _ = uart()
    for byte in b"console":
        assert device.read(LSR, 1) & 0x60 == 0x60
        device.write(DATA, 1, byte)
    assert line.sent == b"console"


def test_received_bytes_raise_the_interrupt_until_they_are_read() -> None:
    device, line, levels = uart()
    device.write(IIR, 1, 1)
    device.write(IER, 1, 1)
    assert line.room() == 16
    line.on_input(b"ab")
    assert levels == [True] and line.room() == 14
    assert device.read(IIR, 1) == 0xC4 and device.read(LSR, 1) & 1
    assert [device.read(DATA, 1), device.read(DATA, 1)] == [0x61, 0x62]
    assert levels == [True, False] and device.read(IIR, 1) == 0xC1
    assert line.resumed >= 2


def test_the_transmit_interrupt_comes_when_enabled_and_goes_when_identified() -> None:
    device, _, levels = uart()
    device.write(IER, 1, 2)
    assert levels == [True]
    assert device.read(IIR, 1) & 0xF == 2
    assert levels == [True, False]
    device.write(DATA, 1, 0x41)
    assert levels == [True, False, True]


def test_the_divisor_latch_hides_data_and_interrupt_enable() -> None:
    device, line, _ = uart()
    device.write(LCR, 1, 0x83)
    device.write(DATA, 1, 0x01)
    device.write(IER, 1, 0x02)
    assert (device.read(DATA, 1), device.read(IER, 1)) == (1, 2)
    device.write(LCR, 1, 3)
    assert device.read(IER, 1) == 0 and line.sent == b""


def test_loopback_returns_bytes_and_modem_lines() -> None:
    device, line, _ = uart()
    device.write(IIR, 1, 1)
    device.write(MCR, 1, 0x1F)
    device.write(DATA, 1, 0x55)
    assert device.read(DATA, 1) == 0x55 and line.sent == b""
    assert device.read(MSR, 1) == 0xF0
    # DTR comes back as DSR, RTS as CTS, OUT1 as RI and OUT2 as DCD.
    for output, status in ((1, 0x20), (2, 0x10), (4, 0x40), (8, 0x80)):
        device.write(MCR, 1, 0x10 | output)
        assert device.read(MSR, 1) == status
    for _ in range(17):
        device.write(DATA, 1, 1)
    assert device.read(LSR, 1) & 2 and not device.read(LSR, 1) & 2


def test_a_slow_peer_keeps_the_transmitter_busy_until_it_has_caught_up() -> None:
    device, line, levels = uart()
    device.write(IER, 1, 2)
    assert device.read(IIR, 1) & 0xF == 2
    line.is_backed_up = True
    device.write(DATA, 1, 0x41)
    assert device.read(LSR, 1) & 0x60 == 0 and device.read(IIR, 1) & 0xF == 1
    line.is_backed_up = False
    line.on_drained()
    assert device.read(LSR, 1) & 0x60 == 0x60 and levels[-1] is True


def test_every_access_of_every_width_is_survived() -> None:
    device, _, _ = uart()
    for offset in range(8):
        for size in (1, 2, 4, 8):
            for value in (0, 0x5A, (1 << 8 * size) - 1):
                device.write(offset, size, value)
                assert 0 <= device.read(offset, size) < 1 << 8 * size


def test_the_loop_runs_timers_in_order_and_calls_from_threads() -> None:
    import _thread
    import time

    loop = Loop(_thread.RLock())
    order: list[str] = []
    now = time.monotonic_ns()

    def late() -> None:
        order.append("late")
        loop.stop()

    loop.call_at(now + 20_000_000, late)
    loop.call_at(now + 10_000_000, lambda: order.append("early"))
    loop.call_at(now + 15_000_000, lambda: order.append("never")).cancel()
    _thread.start_new_thread(loop.call_soon, (lambda: order.append("thread"),))
    loop.run()
    loop.close()
    assert order == ["thread", "early", "late"]


def test_switching_the_fifo_on_or_off_empties_it() -> None:
    device, line, _ = uart()
    device.write(IIR, 1, 1)
    line.on_input(b"x" * line.room())
    device.write(IIR, 1, 0)
    assert line.room() == 1 and device.read(LSR, 1) & 1 == 0
    line.on_input(b"y")
    device.write(IIR, 1, 1)
    assert line.room() == 16
