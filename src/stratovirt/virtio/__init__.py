"""Virtio 1.2: device contract (``device``), transports (``mmio``, ``pci``), and the devices."""
