"""``make dist``: dist/stratovirt and dist/ozone, static executables that need no Python.

Interpreter, standard library and our modules are in the file: Python modules as frozen code,
extension modules linked.  `make build` has compiled the latter.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

from stratovirt_lab.cache import say
from stratovirt_lab.errors import LabError
from tools.cross_build import sources
from tools.dist.errors import DistError
from tools.dist.interpreter import (
    INCLUDE,
    SHARED_ONLY,
    STANDARD_LIBRARY,
    module_sources,
    static_library,
)
from tools.dist.modules import Module, named, standard_library

ROOT = Path(__file__).resolve().parents[2]
SOURCE, OBJECTS, OUTPUT = ROOT / "src", ROOT / "build/dist", ROOT / "dist"
HERE = Path(__file__).parent
MULTIARCH = sysconfig.get_config_var("MULTIARCH")
LIBRARIES = ("expat", "z", "uring", "seccomp", "m")
CFLAGS = ("-O2", "-fvisibility=hidden", "-ffunction-sections", "-fdata-sections")
ENCODINGS = ("encodings.utf_8", "encodings.ascii", "encodings.latin_1", "encodings.idna")
PROGRAMS = {"stratovirt": ("stratovirt",), "ozone": ("ozone",)}
"""The packages in each executable; the module `__main__` of the first one runs."""


def run(*command: str | Path, folder: Path | None = None) -> None:
    """Run a tool, in a folder if one is given; raises DistError with what it said."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise DistError(f"{command[0]} failed:\n{done.stderr}")


def compiled(packages: tuple[str, ...]) -> dict[str, Path]:
    """The object files of our extension modules by the module's name; raises DistError."""
    folder = ROOT / f"build/temp.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    found: dict[str, Path] = {}
    is_stale = False
    for source in sources(platform.machine()).values():
        place = source.relative_to(SOURCE)
        if place.parts[0] in packages:
            built = folder / "build/src" / place.with_suffix(".o")
            found[".".join(place.with_suffix("").parts)] = built
            is_stale |= not built.exists() or built.stat().st_mtime < source.stat().st_mtime
    if is_stale:
        say("compiling the native modules once more")
        run(sys.executable, ROOT / "setup.py", "--quiet", "build_ext", "--inplace", "--force",
            folder=ROOT)  # fmt: skip
    return found


def compile_interpreter_modules() -> dict[str, Path]:
    """The object files of the standard library's modules that the static library lacks."""
    objects: dict[str, Path] = {}
    for name, stem in SHARED_ONLY.items():
        objects[name] = OBJECTS / f"{stem}.o"
        if not objects[name].exists():
            source = module_sources()
            run("gcc", *CFLAGS, "-DPy_BUILD_CORE_MODULE", f"-I{INCLUDE}", f"-I{INCLUDE}/internal",
                "-c", source / f"{stem}.c", "-o", objects[name])  # fmt: skip
    return objects


def write_tables(folder: Path, modules: list[Module], linked: list[str]) -> None:
    """Write tables.h and the code of all modules, for main.c and code.s."""
    code = b""
    rows = [f'LINKED("{name}", PyInit_{name.rpartition(".")[2]})' for name in linked]
    for module in modules:
        size = len(module.code)
        rows.append(f'FROZEN("{module.name}", {len(code)}, {size}, {int(module.is_package)})')
        code += module.code
    (folder / "tables.h").write_text("\n".join(rows) + "\n")
    (folder / "code.bin").write_bytes(code)
    (folder / "code.s").write_text(
        ".section .rodata\n.balign 16\n.globl frozen_code\nfrozen_code:\n"
        f'.incbin "{folder / "code.bin"}"\n.section .note.GNU-stack,"",@progbits\n'
    )


def build(program: str, packages: tuple[str, ...], of_interpreter: dict[str, Path]) -> Path:
    """Make one executable; raises DistError."""
    folder = OBJECTS / program
    folder.mkdir(parents=True, exist_ok=True)
    ours: dict[str, Path] = {}
    for package in packages:
        ours |= named(SOURCE, package)
    paths = standard_library(STANDARD_LIBRARY, SOURCE, [*ours, *ENCODINGS]) | ours
    modules = [Module(name, path) for name, path in paths.items()]
    modules.append(Module("_imports_of_this_file", HERE / "imports.py"))
    objects = compiled(packages) | of_interpreter
    write_tables(folder, modules, list(objects))
    target = folder / program
    run("gcc", *CFLAGS, f"-I{INCLUDE}", f"-I{folder}", f'-DENTRY="{packages[0]}.__main__"',
        "-c", HERE / "main.c", "-o", folder / "main.o")  # fmt: skip
    run("gcc", "-c", folder / "code.s", "-o", folder / "code.o")
    run("gcc", "-static", "-s", "-Wl,--gc-sections", "-Wl,--wrap=getaddrinfo", "-o", target, folder / "main.o",
        folder / "code.o", *objects.values(), static_library(MULTIARCH),
        *(f"-l{name}" for name in LIBRARIES))  # fmt: skip
    return target


def main() -> int:
    """Build all programs; returns the exit status."""
    OBJECTS.mkdir(parents=True, exist_ok=True)
    OUTPUT.mkdir(exist_ok=True)
    try:
        of_interpreter = compile_interpreter_modules()
        made = [build(*program, of_interpreter) for program in PROGRAMS.items()]
        # All or none: a half-made pair would be taken for a whole one.
        for path in made:
            target = path.rename(OUTPUT / path.name)
            target.touch()
            say(f"dist/{target.name}: {target.stat().st_size / 1e6:.1f} MB")
    except (DistError, LabError, OSError) as error:
        print(f"dist: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
