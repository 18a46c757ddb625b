"""Feature bits of a network card (virtio 1.2, section 5.1.3)."""

from __future__ import annotations

F_CSUM, F_GUEST_CSUM, F_MAC = 1 << 0, 1 << 1, 1 << 5
F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_ECN, F_GUEST_UFO = 1 << 7, 1 << 8, 1 << 9, 1 << 10
F_HOST_TSO4, F_HOST_TSO6, F_HOST_ECN, F_HOST_UFO = 1 << 11, 1 << 12, 1 << 13, 1 << 14
F_MRG_RXBUF, F_STATUS, F_CTRL_VQ, F_CTRL_RX = 1 << 15, 1 << 16, 1 << 17, 1 << 18
F_CTRL_VLAN, F_CTRL_RX_EXTRA, F_GUEST_ANNOUNCE = 1 << 19, 1 << 20, 1 << 21
F_MQ, F_CTRL_MAC_ADDR = 1 << 22, 1 << 23
NEEDS = (
    (F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_UFO, F_GUEST_CSUM),
    (F_GUEST_ECN, F_GUEST_TSO4 | F_GUEST_TSO6),
    (F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_UFO, F_CSUM),
    (F_HOST_ECN, F_HOST_TSO4 | F_HOST_TSO6),
    (F_CTRL_RX | F_CTRL_VLAN | F_GUEST_ANNOUNCE | F_MQ | F_CTRL_MAC_ADDR, F_CTRL_VQ),
)
"""(features, others): each of the features needs one of the others (section 5.1.3.1)."""
OFFLOADS = (
    F_CSUM | F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN
    | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN
)  # fmt: skip
FILTERS = F_CTRL_RX | F_CTRL_VLAN | F_CTRL_RX_EXTRA
"""Receive filters, which only our own engine has; other back ends deliver every frame."""
CARD = OFFLOADS | F_MAC | F_MRG_RXBUF | F_STATUS | F_CTRL_VQ | F_CTRL_MAC_ADDR | F_GUEST_ANNOUNCE
"""Features that a card offers before its back end adds or removes some."""
OF_THE_CARD = F_MAC | F_STATUS | F_CTRL_VQ | F_CTRL_MAC_ADDR | F_GUEST_ANNOUNCE | F_MQ
"""Features that the device implements itself, without its back end."""
