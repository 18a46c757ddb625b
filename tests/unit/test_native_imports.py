"""The check of the layers contract for Cython's files."""

from pathlib import Path

import pytest
from tools.native_imports import faults

LAYERS = """
[importlinter:contract:layers]
layers =
    stratovirt.vm | stratovirt.cli
    stratovirt.runtime : stratovirt.memory
    stratovirt._native
    stratovirt.errors
"""
CLEAN = {
    "_native/ring.pyx": "from stratovirt._native.memory cimport Memory, wrote\nimport os\n",
    "_native/memory.pxd": "from libc.stdint cimport uint64_t\n",
    "_native/memory.pyx": "from stratovirt.errors import StratovirtError\n",
    "runtime/log.py": "from stratovirt._native.memory import Memory\n",
    "errors.py": "import os\n",
}


def found(root: Path, files: dict[str, str]) -> list[str]:
    (root / "layers.ini").write_text(LAYERS)
    for name, text in (CLEAN | files).items():
        path = root / "src/stratovirt" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return faults(root)


def test_imports_that_point_down_are_no_fault(tmp_path: Path) -> None:
    assert found(tmp_path, {}) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("_native/ring.pyx", "from stratovirt.runtime import log\n"),
        ("_native/ring.pyx", "def late():\n    import stratovirt.runtime.log\n"),
        ("_native/ring.pxd", "from stratovirt.memory.pages cimport Page\n"),
        ("_native/ring.pyi", "from stratovirt.vm import (\n    Vm,\n)\n"),
        ("errors.py", "from stratovirt._native import memory\n"),
    ],
)
def test_one_that_points_up_is_a_fault(tmp_path: Path, name: str, text: str) -> None:
    (fault,) = found(tmp_path, {name: text})
    assert fault.startswith(f"stratovirt/{name}: stratovirt.")
    assert "is not in a layer below stratovirt." in fault


def test_a_circle_is_a_fault(tmp_path: Path) -> None:
    (fault,) = found(tmp_path, {"_native/memory.pyi": "from stratovirt._native.ring import Ring\n"})
    assert fault.startswith("a circle: ")
    assert "stratovirt._native.ring" in fault and "stratovirt._native.memory" in fault
