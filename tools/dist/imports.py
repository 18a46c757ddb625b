"""The first module of a static executable: imports find what is inside it, and nothing else."""

import sys
from _frozen_importlib import BuiltinImporter, FrozenImporter, ModuleSpec

import _imp


class LinkedImporter:
    """Finds linked extension modules; BuiltinImporter alone finds none inside a package."""

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None, /) -> ModuleSpec | None:
        """The spec of a linked module, or None."""
        if _imp.is_builtin(name):
            return ModuleSpec(name, BuiltinImporter, origin="built-in")  # type: ignore[arg-type]
        return None


sys.path.clear()
sys.meta_path[:] = [LinkedImporter, FrozenImporter]
