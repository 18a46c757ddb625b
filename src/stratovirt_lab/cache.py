"""The cache of built images, and the rule by which they are built again.

Everything the lab builds is a file named by a recipe.  The recipe's text (its inputs and the
code that builds it) is hashed into the file's name, so a changed recipe is a new file and an
old one is never mistaken for it.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

KEPT_VERSIONS = 2
"""Builds of one artifact that stay in the cache: the newest and the one before it."""


def cache_dir() -> Path:
    """The cache folder, outside any source tree (``XDG_CACHE_HOME`` is honoured)."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(base) / "stratovirt-lab"
    path.mkdir(parents=True, exist_ok=True)
    return path


def say(line: str) -> None:
    """One line of progress, on stderr so that a command's own output stays clean."""
    print(f"lab: {line}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    with (cache_dir() / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def built(name: str, recipe: str, build: Callable[[Path], None]) -> Path:
    """Return the artifact `name` for `recipe`, building it first when it is not there.

    `build` gets a path to create (a file or a directory); it appears under its final name only
    when complete, so an interrupted build leaves nothing that could be mistaken for one.
    """
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    target = cache_dir() / f"{name}-{digest}"
    if target.exists():
        return target
    with _locked(name):
        if target.exists():
            return target
        say(f"building {name}")
        partial = target.with_name(f".{target.name}.partial")
        _remove(partial)
        build(partial)
        partial.rename(target)
        _prune(name)
    return target


def _prune(name: str) -> None:
    found = [
        path
        for path in cache_dir().glob(f"{name}-*")
        if len(path.name) == len(name) + 17 and "partial" not in path.name
    ]
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for old in found[KEPT_VERSIONS:]:
        _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
