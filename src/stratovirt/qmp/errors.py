"""Errors that a QMP client sees."""

from __future__ import annotations

from stratovirt.errors import StratovirtError


class QmpError(StratovirtError):
    """A command failed; `error_class` is one of the protocol's classes."""

    def __init__(self, text: str, error_class: str = "GenericError") -> None:
        super().__init__(text)
        self.error_class = error_class
