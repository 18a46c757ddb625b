"""Snapshots of machines, which ``docs/snapshot.md`` describes.

``state`` has the typed structs, ``tree`` the structs of a machine by path, ``encoding`` their
bytes, ``files`` the folder, ``save`` and ``restore`` the work.  Devices know only ``state``.
"""
