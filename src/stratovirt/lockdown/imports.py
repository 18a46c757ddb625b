"""Imports of a locked-down process, through its broker if it has one."""

from __future__ import annotations

import marshal
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder

from stratovirt.errors import StratovirtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from stratovirt.host.line import BrokerLine

CHUNK = 1 << 20


class LateImports:
    """Importer for modules that are not loaded yet; their code comes from the broker.

    Extension modules are not available: the filter forbids executable mappings.
    """

    def __init__(self, broker: BrokerLine | None) -> None:
        self._broker = broker
        self._fds: dict[str, int] = {}

    def install(self) -> None:
        """Insert this importer before the file system's, which is then never reached.

        A static executable has none: all its modules are inside it.
        """
        if PathFinder in sys.meta_path:
            sys.meta_path.insert(sys.meta_path.index(PathFinder), self)

    def find_spec(
        self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec:
        """The module's spec; raises ModuleNotFoundError."""
        if self._broker is None:
            raise ModuleNotFoundError(
                f"{name} is not loaded, and a running machine without a broker loads nothing"
            )
        try:
            found, fds = self._broker.ask("module", name=name)
        except StratovirtError as error:
            raise ModuleNotFoundError(str(error)) from error
        self._fds[name] = fds[0]
        return ModuleSpec(name, self, is_package=bool(found["is_package"]))  # type: ignore[arg-type]

    def create_module(self, _spec: ModuleSpec) -> None:
        """None: use the default module creation."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code."""
        fd = self._fds.pop(module.__name__)
        content = b""
        while part := os.pread(fd, CHUNK, len(content)):
            content += part
        os.close(fd)
        exec(marshal.loads(content), module.__dict__)
