"""The programs under test: those of this Python, or those that STRATOVIRT and OZONE name."""

import os
import sys
from pathlib import Path


def _program(variable: str, name: str) -> str:
    path = os.environ.get(variable) or Path(sys.executable).with_name(name)
    return os.path.abspath(path)


STRATOVIRT, OZONE = _program("STRATOVIRT", "stratovirt"), _program("OZONE", "ozone")
