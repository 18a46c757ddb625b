"""Devices that are not virtio: serial port, keyboard controller's reset line, power control."""
