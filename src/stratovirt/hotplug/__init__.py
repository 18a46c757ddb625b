"""What device_add and device_del do with the devices of a driver, one driver a file."""
