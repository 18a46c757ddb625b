"""The host files that a program needs in the jail, and its command line there."""

from __future__ import annotations

import json
import os
import re
import subprocess

from ozone.elf import read_elf
from ozone.errors import OzoneError

PACKAGE = "/opt/stratovirt"
GROUP = "stratovirt.devices"
"""Entry points of packages that add devices (docs/plugins.md)."""
START = (
    f"import sys; sys.path.insert(0, {PACKAGE!r}); from stratovirt.cli import main; "
    "sys.argv[0] = 'stratovirt'; main()"
)
PROBE = f"""
import glob, json, os, stratovirt, sys, sysconfig
packages = []
for path in sys.path:
    for facts in glob.glob(glob.escape(path) + "/*.dist-info/entry_points.txt"):
        if {GROUP!r} in open(facts, encoding="utf-8").read():
            packages.append(os.path.dirname(facts))
if packages:
    from importlib.metadata import entry_points
    from importlib.util import find_spec
    for module in {{point.module.split(".")[0] for point in entry_points(group={GROUP!r})}}:
        spec = find_spec(module)
        if spec is not None and spec.origin is not None:
            is_folder = spec.submodule_search_locations is not None
            packages.append(os.path.dirname(spec.origin) if is_folder else spec.origin)
print(json.dumps([
    os.path.realpath(sys.executable), sysconfig.get_path("stdlib"),
    os.path.dirname(stratovirt.__file__), packages,
]))
"""
"""Looks up the interpreter, its library, stratovirt, and the packages that add devices to it."""


class View:
    """Files and folders shown read-only, as (on the host, in the jail), and the program's argv.

    `hidden` are folders below them that appear empty.
    """

    def __init__(
        self, shown: list[tuple[str, str]], argv: list[str], hidden: list[str] | None = None
    ) -> None:
        self.shown, self.argv, self.hidden = shown, argv, hidden or []

    @property
    def tops(self) -> list[str]:
        """The first folder of each path in the jail that is not in the root itself."""
        return sorted({path.split("/")[1] for _, path in self.shown if path.count("/") > 1})


def view_for(exec_file: str) -> View:
    """The view for `exec_file`; raises OzoneError unless it is a static ELF or stratovirt."""
    try:
        with open(exec_file, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise OzoneError(f"-exec_file {exec_file}: cannot read: {error.strerror}") from error
    if not os.access(exec_file, os.X_OK):
        raise OzoneError(f"-exec_file {exec_file}: not executable")
    if _is_static_elf(exec_file):
        inside = f"/{os.path.basename(exec_file)}"
        return View([(os.path.abspath(exec_file), inside)], [inside])
    script = re.match(rb"#!\s*(/\S*python[0-9.]*)\s*\n", head)
    if script is not None:
        return _view_of_package(exec_file, os.fsdecode(script[1]))
    raise OzoneError(
        f"-exec_file {exec_file}: must be a statically linked ELF file or stratovirt itself"
    )


def _is_static_elf(exec_file: str) -> bool:
    try:
        return read_elf(exec_file).loader is None
    except ValueError:
        return False


def _view_of_package(exec_file: str, python: str) -> View:
    done = subprocess.run(
        [python, "-c", PROBE], capture_output=True, text=True, check=False, cwd="/"
    )
    if done.returncode != 0:
        raise OzoneError(f"-exec_file {exec_file}: its {python} has no package stratovirt")
    executable, library, package, others = json.loads(done.stdout)
    shown = [(executable, executable), (library, library), (package, f"{PACKAGE}/stratovirt")]
    # A folder may be in the path by two names: lib64 is a link to lib in some environments.
    others = list({os.path.basename(path): path for path in others}.values())
    shown += [(path, f"{PACKAGE}/{os.path.basename(path)}") for path in others]
    # Extension modules of the library and of stratovirt lie there and nowhere else.
    folders = [f"{library}/lib-dynload", f"{package}/_native", *filter(os.path.isdir, others)]
    shown += [(path, path) for path in _shared_objects(executable, *folders)]
    # Some Pythons keep other installed packages inside the standard library's folder.
    packages = [f"{library}/{name}" for name in ("site-packages", "dist-packages")]
    hidden = [path for path in packages if os.path.isdir(path)]
    return View(shown, [executable, "-I", "-S", "-c", START], hidden)


def _shared_objects(executable: str, *folders: str) -> list[str]:
    """Shared objects that the interpreter and the modules in the folders load.

    The loader runs once for files with the same needs: most modules need the C library only, and
    each run costs the start of a process.
    """
    modules = [
        os.path.join(folder, name)
        for folder in folders
        for name in sorted(os.listdir(folder))
        if name.endswith(".so")
    ]
    loader = read_elf(executable).loader
    if loader is None:
        return []
    covered: set[tuple[str, str]] = set()
    found: set[str] = {loader}
    for path in (executable, *modules):
        needs = read_elf(path).needs()
        if not needs <= covered:
            covered |= needs
            done = subprocess.run(
                [loader, "--list", path], capture_output=True, text=True, check=False
            )
            found.update(re.findall(r"^\s+\S+ => (/\S+) \(0x", done.stdout, re.MULTILINE))
    inside = tuple(f"{folder}/" for folder in folders)
    return sorted(path for path in found if not path.startswith(inside))
