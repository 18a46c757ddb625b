"""Builds the native data plane; everything else is in pyproject.toml."""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

LIBRARIES = {"uring": ["-l:liburing.a"], "seccomp": ["-l:libseccomp.a"]}
"""What a module is linked with: statically, so that nothing is loaded when it is not used."""

NATIVE = Path("src/stratovirt/_native")
MODULES = {
    f"stratovirt._native.{source.stem}": source for source in sorted(NATIVE.glob("*.pyx"))
} | {"ozone.linux": Path("src/ozone/linux.pyx")}

setup(
    ext_modules=cythonize(
        [
            Extension(
                name,
                [str(source)],
                extra_link_args=LIBRARIES.get(source.stem, []),
                extra_compile_args=["-O2", "-g", "-fvisibility=hidden", "-Wno-unused-function"],
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
