"""Builds the native data plane; everything else is in pyproject.toml."""

import os
import platform
import shlex
import subprocess
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

LIBRARIES = {"uring": ["-l:liburing.a"], "seccomp": ["-l:libseccomp.a"]}
"""What a module is linked with: statically, so that nothing is loaded when it is not used."""

ARCHITECTURES = ("x86_64", "aarch64")
"""Those whose name a module may begin with."""


def target() -> str:
    """The architecture to build for: that of the compiler in CC, otherwise this machine's."""
    compiler = os.environ.get("CC")
    if compiler is None:
        return platform.machine()
    command = [*shlex.split(compiler), "-dumpmachine"]
    triplet = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return triplet.partition("-")[0]


TARGET = target()
OTHERS = tuple(f"{name}_" for name in ARCHITECTURES if name != TARGET)
NATIVE = Path("src/stratovirt/_native")
MODULES = {
    f"stratovirt._native.{source.stem}": source
    for source in sorted(NATIVE.glob("*.pyx"))
    if not source.name.startswith(OTHERS)
} | {"ozone.linux": Path("src/ozone/linux.pyx")}

setup(
    ext_modules=cythonize(
        [
            Extension(
                name,
                [str(source)],
                include_dirs=[str(NATIVE)],
                define_macros=[("CPU_HEADER", f'"{TARGET}_cpu.h"')],
                depends=[str(NATIVE / f"{TARGET}_cpu.h")],
                extra_link_args=LIBRARIES.get(source.stem, []),
                extra_compile_args=["-O2", "-g", "-fvisibility=hidden"],
            )
            for name, source in MODULES.items()
        ],
        compiler_directives={
            "language_level": "3",
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "embedsignature": True,
        },
        include_path=["src"],
        build_dir="build",
        nthreads=2,
    )
)
