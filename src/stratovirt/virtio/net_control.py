"""The control queue of a network card (virtio 1.2, section 5.1.6.5): filters, address, pairs."""

from __future__ import annotations

import struct

from stratovirt._native.net_engine import NetEngine
from stratovirt._native.virtqueue import DescriptorChain
from stratovirt.config.kinds import Choice
from stratovirt.config.options import opt
from stratovirt.snapshot.errors import SnapshotError
from stratovirt.snapshot.state import U16, Bytes, Each, Optional, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

OK, ERROR = b"\0", b"\1"
CLASS_RX, CLASS_MAC, CLASS_VLAN, CLASS_ANNOUNCE, CLASS_MQ = 0, 1, 2, 3, 4
MAC_TABLE_SET, MAC_ADDR_SET = 0, 1
VLAN_ADD, VLAN_DELETE = 0, 1
ANNOUNCE_ACK = 0
PAIRS_SET = 0
RX_MODES = (
    "promiscuous", "all_multicast", "all_unicast", "no_multicast", "no_unicast", "no_broadcast",
)  # fmt: skip
"""Modes by command (section 5.1.6.5.1)."""
TABLE_LIMIT = 64
"""Most addresses kept of a MAC table; a longer one lets all frames of its kind through."""
LONGEST_COMMAND = 1 << 16
VLANS = 4096


class NetControlState(State):
    """Settings made by control commands."""

    mac: bytes = opt(Bytes(6))
    pairs: int = opt(U16)
    modes: list[str] = opt(Each(Choice(*RX_MODES)), help="those that are on")
    overflow: list[str] = opt(Each(Choice("all_unicast", "all_multicast")))
    unicast: list[bytes] = opt(Each(Bytes(6), TABLE_LIMIT))
    multicast: list[bytes] = opt(Each(Bytes(6), TABLE_LIMIT))
    vlans: bytes | None = opt(Optional(Bytes(VLANS // 8)))

    def check(self) -> None:
        """Raise ValueError unless addresses have six bytes and the VLAN filter its full size."""
        if any(len(mac) != 6 for mac in (self.mac, *self.unicast, *self.multicast)):
            raise ValueError("a MAC address is damaged")
        if self.vlans is not None and len(self.vlans) != VLANS // 8:
            raise ValueError("the VLAN filter is damaged")


class NetControl:
    """Settings that the driver has made; `changed` is called after a command that changed them.

    `announced` is called when the driver acknowledges an announcement (ANNOUNCE_ACK).
    """

    def __init__(
        self,
        mac: bytes,
        pairs_most: int,
        changed: Callable[[], None],
        announced: Callable[[], None],
    ) -> None:
        self._pairs_most = pairs_most
        self._changed = changed
        self._announced = announced
        self.reset(mac, filters_vlans=False)

    def reset(self, mac: bytes, *, filters_vlans: bool) -> None:
        """Set power-on settings: promiscuous, one queue pair, and the card's own address `mac`."""
        self.mac = mac
        self.pairs = 1
        self._modes = dict.fromkeys(RX_MODES, False) | {"promiscuous": True}
        self._unicast: list[bytes] = []
        self._multicast: list[bytes] = []
        self._table_overflow = {"all_unicast": False, "all_multicast": False}
        self._vlans = bytearray(VLANS // 8) if filters_vlans else None

    def apply(self, engine: NetEngine) -> None:
        """Set the filters of an engine that does not run yet."""
        modes = dict(self._modes)
        for mode, overflowed in self._table_overflow.items():
            modes[mode] |= overflowed
        engine.set_filter(
            own=self.mac,
            unicast=self._unicast,
            multicast=self._multicast,
            vlans=bytes(self._vlans) if self._vlans is not None else None,
            **modes,
        )

    def save(self) -> NetControlState:
        """The settings in force."""
        return NetControlState(
            mac=self.mac,
            pairs=self.pairs,
            modes=[mode for mode, is_on in self._modes.items() if is_on],
            overflow=[mode for mode, is_on in self._table_overflow.items() if is_on],
            unicast=list(self._unicast),
            multicast=list(self._multicast),
            vlans=bytes(self._vlans) if self._vlans is not None else None,
        )

    def restore(self, state: NetControlState) -> None:
        """Set the saved settings; raises SnapshotError when the card has fewer queue pairs."""
        if not 1 <= state.pairs <= self._pairs_most:
            raise SnapshotError(
                f"the guest uses {state.pairs} queue pairs and the card has {self._pairs_most}"
            )
        self.mac, self.pairs = state.mac, state.pairs
        self._modes = {mode: mode in state.modes for mode in RX_MODES}
        self._table_overflow = {mode: mode in state.overflow for mode in self._table_overflow}
        self._unicast, self._multicast = list(state.unicast), list(state.multicast)
        self._vlans = bytearray(state.vlans) if state.vlans is not None else None

    def handle(self, chain: DescriptorChain) -> None:
        """Carry out one command and write its ack."""
        command = chain.read(LONGEST_COMMAND)
        if command == bytes([CLASS_ANNOUNCE, ANNOUNCE_ACK]):
            chain.write(OK)
            self._announced()
            return
        before = self.save()
        done = len(command) >= 2 and self._do(command[0], command[1], command[2:])
        chain.write(OK if done else ERROR)
        # To apply settings the pairs stop: a guest that repeats itself loses no packets.
        if self.save() != before:
            self._changed()

    def _do(self, kind: int, command: int, content: bytes) -> bool:
        if kind == CLASS_RX and command < len(RX_MODES) and len(content) == 1:
            self._modes[RX_MODES[command]] = bool(content[0])
            return True
        if kind == CLASS_MAC and command == MAC_ADDR_SET and len(content) == 6:
            self.mac = content
            return True
        if kind == CLASS_MAC and command == MAC_TABLE_SET:
            return self._set_tables(content)
        if kind == CLASS_VLAN and len(content) == 2:
            return self._set_vlan(command, int.from_bytes(content, "little"))
        if kind == CLASS_MQ and command == PAIRS_SET and len(content) == 2:
            return self._set_pairs(int.from_bytes(content, "little"))
        return False

    def _set_tables(self, content: bytes) -> bool:
        tables: list[list[bytes]] = []
        for _ in range(2):
            if len(content) < 4:
                return False
            (count,) = struct.unpack_from("<I", content)
            if count > (len(content) - 4) // 6:
                return False
            entries = content[4 : 4 + 6 * count]
            tables.append([entries[at : at + 6] for at in range(0, len(entries), 6)])
            content = content[4 + 6 * count :]
        unicast, multicast = tables
        self._table_overflow = {
            "all_unicast": len(unicast) > TABLE_LIMIT,
            "all_multicast": len(multicast) > TABLE_LIMIT,
        }
        self._unicast, self._multicast = unicast[:TABLE_LIMIT], multicast[:TABLE_LIMIT]
        return True

    def _set_vlan(self, command: int, vlan: int) -> bool:
        if self._vlans is None or vlan >= VLANS or command not in (VLAN_ADD, VLAN_DELETE):
            return False
        bit = 1 << (vlan & 7)
        if command == VLAN_ADD:
            self._vlans[vlan >> 3] |= bit
        else:
            self._vlans[vlan >> 3] &= ~bit
        return True

    def _set_pairs(self, pairs: int) -> bool:
        if not 1 <= pairs <= self._pairs_most:
            return False
        self.pairs = pairs
        return True
