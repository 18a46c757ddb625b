"""Disk images: how a file or device of the host is opened, locked and served."""
