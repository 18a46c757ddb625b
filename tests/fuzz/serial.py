"""``make fuzz T=serial``: a UART whose driver and line do what they like."""

import sys

import atheris

with atheris.instrument_imports(include=["stratovirt.devices.uart16550"]):
    from stratovirt.devices.uart16550 import FIFO_BYTES, Uart16550

from tests.unit.test_uart import Line


def one_input(content: bytes) -> None:
    """A walk over the registers, with input and lagging peers in between."""
    data = atheris.FuzzedDataProvider(content)
    line, levels = Line(), list[bool]()
    device = Uart16550(line, levels.append)  # type: ignore[arg-type]
    written = 0
    while data.remaining_bytes():
        kind, offset = data.ConsumeIntInRange(0, 5), data.ConsumeIntInRange(0, 7)
        if kind <= 1:
            device.write(offset, 1, data.ConsumeIntInRange(0, 255))
            written += offset == 0
        elif kind == 2:
            assert 0 <= device.read(offset, 1) <= 0xFF
        elif kind == 3:
            line.on_input(data.ConsumeBytes(min(line.room(), data.ConsumeIntInRange(0, 20))))
        elif kind == 4:
            line.is_backed_up = data.ConsumeBool()
            if not line.is_backed_up:
                line.on_drained()
        else:
            saved = device.save()
            device.reset()
            device.restore(saved)
            assert device.save() == saved
        assert 0 <= line.room() <= FIFO_BYTES
        assert len(line.sent) <= written


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
