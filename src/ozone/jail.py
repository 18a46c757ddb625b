"""The directory that becomes the jail's root: its creation, private mounts and removal."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from contextlib import suppress

from ozone import linux
from ozone.errors import OzoneError
from ozone.options import Options
from ozone.view import View

TOP = "/srv/zozne"
"""Parent of all jails (the guidebook's section 6.2)."""
DEVICES = {
    "kvm": 0o600, "vhost-net": 0o600, "vhost-vsock": 0o600, "net/tun": 0o600,
    "null": 0o666, "zero": 0o444, "random": 0o444, "urandom": 0o444,
}  # fmt: skip
"""Device nodes in the jail's /dev, if on the host, with their mode; owned by the user."""
SMALL = "size=1m,mode=755"
QUIET = linux.MS_NOSUID | linux.MS_NODEV


class Jail:
    """One jail's directory, /srv/zozne/PROGRAM/NAME."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._parent = f"{TOP}/{options.program}"
        self.root = f"{self._parent}/{options.name}"
        self.is_ours = False
        """Whether `create` made the directory, so that a failure has to remove it."""
        self._lock = -1

    def check(self) -> None:
        """Check sources and name before the program is read; raises OzoneError."""
        for source in self._options.sources:
            if not os.path.exists(source):
                raise OzoneError(f"-source {source}: there is no such file")
        if os.path.lexists(self.root):
            raise self._exists()

    def _exists(self) -> OzoneError:
        return OzoneError(
            f"-name {self._options.name}: {self.root} exists; choose another name, or remove "
            "it with -clean-resource when nothing runs there"
        )

    def create(self, view: View) -> None:
        """Create the directory with its mount points; raises OzoneError."""
        sources = [(source, self._inside(source)) for source in self._options.sources]
        for source, inside in sources:
            if inside in ("dev", "proc", *view.tops) or (source, f"/{inside}") in view.shown:
                raise OzoneError(f"-source {source}: the jail has another /{inside}")
        os.makedirs(self._parent, 0o755, exist_ok=True)
        try:
            os.mkdir(self.root, 0o700)
        except FileExistsError:
            raise self._exists() from None
        self.is_ours = True
        os.mkdir(f"{self.root}/dev", 0o755)
        self._take_lock()
        for top in ("proc", *view.tops):
            os.mkdir(f"{self.root}/{top}", 0o755)
        for host, inside in (*sources, *view.shown):
            if inside.strip("/").count("/") == 0:
                _make_place(host, f"{self.root}/{inside.strip('/')}")

    def _take_lock(self) -> None:
        """Lock the jail; the lock is held while ozone or a process of the jail runs.

        The lock is on dev, since the program locks the root itself to write a pidfile.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open(f"{self.root}/dev", flags)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise
        self._lock = lock

    @staticmethod
    def _inside(source: str) -> str:
        return os.path.basename(source.rstrip("/"))

    def mount(self, view: View) -> None:
        """Mount the jail's files; called in its own mount namespace. Raises OSError."""
        root = self.root
        linux.mount("", "/", "", linux.MS_REC | linux.MS_PRIVATE)
        linux.mount(root, root, "", linux.MS_BIND)
        linux.mount("", root, "", linux.MS_BIND | linux.MS_REMOUNT | QUIET)
        for source in self._options.sources:
            target = f"{root}/{self._inside(source)}"
            linux.mount(os.path.abspath(source), target, "", linux.MS_BIND)
            kind = stat.S_IFMT(os.stat(source).st_mode)
            flags = linux.MS_NOSUID if kind in (stat.S_IFBLK, stat.S_IFCHR) else QUIET
            flags |= linux.MS_BIND | linux.MS_REMOUNT | linux.MS_NOEXEC
            linux.mount("", target, "", flags)
        for top in view.tops:
            linux.mount("tmpfs", f"{root}/{top}", "tmpfs", QUIET, SMALL)
        for host, inside in view.shown:
            target = f"{root}{inside}"
            if inside.count("/") > 1:
                os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
                _make_place(host, target)
            linux.mount(host, target, "", linux.MS_BIND)
            flags = linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY | QUIET
            linux.mount("", target, "", flags)
        for path in view.hidden:
            linux.mount("tmpfs", f"{root}{path}", "tmpfs", QUIET | linux.MS_RDONLY, SMALL)
        for top in view.tops:
            linux.mount("", f"{root}/{top}", "", linux.MS_REMOUNT | linux.MS_RDONLY | QUIET)
        self._mount_devices()
        # /proc has only the jail's processes, not the files about the system.
        quiet = QUIET | linux.MS_NOEXEC
        linux.mount("proc", f"{root}/proc", "proc", quiet, "subset=pid")
        # Last, so that the user's other processes cannot interfere with the mounts.
        os.chown(root, self._options.uid, self._options.gid)

    def _mount_devices(self) -> None:
        dev = f"{self.root}/dev"
        quiet = linux.MS_NOSUID | linux.MS_NOEXEC
        linux.mount("tmpfs", dev, "tmpfs", quiet, SMALL)
        for name, mode in DEVICES.items():
            try:
                found = os.stat(f"/dev/{name}")
            except FileNotFoundError:
                continue
            os.makedirs(os.path.dirname(f"{dev}/{name}"), 0o755, exist_ok=True)
            os.mknod(f"{dev}/{name}", stat.S_IFCHR, found.st_rdev)
            os.chmod(f"{dev}/{name}", mode)
            os.chown(f"{dev}/{name}", self._options.uid, self._options.gid)
        linux.mount("", dev, "", linux.MS_REMOUNT | linux.MS_RDONLY | quiet)

    def remove(self) -> None:
        """Remove the directory; raises OzoneError while a process runs in it, or OSError."""
        if self._lock < 0:
            try:
                self._take_lock()
            except FileNotFoundError:
                # There is no jail, or only the root of an ozone that was killed at once.
                if not os.path.isdir(self.root):
                    return
            except BlockingIOError:
                raise OzoneError(
                    f"-name {self._options.name}: it is still running; end it first"
                ) from None
        shutil.rmtree(self.root)
        with suppress(OSError):
            os.rmdir(self._parent)
            os.rmdir(TOP)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _make_place(host: str, target: str) -> None:
    """Create a mount point: a folder or a file, like `host`."""
    if os.path.isdir(host):
        os.mkdir(target, 0o755)
    else:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
