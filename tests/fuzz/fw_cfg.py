"""``make fuzz T=fw-cfg``: firmware that asks for anything, anywhere, by port and by DMA."""

import struct
import sys

import atheris

with atheris.instrument_imports(include=["stratovirt.devices.fw_cfg"]):
    from stratovirt._native.guest_memory import GuestMemory
    from stratovirt._native.ram_mapping import RamMapping
    from stratovirt.devices.fw_cfg import FwCfg

RAM_BYTES = 1 << 20
PLACES = (0, 0x1000, RAM_BYTES - 16, RAM_BYTES - 8, RAM_BYTES, 1 << 32, (1 << 64) - 16, 1 << 63)
LENGTHS = (0, 1, 16, 4096, RAM_BYTES, (1 << 32) - 1)

ram = RamMapping(RAM_BYTES)
memory = GuestMemory()
memory.add(0, ram, 0, RAM_BYTES)
device = FwCfg(memory, lambda: None)
device.add_file("etc/blob", bytes(range(256)) * 40)
device.add_file("etc/made", lambda: b"x" * 100)


def one_input(content: bytes) -> None:
    """A walk over the ports, with DMA requests in RAM and outside."""
    data = atheris.FuzzedDataProvider(content)
    device.reset()
    while data.remaining_bytes():
        kind = data.ConsumeIntInRange(0, 3)
        if kind == 0:
            place = data.PickValueInList(list(PLACES))
            control = data.ConsumeIntInRange(0, 0x1F) | data.ConsumeIntInRange(0, 0x30) << 16
            request = struct.pack(
                ">IIQ", control, data.PickValueInList(list(LENGTHS)),
                data.PickValueInList(list(PLACES)),
            )  # fmt: skip
            if memory.contains(place, len(request)):
                memory.write(place, request)
            device.write(4, 4, int.from_bytes(struct.pack(">I", place >> 32), "little"))
            device.write(8, 4, int.from_bytes(struct.pack(">I", place & 0xFFFF_FFFF), "little"))
        elif kind == 1:
            device.write(0, 2, data.ConsumeIntInRange(0, 0xFFFF))
        elif kind == 2:
            size = data.PickValueInList([1, 2, 4])
            assert 0 <= device.read(data.ConsumeIntInRange(0, 11), size) < 1 << 8 * size
        else:
            size = data.PickValueInList([1, 2, 4])
            device.write(data.ConsumeIntInRange(0, 11), size, data.ConsumeIntInRange(0, 255))


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
