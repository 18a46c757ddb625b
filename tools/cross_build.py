"""Builds the native modules for another architecture, warnings as errors, and checks the files.

    python -m tools.cross_build aarch64

Compiler and C library are Debian's cross packages.  The headers and static libraries beside them
come from the architecture's own packages, unpacked in the lab's cache: the host's apt keeps its
architectures, and nothing foreign is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from stratovirt.architectures import TARGETS
from stratovirt_lab.cache import built, cache_dir, say
from stratovirt_lab.errors import LabError
from stratovirt_lab.kernels import run_tool

ROOT = Path(__file__).resolve().parents[1]
SETUP = ROOT / "setup.py"
NATIVE = ROOT / "src/stratovirt/_native"
DEBIAN_NAMES = {"aarch64": "arm64"}
ELF_MACHINES = {"aarch64": "AArch64"}
"""An architecture as readelf names it."""
WARNINGS = ("-Wall", "-Wextra", "-Werror")


class CrossBuildError(Exception):
    """The modules cannot be built, or are not what they should be."""


def python_version() -> str:
    """The version in the name of Debian's packages, such as 3.11."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def packages() -> tuple[str, ...]:
    """The Debian packages with headers, static libraries and Python's build configuration."""
    version = python_version()
    return (
        f"libpython{version}-dev", f"libpython{version}-minimal", "liburing-dev", "libseccomp-dev",
    )  # fmt: skip


def unpack_packages(architecture: str, target: Path) -> None:
    """Download the packages with lists of their own, and unpack them."""
    with tempfile.TemporaryDirectory(dir=cache_dir()) as scratch:
        folder = Path(scratch)
        (folder / "lists" / "partial").mkdir(parents=True)
        apt = [
            "apt-get", "-q",
            "-o", f"Dir::State::Lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache",
            "-o", f"APT::Architecture={architecture}", "-o", f"APT::Architectures={architecture}",
            "-o", "Acquire::Languages=none", "-o", "APT::Sandbox::User=root",
        ]  # fmt: skip
        say(f"downloading packages of {architecture} from Debian's archive")
        run_tool(*apt, "update")
        run_tool(*apt, "download", *packages(), cwd=folder)
        for deb in folder.glob("*.deb"):
            run_tool("dpkg", "-x", str(deb), str(target))


def sources(architecture: str) -> dict[str, Path]:
    """The sources of all modules but other architectures' own, by the module's name."""
    found = {path.stem: path for path in [*NATIVE.glob("*.pyx"), ROOT / "src/ozone/linux.pyx"]}
    return {
        name: path
        for name, path in found.items()
        if not any(name.startswith(f"{other}_") for other in TARGETS if other != architecture)
    }


def keep_if_same(recipe: str, output: Path) -> None:
    """Remove what was built by another recipe: setup.py looks at the sources' times only."""
    kept = output / "recipe"
    if not kept.exists() or kept.read_text() != recipe:
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        kept.write_text(recipe)


def build(architecture: str, sysroot: Path, output: Path) -> None:
    """Run setup.py with the cross compiler and the target's build configuration."""
    version, multiarch = python_version(), f"{architecture}-linux-gnu"
    name = f"_sysconfigdata__{multiarch}"
    configuration = output / "sysconfig"
    configuration.mkdir(parents=True, exist_ok=True)
    shutil.copy(sysroot / f"usr/lib/python{version}" / f"{name}.py", configuration)
    includes = [f"usr/include/python{version}", "usr/include", f"usr/include/{multiarch}"]
    # They come before the headers of the Python that runs setup.py.
    flags = [*(f"-I{sysroot / folder}" for folder in includes), *WARNINGS]
    environment = os.environ | {
        "CC": f"{multiarch}-gcc",
        "LDSHARED": f"{multiarch}-gcc -shared -L{sysroot}/usr/lib/{multiarch}",
        "CFLAGS": " ".join(flags),
        "PYTHONPATH": str(configuration),
        "_PYTHON_SYSCONFIGDATA_NAME": name,
    }
    command = [
        sys.executable, "setup.py", "--quiet", "build_ext", "-j2",
        "--build-lib", str(output / "lib"), "--build-temp", str(output / "objects"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=environment)
    if done.returncode != 0:
        raise CrossBuildError("setup.py failed")


def check(architecture: str, output: Path) -> int:
    """Check that each source became a module of the architecture; returns their number."""
    wanted = sources(architecture)
    found = {path.name.partition(".")[0]: path for path in (output / "lib").rglob("*.so")}
    if found.keys() != wanted.keys():
        raise CrossBuildError(f"missing or too many: {sorted(found.keys() ^ wanted.keys())}")
    for name, path in found.items():
        text = run_tool(
            f"{architecture}-linux-gnu-readelf", "-W", "--file-header", "--dyn-syms", str(path)
        )
        if re.search(rf"Machine: +{ELF_MACHINES[architecture]}\n", text) is None:
            raise CrossBuildError(f"{path} is not for {architecture}")
        if re.search(rf"GLOBAL DEFAULT +\d+ PyInit_{name}\n", text) is None:
            raise CrossBuildError(f"{path} has no PyInit_{name}")
    return len(found)


def main() -> int:
    """Build, check, and say how many modules there are."""
    architecture = sys.argv[1]
    output = ROOT / "build" / architecture
    try:
        debian = DEBIAN_NAMES[architecture]
        sysroot = built(
            f"headers-{debian}",
            " ".join(packages()),
            lambda target: unpack_packages(debian, target),
        )
        recipe = [str(sysroot), *sorted(sources(architecture)), SETUP.read_text(), *WARNINGS]
        keep_if_same("\n".join(recipe), output)
        build(architecture, sysroot, output)
        count = check(architecture, output)
    except (LabError, CrossBuildError) as error:
        print(f"cross_build: {error}", file=sys.stderr)
        return 1
    print(f"{count} native modules for {architecture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
