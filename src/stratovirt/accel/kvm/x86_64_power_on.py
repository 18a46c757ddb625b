"""Power-on state of an x86_64 machine, read from a twin machine that exists for the purpose.

Starting a machine saves nothing in advance: whatever a reset needs is made when it is needed.
"""

from __future__ import annotations

from stratovirt._native.x86_64_kvm import X8664Vcpu, X8664Vm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Twin:
    """A newly created machine that never runs; raises OSError."""

    def __init__(
        self,
        make_machine: Callable[[], X8664Vm],
        make_vcpus: Callable[[X8664Vm], list[X8664Vcpu]],
    ) -> None:
        self._vcpus: list[X8664Vcpu] = []
        self._machine = make_machine()
        try:
            self._vcpus = make_vcpus(self._machine)
        except OSError:
            self._machine.close()
            raise

    def chips(self) -> dict[str, bytes]:
        """The interrupt controllers' structs by name; raises OSError."""
        from stratovirt._native.x86_64_kvm_state import save_chips

        return save_chips(self._machine.fd)

    def vcpu(self, index: int) -> X8664Vcpu:
        """The vCPU that is as number `index` was at first."""
        return next(vcpu for vcpu in self._vcpus if vcpu.index == index)

    def close(self) -> None:
        """Give it back to the kernel."""
        for vcpu in self._vcpus:
            vcpu.close()
        self._machine.close()


class PowerOn:
    """Gives the twin within a ``with``; one ``with`` in another shares it."""

    def __init__(
        self,
        make_machine: Callable[[], X8664Vm],
        make_vcpus: Callable[[X8664Vm], list[X8664Vcpu]],
    ) -> None:
        self._make_machine, self._make_vcpus = make_machine, make_vcpus
        self._twin: Twin | None = None
        self._users = 0

    def __enter__(self) -> Twin:
        if self._twin is None:
            self._twin = Twin(self._make_machine, self._make_vcpus)
        self._users += 1
        return self._twin

    def __exit__(self, *_error: object) -> None:
        self._users -= 1
        if self._users == 0 and self._twin is not None:
            self._twin.close()
            self._twin = None
