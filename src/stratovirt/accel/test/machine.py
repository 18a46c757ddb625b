"""The test accelerator: a client on a UNIX socket takes the place of the vCPUs.

Reads and writes go through the same address spaces a vCPU would use; interrupts are kept until
asked for; the clock moves only when told to.
"""

from __future__ import annotations

from stratovirt._native.dispatch import Dispatcher
from stratovirt._native.guest_memory import GuestMemory
from stratovirt.accel.test.client import Client
from stratovirt.accel.test.commands import Commands
from stratovirt.accel.test.lines import TestLines
from stratovirt.accel.test.view import ClientView
from stratovirt.accel.vcpu import VcpuExit
from stratovirt.memory.address_space import AddressSpace
from stratovirt.memory.dispatch import connect
from stratovirt.runtime.clock import VirtualClock
from stratovirt.runtime.faults import access_failed
from stratovirt.runtime.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from stratovirt.accel.vcpu import Vcpu
    from stratovirt.cpu.slots import CpuSlots
    from stratovirt.snapshot.state import Entry


class TestAccelerator(TestLines):
    """One machine without vCPUs; see the module's docstring.  Raises AccelError."""

    physical_address_bits = 40
    vcpus: Sequence[Vcpu] = ()

    def __init__(self, loop: Loop, vm_lock: object, path: str) -> None:
        super().__init__()
        self.clock = VirtualClock()
        # An unmapped address reads as zeros here, not as ones (floating bus) like real hardware.
        self.dispatcher = Dispatcher(vm_lock, access_failed, 0)
        self.exited: Callable[[VcpuExit], None] = lambda _exit: None
        self._client = Client(loop, path, self._left)

    def _left(self) -> None:
        self.exited(VcpuExit(VcpuExit.DISCONNECTED))

    @property
    def interrupt_controller(self) -> TestLines:
        """The lines themselves."""
        return self

    def connect(
        self, guest_memory: GuestMemory, memory: AddressSpace, ports: AddressSpace | None
    ) -> None:
        """Follow the machine's address spaces from now on, and be a writer of its memory."""
        guest_memory.add_writer(self)
        self._view = ClientView(self.dispatcher, guest_memory, memory)
        self._commands = Commands(self._view, self, self.clock, guest_memory)
        connect(self.dispatcher, memory, ports)

    log_obstacle = None

    def start_log(self) -> None:
        """Does nothing: the client's writes go through guest memory, which logs them."""

    def collect_log(self) -> None:
        """Does nothing: see `start_log`."""

    def stop_log(self) -> None:
        """Does nothing: see `start_log`."""

    def set_vfio_group(self, group_fd: int, *, added: bool) -> None:
        """Does nothing: no vCPU can use the group."""

    def add_doorbell(self, fd: int, address: int, size: int, value: int | None) -> None:
        """Let writes of `value` to a memory address signal eventfd `fd`."""
        self._view.add_doorbell(fd, address, size, value)

    def remove_doorbell(self, fd: int, address: int, size: int, value: int | None) -> None:
        """Undo `add_doorbell`."""
        self._view.remove_doorbell(fd, address, size, value)

    def let_others_in(self) -> None:
        """Does nothing: accesses run in the loop, so no other thread waits for the lock."""

    def create_vcpus(self, _slots: CpuSlots, _name: str) -> None:
        """Does nothing: the client acts for all vCPUs."""

    def set_entry(self, entry: object) -> None:
        """Does nothing: there are no vCPU registers."""

    def check_host(self) -> None:
        """Does nothing: every host is suitable."""

    def states(self) -> Iterable[Entry]:
        """None: the client keeps the state of the CPUs that it plays."""
        return ()

    def start(self) -> None:
        """Serve the client, also while the machine is paused."""
        self._client.serve(self._commands)

    def pause(self) -> None:
        """Does nothing: no vCPU runs."""

    def resume(self) -> None:
        """Does nothing: the client is served anyway."""

    def stop(self) -> None:
        """Serve the client no longer."""
        self._client.stop()

    def close(self) -> None:
        """Close the connection to the client."""
        self._client.close()
