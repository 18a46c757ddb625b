"""The Python modules of a static executable: ours, and what they need of the standard library."""

from __future__ import annotations

import _imp
import ast
import marshal
from modulefinder import ModuleFinder
from pathlib import Path

from tools.dist.errors import DistError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

UNREACHED = (
    "_aix_support", "_bootsubprocess", "_osx_support", "_py_abc", "_pydecimal", "_pyio", "_strptime",
    "ast", "asyncio", "bdb", "bz2", "cmd", "code", "codeop", "concurrent", "csv", "ctypes",
    "curses", "dataclasses", "difflib", "dis", "distutils", "doctest", "email", "ftplib", "gettext",
    "gzip", "html", "http", "inspect", "logging", "lzma", "mimetypes", "multiprocessing", "netrc",
    "nturl2path", "optparse", "pdb", "pickle", "plistlib", "pprint", "py_compile", "pydoc",
    "pydoc_data", "runpy", "smtplib", "socketserver", "ssl", "statistics", "tarfile", "test",
    "tkinter", "tracemalloc", "unittest", "urllib", "webbrowser", "xml", "xmlrpc", "zipfile",
)  # fmt: skip
"""Modules that others import for uses which the program does not have."""

NEVER = ("importlib.metadata",)
"""What nothing is asked of where `sys.path` is empty."""


class WithoutDocstrings(ast.NodeTransformer):
    """Leaves out the docstrings of functions; those of classes are texts of the help."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """The function without its docstring."""
        self.generic_visit(node)
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass(lineno=node.lineno, col_offset=0)]
            ast.fix_missing_locations(node)
        return node


class Module:
    """One module: `code` is its marshalled code object."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path
        self.is_package = path.name == "__init__.py"
        source = WithoutDocstrings().visit(ast.parse(path.read_bytes()))
        self.code = marshal.dumps(compile(source, f"<{name}>", "exec", dont_inherit=True))


def named(folder: Path, package: str) -> dict[str, Path]:
    """The modules of a package by name."""
    found: dict[str, Path] = {}
    for path in sorted((folder / package).rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def standard_library(folder: Path, root: Path, names: Iterable[str]) -> dict[str, Path]:
    """The modules in `folder` that the modules `names` in `root` need, by name.

    Without those that the interpreter's library has frozen already.
    """
    finder = ModuleFinder(path=[str(root), str(folder)], excludes=[*UNREACHED, *NEVER])
    for name in names:
        finder.import_hook(name)
    for excluded in UNREACHED:
        users = finder.badmodules.get(excluded, {}).keys() & set(names)
        if users:
            raise DistError(f"{min(users)} imports {excluded}, which UNREACHED leaves out")
    found = {name: Path(getattr(module, "__file__", None) or "") for name, module in finder.modules.items()}
    return {
        name: path
        for name, path in sorted(found.items())
        if path.is_relative_to(folder) and path.suffix == ".py" and not _imp.is_frozen(name)
    }
