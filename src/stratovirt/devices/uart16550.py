"""A 16550A serial port (National Semiconductor PC16550D): eight registers, 16-byte FIFOs."""

from __future__ import annotations

from collections import deque

from stratovirt.chardev.backend import Chardev
from stratovirt.config.options import opt
from stratovirt.snapshot.state import FLAG, U8, U16, Bytes, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

REGISTERS = 8
FIFO_BYTES = 16
CLOCK_DIVISOR_9600 = 12

DATA, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR = range(8)

IER_RECEIVE, IER_TRANSMIT, IER_LINE, IER_MODEM = 1, 2, 4, 8
IIR_NONE, IIR_MODEM, IIR_TRANSMIT, IIR_RECEIVE, IIR_LINE, IIR_TIMEOUT = 1, 0, 2, 4, 6, 0xC
IIR_FIFO_ENABLED = 0xC0
FCR_ENABLE, FCR_CLEAR_RECEIVE = 1, 2
LCR_DIVISOR_LATCH = 0x80
MCR_OUT2, MCR_LOOPBACK = 8, 0x10
LSR_DATA_READY, LSR_OVERRUN, LSR_HOLDING_EMPTY, LSR_EMPTY = 1, 2, 0x20, 0x40
MSR_CTS, MSR_DSR, MSR_DCD = 0x10, 0x20, 0x80


class UartState(State):
    """Registers and received bytes that the guest has not read yet."""

    ier: int = opt(U8)
    lcr: int = opt(U8)
    mcr: int = opt(U8)
    scr: int = opt(U8)
    divisor: int = opt(U16)
    fifo_enabled: bool = opt(FLAG)
    overrun: bool = opt(FLAG)
    received: bytes = opt(Bytes(FIFO_BYTES))


class Uart16550:
    """A UART whose line speed is that of the chardev's peer.

    Bytes go to the chardev as they are written; while its peer lags, the transmitter is busy.
    Bytes from the peer wait in the host until the FIFO has room, so no input is lost.
    """

    state_type = UartState

    def __init__(self, chardev: Chardev, set_irq: Callable[[bool], None]) -> None:
        self._chardev = chardev
        self._set_irq = set_irq
        self._irq_level = False
        chardev.on_input = self._receive
        chardev.room = self._room
        chardev.on_drained = self._drained
        self.reset()

    def reset(self) -> None:
        """Reset the registers to power-on state."""
        self._received: deque[int] = deque()
        self._ier = self._lcr = self._scr = 0
        self._mcr = MCR_OUT2
        self._divisor = CLOCK_DIVISOR_9600
        self._fifo_enabled = False
        self._overrun = False
        self._transmit_pending = False
        self._update_irq()

    def save(self) -> UartState:
        """The registers as they are."""
        return UartState(
            ier=self._ier, lcr=self._lcr, mcr=self._mcr, scr=self._scr, divisor=self._divisor,
            fifo_enabled=self._fifo_enabled, overrun=self._overrun, received=bytes(self._received),
        )  # fmt: skip

    def restore(self, state: UartState) -> None:
        """Set the saved registers; the chardev's peer is a new one."""
        self._ier, self._lcr, self._mcr, self._scr = state.ier, state.lcr, state.mcr, state.scr
        self._divisor, self._fifo_enabled = state.divisor, state.fifo_enabled
        self._overrun = state.overrun
        # A peer that lagged then does not now.
        self._transmit_pending = True
        self._received = deque(state.received)
        self._update_irq()

    def read(self, offset: int, size: int) -> int:
        """A register, by its port offset; only byte accesses mean something."""
        if size != 1:
            return (1 << 8 * size) - 1
        if offset == DATA:
            return self._divisor & 0xFF if self._lcr & LCR_DIVISOR_LATCH else self._read_data()
        if offset == IER:
            return self._divisor >> 8 if self._lcr & LCR_DIVISOR_LATCH else self._ier
        if offset == IIR_FCR:
            return self._read_iir()
        if offset == LSR:
            return self._read_lsr()
        if offset == MSR:
            return self._read_msr()
        return {LCR: self._lcr, MCR: self._mcr, SCR: self._scr}[offset]

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register; wider accesses are ignored, as the chip has eight data pins."""
        if size != 1:
            return
        if offset == DATA:
            if self._lcr & LCR_DIVISOR_LATCH:
                self._divisor = self._divisor & 0xFF00 | value
            else:
                self._transmit(value)
        elif offset == IER:
            if self._lcr & LCR_DIVISOR_LATCH:
                self._divisor = self._divisor & 0xFF | value << 8
            else:
                self._write_ier(value)
        elif offset == IIR_FCR:
            was_enabled, self._fifo_enabled = self._fifo_enabled, bool(value & FCR_ENABLE)
            # A change of mode empties the FIFOs (PC16550D, section 8.4).
            if value & FCR_CLEAR_RECEIVE or was_enabled != self._fifo_enabled:
                self._received.clear()
            self._update_irq()
            self._chardev.resume_input()
        elif offset == LCR:
            self._lcr = value
        elif offset == MCR:
            self._mcr = value & 0x1F
            self._update_irq()
        elif offset == SCR:
            self._scr = value

    def _room(self) -> int:
        return (FIFO_BYTES if self._fifo_enabled else 1) - len(self._received)

    def _receive(self, content: bytes) -> None:
        if not self._mcr & MCR_LOOPBACK:
            self._received.extend(content)
            self._update_irq()

    def _read_data(self) -> int:
        value = self._received.popleft() if self._received else 0
        self._update_irq()
        self._chardev.resume_input()
        return value

    def _transmit(self, value: int) -> None:
        if self._mcr & MCR_LOOPBACK:
            if self._room() > 0:
                self._received.append(value)
            else:
                self._overrun = True
        else:
            self._chardev.write(bytes((value,)))
        if not self._chardev.is_backed_up:
            self._transmit_pending = True
        self._update_irq()

    def _drained(self) -> None:
        self._transmit_pending = True
        self._update_irq()

    def _write_ier(self, value: int) -> None:
        # Enabling the transmit interrupt while the holding register is empty raises it at once.
        raised = value & IER_TRANSMIT and not self._ier & IER_TRANSMIT
        if raised and not self._chardev.is_backed_up:
            self._transmit_pending = True
        self._ier = value & 0xF
        self._update_irq()

    def _pending(self) -> int:
        if self._overrun and self._ier & IER_LINE:
            return IIR_LINE
        if self._received and self._ier & IER_RECEIVE:
            return IIR_RECEIVE
        if self._transmit_pending and self._ier & IER_TRANSMIT:
            return IIR_TRANSMIT
        return IIR_NONE

    def _read_iir(self) -> int:
        pending = self._pending()
        if pending == IIR_TRANSMIT:
            self._transmit_pending = False
            self._update_irq()
        return pending | (IIR_FIFO_ENABLED if self._fifo_enabled else 0)

    def _read_lsr(self) -> int:
        value = 0 if self._chardev.is_backed_up else LSR_HOLDING_EMPTY | LSR_EMPTY
        if self._received:
            value |= LSR_DATA_READY
        if self._overrun:
            value |= LSR_OVERRUN
            self._overrun = False
            self._update_irq()
        return value

    def _read_msr(self) -> int:
        if self._mcr & MCR_LOOPBACK:
            # DTR, RTS, OUT1, OUT2 come back as DSR, CTS, RI, DCD.
            mcr = self._mcr
            return (mcr & 1) << 5 | (mcr & 2) << 3 | (mcr & 4) << 4 | (mcr & 8) << 4
        return MSR_CTS | MSR_DSR | MSR_DCD

    def _update_irq(self) -> None:
        # OUT2 gates the interrupt on a PC, except in loopback.
        level = self._pending() != IIR_NONE and bool(self._mcr & MCR_OUT2)
        if level != self._irq_level:
            self._irq_level = level
            self._set_irq(level)
