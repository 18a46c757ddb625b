"""Python modules for a machine that can open no files: compiled here, run there."""

from __future__ import annotations

import marshal
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader

from stratovirt.errors import StratovirtError


def open_module(name: str) -> tuple[bool, int]:
    """Whether `name` is a package, and a file of its code; nothing of it runs here.

    Only our own modules and the standard library's are given.  Raises StratovirtError.
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
    """Its spec, found without importing the packages it is in."""
    top, *rest = name.split(".")
    if top != "stratovirt" and top not in sys.stdlib_module_names:
        return None
    spec = PathFinder.find_spec(top)
    for word in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{spec.name}.{word}"
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    return spec
