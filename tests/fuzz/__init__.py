"""Fuzz targets; an exception that the product would log and survive is a finding here."""

from stratovirt.runtime import faults
from stratovirt.runtime.log import Log


class CrashingLog(Log):
    """Stands for the log of unexpected exceptions."""

    def error(self, text: str) -> None:
        """Let the fuzzer see it."""
        raise AssertionError(text)


faults.log = CrashingLog(__name__)
