"""The interpreter to link: Debian's static library, and the extension modules that it lacks.

Debian builds some modules of the standard library as shared objects only.  Their source is
Debian's source of the same version.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from stratovirt_lab.cache import built, say
from stratovirt_lab.kernels import run_tool
from tools.dist.errors import DistError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

VERSION = "3.11"
LIBRARY = f"libpython{VERSION}-dev"
INCLUDE = Path(f"/usr/include/python{VERSION}")
STANDARD_LIBRARY = Path(f"/usr/lib/python{VERSION}")
SHARED_ONLY = {"_json": "_json", "mmap": "mmapmodule", "resource": "resource", "termios": "termios"}
"""Extension modules that the static library lacks, with the names of their sources."""
SOURCES = {"3.11.2": "2411c74bda5bbcfcddaf4531f66d1adc73f247f529aee981b029513aefdbf849"}
"""SHA-256 of the source archive, by the interpreter's version."""


def static_library(multiarch: str) -> Path:
    """The interpreter as a static library; raises DistError."""
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    if ours != VERSION:
        # Its code objects would be of another format.
        raise DistError(f"the executables are made with Python {VERSION}, and .venv has {ours}")
    path = STANDARD_LIBRARY / f"config-{VERSION}-{multiarch}" / f"libpython{VERSION}.a"
    if not path.exists():
        raise DistError(f"{path} is missing; install Debian's {LIBRARY}")
    return path


def full_version() -> str:
    """The version of the interpreter's headers and library."""
    header = INCLUDE / "patchlevel.h"
    if not header.exists():
        raise DistError(f"{header} is missing; install Debian's {LIBRARY}")
    found = re.search(r'PY_VERSION +"([\d.]+)"', header.read_text())
    if found is None:
        raise DistError(f"{INCLUDE}/patchlevel.h names no version")
    return found[1]


def module_sources() -> Path:
    """The folder `Modules` of the interpreter's source; raises DistError."""
    version = full_version()
    if version not in SOURCES:
        raise DistError(f"the source of Python {version} is not known; {', '.join(SOURCES)} is")
    digest = SOURCES[version]
    return built("python-modules", f"{version} {digest}", _unpack(version, digest)) / "Modules"


def _unpack(version: str, digest: str) -> Callable[[Path], None]:
    def build(target: Path) -> None:
        archive = target.with_name(f"{target.name}.tar.gz")
        try:
            archive.write_bytes(_download(f"python{VERSION}_{version}.orig.tar.gz", digest))
            prefix = f"Python-{version}/"
            with tarfile.open(archive) as content:
                for member in content:
                    if member.isfile() and member.name.startswith(f"{prefix}Modules/"):
                        member.name = member.name.removeprefix(prefix)
                        content.extract(member, target, filter="data")
        finally:
            archive.unlink(missing_ok=True)

    return build


def _download(name: str, digest: str) -> bytes:
    """The source archive, which stands beside the binary packages in Debian's pool."""
    uris = run_tool("apt-get", "download", "--print-uris", LIBRARY)
    found = re.search(r"'(http[^']+)/[^/']+'", uris)
    if found is None:
        raise DistError(f"apt-get knows no place of {LIBRARY}; run 'apt-get update' as root")
    url = f"{found[1]}/{name}"
    say(f"downloading {name} from Debian's archive")
    try:
        with urllib.request.urlopen(url, timeout=300) as answer:
            content: bytes = answer.read()
    except (urllib.error.URLError, TimeoutError) as error:
        raise DistError(f"{url}: {error}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise DistError(f"{url} is not the file that the recipe was written for")
    return content
