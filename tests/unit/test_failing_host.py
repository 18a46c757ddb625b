"""Interrupts, memory slots and threads where the host refuses one: nothing is kept twice."""

import os
from types import SimpleNamespace
from typing import Any

import pytest

from stratovirt.accel.base import AccelError
from stratovirt.accel.kvm import vcpu_thread
from stratovirt.accel.kvm.memslots import MemslotListener
from stratovirt.accel.kvm.vcpu_thread import VcpuThread
from stratovirt.memory.address_space import AddressSpace, RamRegion
from stratovirt.pci.msix import Msix, Vector
from stratovirt.vfio import interrupts
from stratovirt.vfio.interrupts import MsiEvents


class Slots:
    """Memory slots as KVM has them, which refuses new ones while `refuses`."""

    refuses = False

    def __init__(self) -> None:
        self.mapped: dict[int, int] = {}

    def set_memory_region(self, slot: int, gpa: int, size: int, *_more: object) -> None:
        if size and self.refuses:
            raise OSError(17, "File exists")
        assert not (size and slot in self.mapped), "a slot in use is changed"
        if size:
            self.mapped[slot] = gpa
        else:
            del self.mapped[slot]


def region(name: str) -> RamRegion:
    return RamRegion(name, 4096, SimpleNamespace(address=1 << 20), 0)


def test_a_refused_memory_slot_is_not_given_out_twice() -> None:
    slots, space = Slots(), AddressSpace("memory", 1 << 32)
    space.listen(MemslotListener(slots, SimpleNamespace(contains=lambda *_: False)))  # type: ignore[arg-type]
    regions = [region(f"r{number}") for number in range(3)]
    for number, one in enumerate(regions):
        space.add(number * 4096, one)
    space.commit()
    space.remove(regions[1])
    space.commit()
    slots.refuses = True
    space.add(0x9000, regions[1])
    with pytest.raises(OSError, match="File exists"):
        space.commit()
    slots.refuses = False
    space.remove(regions[1])
    for number in range(2):
        space.add(0xA000 + 0x1000 * number, region(f"new {number}"))
    space.commit()
    assert sorted(slots.mapped.values()) == [0, 0x2000, 0xA000, 0xB000]


def test_a_vcpu_that_gets_no_thread_is_an_error_and_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_thread(*_arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(vcpu_thread, "start_thread", no_thread)
    vcpu: Any = SimpleNamespace(index=3)
    thread = VcpuThread(vcpu, "vcpu3", lambda _exit: None)
    for _ in range(2):
        with pytest.raises(AccelError, match="vCPU 3: can't start new thread"):
            thread.resume()
    thread.request_pause()
    thread.wait_paused()
    thread.request_stop()
    thread.join()


class Routes:
    """An accelerator whose message routes may be used up."""

    def __init__(self, most: int, *, takes_fds: bool = True) -> None:
        self.most, self.takes_fds = most, takes_fds
        self.routes: dict[int, tuple[int, ...]] = {}

    def add_msi_route(self, *message: int) -> int:
        if len(self.routes) == self.most:
            raise AccelError("all message-signalled interrupts are in use")
        gsi = max(self.routes, default=23) + 1
        self.routes[gsi] = message
        return gsi

    def change_msi_route(self, _gsi: int, *_message: int) -> None:
        raise AccelError("KVM refuses the message")

    def remove_msi_route(self, gsi: int) -> None:
        del self.routes[gsi]

    def attach_irqfd(self, _fd: int, _gsi: int) -> None:
        if not self.takes_fds:
            raise OSError(16, "Device or resource busy")

    def detach_irqfd(self, _fd: int, _gsi: int) -> None:
        """Nothing to do."""


@pytest.mark.parametrize("routes", [Routes(1), Routes(9, takes_fds=False)])
def test_a_host_devices_messages_leave_no_descriptor_where_routes_are_used_up(
    routes: Routes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "_set_irqs", lambda *_: None)
    events = MsiEvents.__new__(MsiEvents)
    monkeypatch.setattr(MsiEvents, "_wanted", lambda _self: (0xFEE0_0000, 0x40, 8, 2))
    function: Any = SimpleNamespace(name="host device")
    MsiEvents.__init__(events, None, function, routes, 0x50)  # type: ignore[arg-type]
    before = len(os.listdir("/proc/self/fd"))
    events.update()
    events.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert routes.routes == {}


def test_a_vector_whose_message_is_refused_does_not_send_the_old_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    routes: Any = Routes(9)
    msix = Msix.__new__(Msix)
    msix._accelerator = routes
    msix._function = SimpleNamespace(name="card", requester=8)  # type: ignore[assignment]
    monkeypatch.setattr(Msix, "_control", 1 << 15)
    vector = Vector()
    vector.control, vector.fds = 0, {5}
    msix._update(vector)
    assert len(routes.routes) == 1
    vector.data = 7
    msix._update(vector)
    assert routes.routes == {} and vector.gsi is None
