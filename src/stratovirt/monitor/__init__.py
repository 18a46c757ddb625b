"""The monitor: QMP over a chardev (``session``), commands by topic, one client at a time."""
