"""Our block device in a process of its own, serving a ring whose descriptors it inherits."""

from __future__ import annotations

import _thread
import os
import sys

from bench.ring_load import RAM_BYTES, RING_SIZE
from stratovirt._native.guest_memory import GuestMemory
from stratovirt._native.interrupt import InterruptStatus, Notifier
from stratovirt._native.ram_mapping import RamMapping
from stratovirt._native.virtqueue import Virtqueue
from stratovirt.block.image import Image
from stratovirt.config.drive import Drive
from stratovirt.config.vm_config import VmConfig
from stratovirt.devices.device_host import DeviceHost
from stratovirt.host.access import HostAccess
from stratovirt.runtime.clock import MonotonicClock
from stratovirt.runtime.loop import Loop
from stratovirt.runtime.process import Process
from stratovirt.virtio.blk import F_FLUSH, Blk
from stratovirt.virtio.device import RING_EVENT_IDX, VERSION_1, ActiveQueue


def main() -> int:
    """Serve until standard input ends: PATH DIRECT RAM KICK CALL DESC AVAIL USED."""
    path, direct = sys.argv[1], sys.argv[2] == "on"
    ram_fd, kick_fd, call_fd, desc, avail, used = map(int, sys.argv[3:])
    memory = GuestMemory()
    memory.add(0, RamMapping(RAM_BYTES, ram_fd, True), 0, RAM_BYTES)
    loop = Loop(_thread.RLock())
    host = DeviceHost(
        process=Process(), config=VmConfig(), loop=loop,
        clock=MonotonicClock(loop), memory=memory, iothreads={},
        open_chardev=lambda _name: (_ for _ in ()).throw(KeyError()),
        send_event=lambda _name, _content: None, access=HostAccess(),
    )  # fmt: skip
    disk = Blk("bench", 1, host)
    disk.insert(Image(Drive(id="bench", file=path, direct=direct), host.access), None, None)
    ring = Virtqueue(memory, RING_SIZE, desc, avail, used, True)
    notifier = Notifier(InterruptStatus(), 1, call_fd)
    disk.activate([ActiveQueue(0, ring, kick_fd, notifier)], VERSION_1 | RING_EVENT_IDX | F_FLUSH)
    print("ready", flush=True)
    os.read(0, 1)
    disk.deactivate()
    disk.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
