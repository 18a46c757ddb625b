"""Snapshots: ``state`` the typed structs, ``files`` the folder, ``save`` and ``restore`` a machine.

``docs/snapshot.md`` describes the files.  Devices know only ``state``.
"""
