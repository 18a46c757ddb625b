"""``make fuzz T=pci``: whatever a guest does to configuration space, BARs and MSI-X, q35 stands.

Each input is a walk of accesses to configuration space, to where BARs may be, and to the board's
ports; devices are plugged, unplugged and reset in between.
"""

import _thread
import os
import sys
import tempfile
from contextlib import ExitStack
from typing import Any

import atheris

with atheris.instrument_imports(
    include=["stratovirt.pci", "stratovirt.virtio.pci", "stratovirt.devices", "stratovirt.machine"]
):
    from stratovirt._native.guest_memory import GuestMemory
    from stratovirt.accel.test.machine import TestAccelerator
    from stratovirt.config.command_line import parse_command_line
    from stratovirt.cpu.slots import CpuSlots
    from stratovirt.devices.device_host import DeviceHost
    from stratovirt.host.access import HostAccess
    from stratovirt.machine.inventory import Inventory
    from stratovirt.machine.part import BoardContext
    from stratovirt.machine.x86_64_q35 import Q35
    from stratovirt.runtime.loop import Loop
    from stratovirt.runtime.process import Process

import socket

scratch = tempfile.mkdtemp(prefix="stratovirt-fuzz-")
for name, size in (("code", 64 << 10), ("vars", 16 << 10)):
    with open(os.path.join(scratch, name), "wb") as file:
        file.truncate(size)
ARGV = [
    "-machine", "q35", "-accel", "test", "-mod-test", f"{scratch}/cpu", "-m", "256",
    "-qmp", f"unix:{scratch}/qmp,server,nowait",
    "-drive", f"if=pflash,unit=0,file={scratch}/code,readonly=on",
    "-drive", f"if=pflash,unit=1,file={scratch}/vars",
    "-object", "rng-random,id=r,filename=/dev/zero",
    "-device", "virtio-rng-pci,rng=r,bus=pcie.0,addr=1",
    "-device", "virtio-balloon-pci,bus=pcie.0,addr=2",
    "-device", "pcie-root-port,id=p1,bus=pcie.0,addr=3,port=1",
    "-device", "virtio-serial-pci,id=serial,bus=p1,addr=0",
]  # fmt: skip
ECAM = 0xB000_0000
BARS = (0xC000_0000, 0xC001_0000, 0x1_0000_0000, 0x10_0000, 0xFEC0_0000, 0xB000_0000, 0xFFFF_C000)
PORTS = (*range(0xCF8, 0xD00), *range(0x510, 0x51C), 0x70, 0x71, *range(0x600, 0x640, 2))
VALUES = (0, 1, 2, 3, 6, 7, 0x10, 0x40, 0x50, 0x98, 0xD0, 0xE8, 0x400, 0x8000, 0xC000, 0xFFFF,
          0x7FFF_FFFF, 0xFFFF_FFFF, *BARS)  # fmt: skip


def _no_chardev(name: str) -> Any:
    raise KeyError(name)


def make_board() -> Q35:
    """A board whose processor is this program."""
    process = Process()
    process.open_log(None, to_stderr=False)
    config = parse_command_line(ARGV)
    lock = _thread.RLock()
    loop = Loop(lock)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{scratch}/cpu")
        listener.listen(1)
        accelerator = TestAccelerator(loop, lock, f"{scratch}/cpu")
    host = DeviceHost(
        process=process,
        config=config,
        loop=loop,
        clock=accelerator.clock,
        memory=GuestMemory(),
        iothreads={},
        open_chardev=_no_chardev,
        send_event=lambda _name, _content: None,
        access=HostAccess(),
    )
    return Q35(
        BoardContext(
            config=config, inventory=Inventory(config), cpus=CpuSlots(config, [0]),
            accelerator=accelerator, host=host, closing=ExitStack(), serial=None,
            guest_reset=lambda: None, guest_power_off=lambda: None,
        )
    )  # fmt: skip


board = make_board()
board.load()
accelerator: Any = board.accelerator
dispatcher = accelerator.dispatcher


def address(data: Any) -> Any:
    """Somewhere in configuration space, a BAR, or flash."""
    kind = data.ConsumeIntInRange(0, 3)
    if kind == 0:
        slot = data.PickValueInList([0, 1, 2, 3, 31])
        bus, register = data.ConsumeIntInRange(0, 2), data.ConsumeIntInRange(0, 0x110)
        return ECAM + (bus << 20) + (slot << 15) + register
    if kind == 1:
        return data.PickValueInList(list(BARS)) + data.ConsumeIntInRange(0, 0x4000)
    if kind == 2:
        return (1 << 32) - data.ConsumeIntInRange(1, 80 << 10)
    return data.ConsumeInt(5) & (1 << 40) - 1


def TestOneInput(content: bytes) -> None:  # noqa: N802 - the name atheris expects
    """One walk."""
    data = atheris.FuzzedDataProvider(content)
    board.chipset.mch.set_ecam(ECAM)
    while data.remaining_bytes():
        size = data.PickValueInList([1, 2, 4, 8])
        value = data.PickValueInList(list(VALUES)) if data.ConsumeBool() else data.ConsumeInt(8)
        kind = data.ConsumeIntInRange(0, 8)
        if kind == 0:
            port = data.PickValueInList(list(PORTS))
            dispatcher.write(True, port, min(size, 4), value & 0xFFFF_FFFF)
        elif kind == 1:
            dispatcher.read(True, data.PickValueInList(list(PORTS)), min(size, 4))
        elif kind == 2:
            dispatcher.read(False, address(data), size)
        elif kind == 3 and data.ConsumeIntInRange(0, 15) == 0:
            board.reset()
            board.chipset.mch.set_ecam(ECAM)
        elif kind == 4 and board.pci.host.root_ports[0].is_present:
            board.pci.host.root_ports[0].request_unplug()
        else:
            dispatcher.write(False, address(data), size, value & (1 << 8 * size) - 1)
    board.reset()
    for piece in board.memory_space.view:
        assert piece.start >= 0 and piece.start + piece.size <= board.memory_space.limit
    assert board.guest_memory.contains(0, 1 << 20)


def main() -> None:
    """Run until libFuzzer has had enough."""
    atheris.Setup(sys.argv, TestOneInput)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
