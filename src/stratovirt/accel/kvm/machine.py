"""The KVM accelerator of any architecture: memslots, irqfds, ioeventfds and vCPU threads."""

from __future__ import annotations

import _thread
import os
from abc import ABC, abstractmethod

from stratovirt._native.dispatch import Dispatcher
from stratovirt._native.guest_memory import GuestMemory
from stratovirt._native.kvm import Kvm, KvmVcpu, KvmVm, prepare_vcpu_signals
from stratovirt._native.trace_events import MEMORY_SLOT
from stratovirt.accel.base import AccelError
from stratovirt.accel.kvm.vcpu import ExitReport, VcpuThread
from stratovirt.memory.address_space import AddressSpace, FlatRange, RamRegion
from stratovirt.memory.dispatch import connect
from stratovirt.runtime.clock import MonotonicClock
from stratovirt.runtime.faults import access_failed
from stratovirt.runtime.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import RLock
    from collections.abc import Callable, Iterable
    from typing import Any, TypeVar

    from stratovirt.cpu.slots import CpuSlots
    from stratovirt.snapshot.state import Entry

    AnyKvm = TypeVar("AnyKvm", bound=Kvm)

KVM_DEVICE = "/dev/kvm"
API_VERSION = 12
LET_IN_S = 0.0001
"""Time that a thread waiting for the VM lock gets to wake up and take it."""
MAX_IRQ_ROUTES = 4096
"""KVM_MAX_IRQ_ROUTES of the kernel."""


def open_kvm(kind: type[AnyKvm]) -> AnyKvm:
    """Open /dev/kvm and check that it offers what this VMM needs; raises AccelError."""
    try:
        system = kind(KVM_DEVICE)
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

    def __init__(self, vm: KvmVm, guest_memory: GuestMemory) -> None:
        self._vm = vm
        self._guest_memory = guest_memory
        self._slots: dict[tuple[int, int, int, int], tuple[int, FlatRange]] = {}
        self._free: list[int] = []
        self._is_logged = self._clears = False

    def changed(
        self, removed: list[FlatRange], added: list[FlatRange], _view: list[FlatRange]
    ) -> None:
        """Remove the slots of removed ranges, then add those of new ranges."""
        for piece in removed:
            slot, _ = self._slots.pop(piece.key(), (None, None))
            if slot is not None:
                if self._is_logged and self._is_guest_ram(piece):
                    self._collect(slot, piece)
                MEMORY_SLOT(slot, piece.start, 0)
                self._vm.set_memory_region(slot, piece.start, 0, 0)
                self._free.append(slot)
        for piece in added:
            region = piece.region
            if isinstance(region, RamRegion):
                slot = self._free.pop() if self._free else len(self._slots)
                MEMORY_SLOT(slot, piece.start, piece.size)
                self._set(slot, piece)
                self._slots[piece.key()] = slot, piece

    def _set(self, slot: int, piece: FlatRange) -> None:
        region = piece.region
        assert isinstance(region, RamRegion)
        hva = region.mapping.address + region.offset + piece.offset
        logged = self._is_logged and self._is_guest_ram(piece)
        self._vm.set_memory_region(slot, piece.start, piece.size, hva, region.readonly, logged)

    def _is_guest_ram(self, piece: FlatRange) -> bool:
        """Whether the log has bits for it: not the memory of a flash or of a host's device."""
        region = piece.region
        if not isinstance(region, RamRegion) or region.readonly:
            return False
        return self._guest_memory.contains(piece.start, piece.size)

    def set_logged(self, logged: bool) -> None:
        """Start or stop KVM's log of the slots that are guest RAM; raises OSError."""
        self._clears = self._clears or (logged and self._vm.enable_log_clearing())
        self._is_logged = logged
        for slot, piece in self._slots.values():
            if self._is_guest_ram(piece):
                self._set(slot, piece)

    def collect(self) -> None:
        """Move what KVM has logged to guest memory's log; raises OSError."""
        for slot, piece in self._slots.values():
            if self._is_guest_ram(piece):
                self._collect(slot, piece)

    def _collect(self, slot: int, piece: FlatRange) -> None:
        self._vm.take_written(slot, piece.start, piece.size, self._guest_memory, self._clears)


class KvmAccelerator(ABC):
    """The architecture-independent part of one machine on /dev/kvm; a subclass adds the rest.

    `exited` is called in the loop with the report of an exit that ends the run.
    """

    runs_vcpus = True

    first_msi_gsi: int
    """The first GSI above the interrupt controllers' lines."""

    def __init__(self, loop: Loop, vm_lock: RLock, vm: KvmVm) -> None:
        self._vm_lock = vm_lock
        self._never = _thread.allocate_lock()
        self._never.acquire()
        self.vm = vm
        self.clock = MonotonicClock(loop)
        self.dispatcher = Dispatcher(vm_lock, access_failed)
        self.vcpus: list[VcpuThread] = []
        self._loop = loop
        self._vfio_fd = -1
        self._messages: dict[int, tuple[int, int]] = {}
        self.exited: Callable[[ExitReport], None] = lambda _report: None
        prepare_vcpu_signals()

    @property
    @abstractmethod
    def physical_address_bits(self) -> int:
        """Width of a guest physical address, in bits."""

    @abstractmethod
    def check_host(self) -> None:
        """Warn of a host that cannot run stock kernels and firmware."""

    @abstractmethod
    def create_interrupt_controllers(self) -> None:
        """Create the interrupt controllers, before any GSI is used; raises AccelError."""

    @abstractmethod
    def create_vcpus(self, slots: CpuSlots, name: str) -> None:
        """Create the vCPUs in power-on state and `add_vcpu` each; raises AccelError."""

    @abstractmethod
    def set_entry(self, entry: Any) -> None:
        """Set the first vCPU's registers for the boot protocol; raises AccelError."""

    @abstractmethod
    def describe_registers(self, index: int) -> str:
        """The main registers of a vCPU that has stopped, in one line."""

    @abstractmethod
    def reset(self) -> None:
        """Reset paused vCPUs and interrupt controllers to power-on state; raises AccelError."""

    @abstractmethod
    def states(self) -> Iterable[Entry]:
        """Clocks, interrupt controllers and vCPUs in the tree of states, in restore order."""

    def connect(
        self, guest_memory: GuestMemory, memory: AddressSpace, ports: AddressSpace | None
    ) -> None:
        """Follow the machine's address spaces from now on, and be a writer of its memory."""
        self._memslots = MemslotListener(self.vm, guest_memory)
        memory.listen(self._memslots)
        guest_memory.add_writer(self)
        connect(self.dispatcher, memory, ports)

    log_obstacle = None

    def start_log(self) -> None:
        """Have KVM log the pages that the guest writes; raises OSError."""
        self._memslots.set_logged(True)

    def collect_log(self) -> None:
        """Move what KVM has logged to guest memory's log; raises OSError."""
        self._memslots.collect()

    def stop_log(self) -> None:
        """End KVM's log; raises OSError."""
        self._memslots.set_logged(False)

    def add_vcpu(self, vcpu: KvmVcpu, name: str) -> VcpuThread:
        """Give `vcpu` a thread of this name, which starts with the machine."""
        thread = VcpuThread(
            vcpu,
            name,
            lambda: self.describe_registers(vcpu.index),
            lambda report: self._loop.call_soon(lambda: self.exited(report)),
        )
        self.vcpus.append(thread)
        return thread

    def set_irq_level(self, gsi: int, level: bool) -> None:
        """Set the level of a GSI (global system interrupt)."""
        self.vm.set_irq_level(gsi, level)

    def irqfd(self, gsi: int) -> int:
        """A new eventfd whose writes pulse the GSI."""
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.vm.set_irqfd(fd, gsi)
        return fd

    def attach_irqfd(self, fd: int, gsi: int) -> None:
        """Let writes to eventfd `fd` pulse the GSI, earlier unread writes too."""
        self.vm.set_irqfd(fd, gsi)

    def detach_irqfd(self, fd: int, gsi: int) -> None:
        """Undo `attach_irqfd`; later writes stay in the eventfd."""
        self.vm.set_irqfd(fd, gsi, assign=False)

    def attach_line(self, fd: int, gsi: int, resample_fd: int) -> None:
        """Let writes to `fd` raise a level-triggered GSI; its EOI signals `resample_fd`."""
        self.vm.set_irqfd(fd, gsi, resample_fd=resample_fd)

    def detach_line(self, fd: int, gsi: int, resample_fd: int) -> None:
        """Undo `attach_line`."""
        self.vm.set_irqfd(fd, gsi, assign=False, resample_fd=resample_fd)

    def set_vfio_group(self, group_fd: int, *, added: bool) -> None:
        """Add a VFIO group to the machine or remove it; raises OSError."""
        if self._vfio_fd < 0:
            self._vfio_fd = self.vm.create_vfio_device()
        self.vm.set_vfio_group(self._vfio_fd, group_fd, added)

    def add_msi_route(self, address: int, data: int) -> int:
        """Allocate a GSI that sends the MSI message; raises AccelError when none is left."""
        gsis = range(self.first_msi_gsi, MAX_IRQ_ROUTES)
        gsi = next((gsi for gsi in gsis if gsi not in self._messages), None)
        if gsi is None:
            raise AccelError(f"all {len(gsis)} message-signalled interrupts are in use")
        self.change_msi_route(gsi, address, data)
        return gsi

    def change_msi_route(self, gsi: int, address: int, data: int) -> None:
        """Change the message of a GSI of `add_msi_route`; raises AccelError."""
        before = self._messages.get(gsi)
        if before == (address, data):
            return
        self._messages[gsi] = address, data
        try:
            self.vm.set_msi_routes(self._messages)
        except OSError as error:
            if before is None:
                del self._messages[gsi]
            else:
                self._messages[gsi] = before
            raise AccelError(f"KVM refuses the message 0x{address:x}: {error.strerror}") from error

    def remove_msi_route(self, gsi: int) -> None:
        """Undo `add_msi_route`; the caller has detached every eventfd."""
        # The kernel keeps the unused route until the next KVM_SET_GSI_ROUTING; it has no effect.
        del self._messages[gsi]

    def add_doorbell(self, fd: int, address: int, size: int, value: int | None) -> None:
        """Let guest writes of `value` to a memory address signal eventfd `fd`."""
        self.vm.set_ioeventfd(fd, address, size, value)

    def remove_doorbell(self, fd: int, address: int, size: int, value: int | None) -> None:
        """Undo `add_doorbell`."""
        self.vm.set_ioeventfd(fd, address, size, value, assign=False)

    def let_others_in(self) -> None:
        """Yield the VM lock to a waiting thread. Called with the lock held once."""
        self._vm_lock.release()
        # Without a pause this thread would retake the lock before the waiting one has woken up.
        self._never.acquire(timeout=LET_IN_S)
        self._vm_lock.acquire()

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

    def close(self) -> None:
        """Forget the vCPUs, whose threads have ended; the last reference closes the machine."""
        self.vcpus.clear()
        if self._vfio_fd >= 0:
            os.close(self._vfio_fd)
            self._vfio_fd = -1

    def _without_lock(self, wait: Callable[[VcpuThread], None]) -> None:
        # A vCPU on its way to a stop may first need the lock for a device access.
        self._vm_lock.release()
        try:
            for vcpu in self.vcpus:
                wait(vcpu)
        finally:
            self._vm_lock.acquire()
