"""The emulator that the lab runs in, and the mending of a lock that its SVM forgets."""

import shutil
from pathlib import Path

from stratovirt_lab.cache import built
from stratovirt_lab.errors import LabError
from stratovirt_lab.kernels import run_tool

HERE = Path(__file__).parent
MODULE = Path("/usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so")
RENAMED = {
    b"\0qemu_mutex_iothread_locked\0": b"\0held_mutex_iothread_locked\0",
    b"\0qemu_cpu_is_self\0": b"\0held_cpu_is_self\0",
}
"""Imports of the TCG module that qemu-lock.c stands in for."""


def program() -> str:
    """The path of QEMU for x86_64."""
    found = shutil.which("qemu-system-x86_64")
    if found is None:
        raise LabError("qemu-system-x86_64 is missing; run 'make setup'")
    return found


def environment() -> dict[str, str]:
    """Variables that make this QEMU take its lock; none for one that needs no mending."""
    if not MODULE.exists():
        return {}
    module = MODULE.read_bytes()
    if any(module.count(name) != 1 for name in RENAMED):
        return {}
    stat = MODULE.stat()
    recipe = f"{stat.st_size} {stat.st_mtime_ns} {(HERE / 'qemu-lock.c').read_text()}"
    folder = built("qemu-modules", recipe, lambda target: _mend(module, target))
    return {"QEMU_MODULE_DIR": str(folder), "LD_PRELOAD": str(folder / "qemu-lock.so")}


def _mend(module: bytes, folder: Path) -> None:
    folder.mkdir()
    for name, replacement in RENAMED.items():
        module = module.replace(name, replacement)
    (folder / MODULE.name).write_bytes(module)
    library = str(folder / "qemu-lock.so")
    run_tool("gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", library, str(HERE / "qemu-lock.c"))
