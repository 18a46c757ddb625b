"""The error of snapshots."""

from __future__ import annotations

from stratovirt.errors import StratovirtError


class SnapshotError(StratovirtError):
    """A machine cannot be saved, or a snapshot cannot be used; the text says why."""
