"""Devices that are not virtio: UART, power and sleep, a PC's chipset, clock, flash and fw_cfg.

``device_host`` is what any device gets from the machine's process.
"""
