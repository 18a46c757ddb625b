"""KVM's memory slots, which follow the RAM in the map, and their log of written pages."""

from __future__ import annotations

from stratovirt._native.guest_memory import GuestMemory
from stratovirt._native.kvm import KvmVm
from stratovirt._native.trace_events import MEMORY_SLOT
from stratovirt.memory.address_space import FlatRange, RamRegion


class MemslotListener:
    """Keeps KVM's memory slots equal to the RAM in the map."""

    def __init__(self, vm: KvmVm, guest_memory: GuestMemory) -> None:
        self._vm = vm
        self._guest_memory = guest_memory
        self._slots: dict[tuple[int, int, int, int], tuple[int, FlatRange]] = {}
        self._free: list[int] = []
        self._next = 0
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
                slot = self._unused()
                MEMORY_SLOT(slot, piece.start, piece.size)
                try:
                    self._set(slot, piece)
                except OSError:
                    self._free.append(slot)
                    raise
                self._slots[piece.key()] = slot, piece

    def _unused(self) -> int:
        if self._free:
            return self._free.pop()
        self._next += 1
        return self._next - 1

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
