"""Debian's stock kernels: found, downloaded and unpacked without installing them."""

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from stratovirt_lab.cache import built, cache_dir, say
from stratovirt_lab.errors import LabError

APT_LISTS_HINT = "run 'apt-get update' as root and try again"


@dataclass(frozen=True)
class Kernel:
    """One unpacked kernel package."""

    root: Path
    version: str

    @property
    def image(self) -> Path:
        """The kernel image as Debian ships it."""
        return self.root / "boot" / f"vmlinuz-{self.version}"

    def modules(self, *names: str) -> list[Path]:
        """Module files for `names` and all they depend on, in loading order."""
        listed: list[Path] = []
        for name in names:
            out = run_tool(
                "modprobe",
                "--dirname",
                str(self.root),
                "--set-version",
                self.version,
                "--show-depends",
                name,
            )
            for line in out.splitlines():
                kind, _, rest = line.partition(" ")
                path = Path(rest.split()[0]) if kind == "insmod" else None
                if path is not None and path not in listed:
                    listed.append(path)
        return listed


def run_tool(*argv: str, cwd: Path | None = None, stdin: bytes | None = None) -> str:
    """Run a build tool and return its output; a failure becomes one line that names it."""
    tool = shutil.which(argv[0], path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if tool is None:
        raise LabError(f"'{argv[0]}' is not installed; run 'make setup'")
    try:
        done = subprocess.run([tool, *argv[1:]], cwd=cwd, input=stdin, capture_output=True)
    except OSError as error:
        raise LabError(f"cannot run '{argv[0]}': {error}") from error
    if done.returncode != 0:
        last = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        reason = last[-1] if last else f"exit status {done.returncode}"
        raise LabError(f"'{' '.join(argv[:3])}' failed: {reason}")
    return done.stdout.decode(errors="replace")


def _package(flavour: str) -> str:
    """The versioned package behind ``linux-image-FLAVOUR``, with a version before FLAVOUR."""
    meta = f"linux-image-{flavour}"
    out = run_tool("apt-cache", "depends", meta)
    found = re.search(rf"Depends: (linux-image-\S+-{re.escape(flavour)})", out)
    if found is None:
        raise LabError(f"apt knows no package '{meta}'; {APT_LISTS_HINT}")
    return found.group(1)


def _installed(flavour: str) -> list[Path]:
    # An already unpacked kernel keeps working when the archive has moved on or is unreachable.
    return sorted(
        path
        for path in cache_dir().glob(f"kernel-{flavour}-*")
        if len(path.name) == len(f"kernel-{flavour}-") + 16
    )


def kernel(flavour: str) -> Kernel:
    """The newest kernel of a Debian flavour (an architecture, or cloud-ARCHITECTURE), unpacked."""
    ready = _installed(flavour)
    if ready:
        root = ready[-1]
    else:
        package = _package(flavour)
        root = built(f"kernel-{flavour}", package, lambda target: _unpack(package, target))
    (version,) = (path.name for path in (root / "lib" / "modules").iterdir())
    return Kernel(root, version)


def _unpack(package: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache_dir()) as scratch:
        folder = Path(scratch)
        say(f"downloading {package} from Debian's archive")
        try:
            # The unsigned package is the same kernel without its secure boot signature.
            run_tool("apt-get", "download", f"{package}-unsigned", cwd=folder)
        except LabError:
            run_tool("apt-get", "download", package, cwd=folder)
        (deb,) = folder.glob("*.deb")
        run_tool("dpkg", "-x", str(deb), str(target))
    (version,) = (path.name for path in (target / "lib" / "modules").iterdir())
    run_tool("depmod", "-b", str(target), version)
