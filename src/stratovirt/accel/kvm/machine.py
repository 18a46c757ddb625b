"""The KVM accelerator: memslots, irqfds and ioeventfds of one machine."""

from __future__ import annotations

import os

from stratovirt._native.dispatch import Dispatcher
from stratovirt._native.guest_memory import GuestMemory
from stratovirt._native.kvm import Kvm, KvmVcpu, KvmVm, prepare_vcpu_signals
from stratovirt.accel.base import AccelError
from stratovirt.accel.kvm.vcpu import ExitReport, VcpuThread
from stratovirt.memory.address_space import AddressSpace, FlatRange, RamRegion
from stratovirt.memory.dispatch import connect
from stratovirt.runtime.clock import MonotonicClock
from stratovirt.runtime.loop import Loop
from stratovirt.runtime.trace_events import MEMORY_SLOT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import RLock
    from collections.abc import Callable

KVM_DEVICE = "/dev/kvm"
API_VERSION = 12


def open_kvm() -> Kvm:
    """Open /dev/kvm and check that it offers what this VMM needs; raises AccelError."""
    try:
        system = Kvm(KVM_DEVICE)
    except FileNotFoundError as error:
        raise AccelError(
            f"-accel kvm: {KVM_DEVICE} does not exist; load the kvm module "
            "or enable virtualization in the firmware"
        ) from error
    except PermissionError as error:
        raise AccelError(
            f"-accel kvm: no permission to open {KVM_DEVICE}; add the user to the group kvm"
        ) from error
    except OSError as error:
        raise AccelError(f"-accel kvm: cannot open {KVM_DEVICE}: {error.strerror}") from error
    if system.api_version != API_VERSION:
        raise AccelError(
            f"-accel kvm: {KVM_DEVICE} speaks API version {system.api_version}, not {API_VERSION}"
        )
    missing = system.missing_capabilities()
    if missing:
        raise AccelError(f"-accel kvm: this kernel's KVM lacks {', '.join(missing)}")
    return system


class MemslotListener:
    """Keeps KVM's memory slots equal to the RAM in the map."""

    def __init__(self, vm: KvmVm) -> None:
        self._vm = vm
        self._slots: dict[tuple[int, int, int, int], int] = {}
        self._free: list[int] = []

    def changed(
        self, removed: list[FlatRange], added: list[FlatRange], _view: list[FlatRange]
    ) -> None:
        """Remove slots that went before adding those that came."""
        for piece in removed:
            slot = self._slots.pop(piece.key(), None)
            if slot is not None:
                MEMORY_SLOT(slot, piece.start, 0)
                self._vm.set_memory_region(slot, piece.start, 0, 0)
                self._free.append(slot)
        for piece in added:
            region = piece.region
            if isinstance(region, RamRegion):
                slot = self._free.pop() if self._free else len(self._slots)
                hva = region.mapping.address + region.offset + piece.offset
                MEMORY_SLOT(slot, piece.start, piece.size)
                self._vm.set_memory_region(slot, piece.start, piece.size, hva)
                self._slots[piece.key()] = slot


class KvmAccelerator:
    """One machine on /dev/kvm. `exited` hears, in the loop, of exits that end the run."""

    def __init__(self, loop: Loop, vm_lock: RLock) -> None:
        self._vm_lock = vm_lock
        self.system = open_kvm()
        self.vm = self.system.create_vm()
        self.clock = MonotonicClock(loop)
        self.dispatcher = Dispatcher(vm_lock)
        self.vcpus: list[VcpuThread] = []
        self._loop = loop
        self.exited: Callable[[ExitReport], None] = lambda _report: None
        prepare_vcpu_signals()

    def connect(
        self, _guest_memory: GuestMemory, memory: AddressSpace, ports: AddressSpace
    ) -> None:
        """Follow the machine's address spaces from now on."""
        memory.listen(MemslotListener(self.vm))
        connect(self.dispatcher, memory, ports)

    def add_vcpu(self, vcpu: KvmVcpu) -> None:
        """Give `vcpu` a thread; it starts with the machine."""
        self.vcpus.append(
            VcpuThread(vcpu, lambda report: self._loop.call_soon(lambda: self.exited(report)))
        )

    def set_irq_level(self, gsi: int, level: bool) -> None:
        """Drive a GSI's line."""
        self.vm.set_irq_level(gsi, level)

    def irqfd(self, gsi: int) -> int:
        """A new eventfd whose writes pulse the GSI."""
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.vm.set_irqfd(fd, gsi)
        return fd

    def add_doorbell(self, fd: int, address: int, size: int, value: int | None) -> None:
        """Let guest writes of `value` to a memory address signal eventfd `fd`."""
        self.vm.set_ioeventfd(fd, address, size, value)

    def remove_doorbell(self, fd: int, address: int, size: int, value: int | None) -> None:
        """Undo `add_doorbell`."""
        self.vm.set_ioeventfd(fd, address, size, value, assign=False)

    def pause(self) -> None:
        """Stop every vCPU; returns when none runs guest code. Called with the VM lock held once."""
        for vcpu in self.vcpus:
            vcpu.request_pause()
        self._without_lock(VcpuThread.wait_paused)

    def resume(self) -> None:
        """Let the vCPUs run; starts their threads the first time."""
        for vcpu in self.vcpus:
            vcpu.resume()

    def stop(self) -> None:
        """End every vCPU thread. Called with the VM lock held once."""
        for vcpu in self.vcpus:
            vcpu.request_stop()
        self._without_lock(VcpuThread.join)

    def _without_lock(self, wait: Callable[[VcpuThread], None]) -> None:
        # A vCPU on its way to a stop may first need the lock for a device access.
        self._vm_lock.release()
        try:
            for vcpu in self.vcpus:
                wait(vcpu)
        finally:
            self._vm_lock.acquire()
