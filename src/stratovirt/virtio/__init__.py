"""Virtio 1.2: the device contract (``device``), transports (``mmio``), one module per device."""
