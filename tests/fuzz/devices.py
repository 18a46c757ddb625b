"""``make fuzz T=virtio-NAME``: whatever a driver writes, the device stays within its bounds.

Each input drives the device through a fake accelerator: register accesses of any kind, ring
memory and request headers of any content, kicks, packets from outside, pauses, resets, and media
and cables that come and go.
"""

import _thread
import os
import socket
import sys
import tempfile
from types import SimpleNamespace
from typing import Any

import atheris

with atheris.instrument_imports(include=["stratovirt.virtio", "stratovirt.memory"]):
    from stratovirt._native.guest_memory import GuestMemory
    from stratovirt._native.ram_mapping import RamMapping
    from stratovirt.chardev.file import OutputFile
    from stratovirt.config.command_line import parse_command_line
    from stratovirt.devices.device_host import DeviceHost
    from stratovirt.host.access import HostAccess
    from stratovirt.memory.address_space import AddressSpace
    from stratovirt.net.back_end import BackEnd
    from stratovirt.net.tap_back_end import TapBackEnd
    from stratovirt.runtime.clock import VirtualClock
    from stratovirt.runtime.loop import Loop
    from stratovirt.runtime.process import Process
    from stratovirt.virtio.blk import Blk
    from stratovirt.virtio.console import Console
    from stratovirt.virtio.device import VirtioDevice
    from stratovirt.virtio.mmio import MmioTransport
    from stratovirt.virtio.net import Net

RAM = 1 << 20
RING = 0x1_0000
BUFFER = 0x8_0000
BASE = 0xF010_0000
REGISTERS = (0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xA0,
             0xA4, 0x100, 0x104, 0x108)  # fmt: skip
VALUES = (0, 1, 2, 3, 7, 8, 11, 15, 64, 128, 256, 1024, RING, RING + 0x800, RING + 0xC00, BUFFER,
          RAM - 8, RAM, 0x7FFF_FFFF, 0xFFFF_FFFF)  # fmt: skip

scratch = tempfile.mkdtemp(prefix="stratovirt-fuzz-")
image = os.path.join(scratch, "disk.img")
with open(image, "wb") as file:
    file.truncate(1 << 20)
DEVICES = {
    "virtio-rng": [
        "-object", "rng-random,id=r,filename=/dev/zero",
        "-device", "virtio-rng-device,rng=r,max-bytes=100000,period=1000",
    ],
    "virtio-balloon": ["-device", "virtio-balloon-device,deflate-on-oom=on"],
    "virtio-console": [
        "-device", "virtio-serial-device", "-chardev", f"file,id=c,path={scratch}/console",
        "-device", "virtconsole,chardev=c",
    ],
    "virtio-blk": [
        "-drive", f"id=d,file={image},direct=off",
        "-device", "virtio-blk-device,drive=d,num-queues=2",
    ],
    "virtio-net": [],
}  # fmt: skip
target = sys.argv.pop(1)
process = Process()
config = parse_command_line(["-kernel", "k", *DEVICES[target]])


class FakeTap:
    """One end of a pair of sockets; the other is the network."""

    has_ufo = True

    def __init__(self) -> None:
        self.near, self.network = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.near.setblocking(False)
        self.network.setblocking(False)
        self.fds = [self.near.fileno()]

    def set_offload(self, _flags: int) -> None:
        """Any will do."""

    def enable(self, _pairs: int) -> None:
        """There is one."""


class Cable(TapBackEnd):
    """A tap's back end with our engine, on the pair of sockets."""

    def __init__(self) -> None:
        BackEnd.__init__(self, SimpleNamespace(flag="-netdev tap", id="cable"))
        self.tap: Any = FakeTap()
        self.vhosts = []


class FakeAccelerator:
    """Interrupts go to an eventfd; doorbells are written by the fuzz target itself."""

    def irqfd(self, _gsi: int) -> int:
        """An eventfd that nobody reads."""
        return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def add_doorbell(self, _fd: int, _address: int, _size: int, _value: int | None) -> None:
        """Kicks come through the register instead."""


class Bench:
    """The device on its transport, with RAM."""

    def __init__(self) -> None:
        self.loop = Loop(_thread.RLock())
        self.clock = VirtualClock()
        self.memory = GuestMemory()
        self.memory.add(0, RamMapping(RAM), 0, RAM)
        host = DeviceHost(
            process=process, config=config, loop=self.loop,
            clock=self.clock, memory=self.memory, iothreads={},
            open_chardev=lambda name: OutputFile(process, self.loop, config.chardevs[name]),  # type: ignore[arg-type]
            send_event=lambda _name, _content: None,
            access=HostAccess(),
        )  # fmt: skip
        cable = Cable()
        self.cable = cable
        self.device: VirtioDevice
        if target == "virtio-net":
            card = Net("net", 1, bytes.fromhex("525400000001"), host)
            card.connect(cable, None, None)
            self.device = card
        else:
            self.device = config.devices[0].driver.make(config.devices[0], host)
        if isinstance(self.device, Console):
            self.chardev = host.open_chardev("c")
            self.device.add_port("c", self.chardev)
            self.chardev.open()
        space = AddressSpace("memory", 1 << 52)
        accelerator: Any = FakeAccelerator()
        self.transport = MmioTransport(self.device, self.memory, accelerator, space, BASE, 5)

    def replace(self) -> None:
        """Take the medium or the cable out, and put it in again."""
        if isinstance(self.device, Blk):
            image = self.device.eject()
            self.device.insert(image, None, None)
        elif isinstance(self.device, Net):
            self.device.disconnect()
            self.device.connect(self.cable, None, None)

    def packet(self, content: bytes) -> None:
        """Something arrives from outside."""
        if isinstance(self.device, Net):
            network = self.cable.tap.network
            try:
                network.send(bytes(12) + content.ljust(14, b"\xff"))
                network.recv(1 << 17)
            except BlockingIOError:
                pass

    def settle(self) -> None:
        """Let the loop serve what is ready."""
        for _ in range(3):
            for fd, events in self.loop._epoll.poll(0):
                watch = self.loop._ready.get(fd)
                if watch is not None:
                    watch.callback(events)
        self.clock.move_to(self.clock.now_ns() + 10_000_000)


bench = Bench()
os.environ["STRATOVIRT_LOG_LEVEL"] = "error"
process.open_log(None, to_stderr=False)


def bring_up(features: int) -> None:
    """The well-behaved start, so that most inputs get past it."""
    write = bench.transport.write
    for value in (0, 1, 3):
        write(0x70, 4, value)
    write(0x24, 4, 0)
    write(0x20, 4, (bench.device.features | 1 << 29) & features & 0xFFFF_FFFF)
    write(0x24, 4, 1)
    write(0x20, 4, 1)
    write(0x70, 4, 11)
    for queue in range(min(4, len(bench.device.queue_sizes))):
        write(0x30, 4, queue)
        write(0x38, 4, 8)
        for offset, address in ((0x80, 0), (0x90, 0x800), (0xA0, 0xC00)):
            write(offset, 4, RING + 0x1000 * queue + address)
        write(0x44, 4, 1)
    write(0x70, 4, 15)


def one_input(content: bytes) -> None:
    """Treat the device badly."""
    data = atheris.FuzzedDataProvider(content)
    bench.memory.write(RING, bytes(0x4000))
    if data.ConsumeBool():
        bring_up(data.PickValueInList([0xFFFF_FFFF, 0, data.ConsumeUInt(4)]))
    for _ in range(data.ConsumeIntInRange(1, 16)):
        action = data.ConsumeIntInRange(0, 7)
        if action == 0:
            size = data.PickValueInList([1, 2, 4, 8])
            bench.transport.write(
                data.PickValueInList(list(REGISTERS)), size,
                data.PickValueInList(list(VALUES)) & (1 << 8 * size) - 1,
            )  # fmt: skip
        elif action == 1:
            bench.transport.read(data.ConsumeIntInRange(0, 0x1FF), data.PickValueInList([1, 4, 8]))
        elif action == 2:
            queue = data.ConsumeIntInRange(0, 3)
            descriptor = data.PickValueInList(list(VALUES)).to_bytes(8, "little")
            descriptor += data.PickValueInList(list(VALUES)).to_bytes(4, "little")
            descriptor += data.ConsumeIntInRange(0, 7).to_bytes(2, "little")
            descriptor += data.ConsumeIntInRange(0, 9).to_bytes(2, "little")
            slot = data.ConsumeIntInRange(0, 7)
            bench.memory.write(RING + 0x1000 * queue + 16 * slot, descriptor)
        elif action == 3:
            queue = data.ConsumeIntInRange(0, 3)
            index = data.ConsumeIntInRange(0, 9).to_bytes(2, "little")
            heads = bytes(data.ConsumeBytes(16))
            bench.memory.write(RING + 0x1000 * queue + 0x802, index + heads)
            bench.transport.write(0x50, 4, queue)
            bench.settle()
        elif action == 4:
            # Request headers, commands and packets: what descriptors point at.
            bench.memory.write(BUFFER, bytes(data.ConsumeBytes(48)).ljust(16, b"\0"))
        elif action == 5:
            bench.packet(bytes(data.ConsumeBytes(80)))
        elif action == 6:
            bench.replace()
        else:
            bench.device.quiesce()
            bench.device.resume()
    bench.settle()
    bench.transport.reset()


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
