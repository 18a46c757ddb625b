"""Python modules for a locked-down machine: compiled in the broker, run in the machine."""

from __future__ import annotations

import marshal
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader

from stratovirt.config.registry import PLUG_INS
from stratovirt.errors import StratovirtError


def open_module(name: str) -> tuple[bool, int]:
    """Whether `name` is a package, and a memfd with its code; the broker does not run it.

    Only modules of stratovirt, the standard library and packages with drivers are given.
    Raises StratovirtError.
    """
    spec = _find(name)
    if spec is None or not isinstance(spec.loader, SourceFileLoader):
        raise StratovirtError(f"{name} is no Python module that could be given")
    content = marshal.dumps(spec.loader.get_code(name))
    fd = os.memfd_create("stratovirt-module", os.MFD_CLOEXEC)
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    return spec.submodule_search_locations is not None, fd


def _find(name: str) -> ModuleSpec | None:
    """The module's spec, found without importing its parent packages."""
    top, *rest = name.split(".")
    if top != "stratovirt" and top not in sys.stdlib_module_names and not _has_drivers(top):
        return None
    spec = PathFinder.find_spec(top)
    for word in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{spec.name}.{word}"
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    return spec


def _has_drivers(top: str) -> bool:
    return any(module.split(".")[0] == top for module in PLUG_INS.names().values())
