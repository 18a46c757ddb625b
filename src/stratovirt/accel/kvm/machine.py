"""The KVM accelerator of any architecture: address spaces, vCPU threads, reset and closing."""

from __future__ import annotations

import _thread
import os
from abc import ABC, abstractmethod

from stratovirt._native.dispatch import Dispatcher
from stratovirt._native.guest_memory import GuestMemory
from stratovirt._native.kvm import Kvm, KvmVm
from stratovirt._native.kvm_vcpu import prepare_vcpu_signals
from stratovirt.accel.base import AccelError
from stratovirt.accel.kvm.device import open_kvm
from stratovirt.accel.kvm.lines import KvmLines
from stratovirt.accel.kvm.memslots import MemslotListener
from stratovirt.accel.kvm.vcpu_thread import VcpuThread
from stratovirt.memory.address_space import AddressSpace
from stratovirt.memory.dispatch import connect
from stratovirt.runtime.clock import MonotonicClock
from stratovirt.runtime.faults import access_failed
from stratovirt.runtime.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import RLock
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from stratovirt.accel.interrupt_controller import InterruptController
    from stratovirt.accel.kvm.vcpu import GuestCpu
    from stratovirt.accel.vcpu import VcpuExit
    from stratovirt.cpu.slots import CpuSlots
    from stratovirt.snapshot.state import Entry, Stateful

LET_IN_S = 0.0001
"""Time that a thread waiting for the VM lock gets to wake up and take it."""


class KvmAccelerator(KvmLines, ABC):
    """The architecture-independent part of one machine on /dev/kvm; a subclass adds the rest.

    Raises AccelError when KVM is missing or does not make a machine.
    """

    kvm_type: type[Kvm]
    vm_type: type[KvmVm]
    """The architecture's classes of /dev/kvm and of a machine."""

    def __init__(self, loop: Loop, vm_lock: RLock) -> None:
        super().__init__()
        self._vm_lock = vm_lock
        self._never = _thread.allocate_lock()
        self._never.acquire()
        self.clock = MonotonicClock(loop)
        self.dispatcher = Dispatcher(vm_lock, access_failed)
        self._threads: list[VcpuThread] = []
        self._loop = loop
        self._vfio_fd = -1
        self.exited: Callable[[VcpuExit], None] = lambda _exit: None
        self.system = open_kvm(self.kvm_type)
        try:
            self.vm = self.vm_type(self.system)
        except OSError as error:
            self.system.close()
            raise AccelError(f"-accel kvm: {error.strerror}") from error
        prepare_vcpu_signals()

    @property
    @abstractmethod
    def physical_address_bits(self) -> int:
        """Width of a guest physical address, in bits."""

    @property
    @abstractmethod
    def interrupt_controller(self) -> InterruptController:
        """The interrupt controllers."""

    @property
    @abstractmethod
    def guest_clock(self) -> Stateful:
        """The guest's own clocks, which KVM keeps, for snapshots."""

    @property
    @abstractmethod
    def vcpus(self) -> Sequence[GuestCpu]:
        """The vCPUs in the order of their slots."""

    @abstractmethod
    def check_host(self) -> None:
        """Warn of a host that cannot run stock kernels and firmware."""

    @abstractmethod
    def create_vcpus(self, slots: CpuSlots, name: str) -> None:
        """Create the vCPUs in power-on state and `add_thread` for each; raises AccelError."""

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

    def add_thread(self, vcpu: GuestCpu, name: str) -> None:
        """Give `vcpu` a thread of this name, which starts with the machine."""
        self._threads.append(
            VcpuThread(vcpu, name, lambda end: self._loop.call_soon(lambda: self.exited(end)))
        )

    def set_entry(self, entry: Any) -> None:
        """Set the first vCPU's registers for the boot protocol; raises AccelError."""
        try:
            self.vcpus[0].set_entry(entry)
        except OSError as error:
            raise AccelError(f"-accel kvm: KVM refuses the entry: {error.strerror}") from error

    def states(self) -> Iterator[Entry]:
        """Clock, interrupt controllers and vCPUs in the tree of states, in restore order."""
        from stratovirt.snapshot.state import Entry

        yield Entry("clock", self.guest_clock)
        yield Entry("interrupt-controllers", self.interrupt_controller)
        for vcpu in self.vcpus:
            yield Entry(f"cpu/{vcpu.index}", vcpu, "-smp")

    def reset(self) -> None:
        """Reset paused vCPUs and interrupt controllers to power-on state; raises AccelError."""
        try:
            self.reset_parts()
        except OSError as error:
            raise AccelError(
                f"system_reset: KVM cannot take the state: {error.strerror}"
            ) from error

    def reset_parts(self) -> None:
        """Reset interrupt controllers, then vCPUs; raises OSError."""
        self.interrupt_controller.reset()
        for vcpu in self.vcpus:
            vcpu.reset()

    def start(self) -> None:
        """Does nothing: a vCPU's thread starts with the first `resume`."""

    def set_vfio_group(self, group_fd: int, *, added: bool) -> None:
        """Add a VFIO group to the machine or remove it; raises OSError."""
        if self._vfio_fd < 0:
            self._vfio_fd = self.vm.create_vfio_device()
        self.vm.set_vfio_group(self._vfio_fd, group_fd, added)

    def let_others_in(self) -> None:
        """Yield the VM lock to a waiting thread. Called with the lock held once."""
        self._vm_lock.release()
        # Without a pause this thread would retake the lock before the waiting one has woken up.
        self._never.acquire(timeout=LET_IN_S)
        self._vm_lock.acquire()

    def pause(self) -> None:
        """Stop every vCPU; returns when none runs guest code. Called with the VM lock held once."""
        for thread in self._threads:
            thread.request_pause()
        self._without_lock(VcpuThread.wait_paused)

    def resume(self) -> None:
        """Let the vCPUs run; starts their threads the first time."""
        for thread in self._threads:
            thread.resume()

    def stop(self) -> None:
        """End every vCPU thread. Called with the VM lock held once."""
        for thread in self._threads:
            thread.request_stop()
        self._without_lock(VcpuThread.join)

    def close(self) -> None:
        """Close vCPUs, whose threads have ended, and machine; later calls change nothing."""
        self._threads.clear()
        for vcpu in self.vcpus:
            vcpu.close()
        if self._vfio_fd >= 0:
            os.close(self._vfio_fd)
            self._vfio_fd = -1
        self.vm.close()
        self.system.close()

    def _without_lock(self, wait: Callable[[VcpuThread], None]) -> None:
        # A vCPU on its way to a stop may first need the lock for a device access.
        self._vm_lock.release()
        try:
            for thread in self._threads:
                wait(thread)
        finally:
            self._vm_lock.acquire()
