"""The monitor: QMP over a UNIX socket (``server``), commands by topic, one client at a time."""
