"""CPUs, NUMA node and memory of a jail: cgroups of either version (cgroups(7))."""

from __future__ import annotations

import os
from contextlib import suppress

from ozone.errors import OzoneError

ROOT = "/sys/fs/cgroup"
TOP = "ozone"


def _write(path: str, value: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(value)


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()


class Cgroup:
    """The cgroups of one jail, ozone/`program`/`name`; created by `create`."""

    def __init__(self, program: str, name: str) -> None:
        self._below = (TOP, program, name)
        self._is_v2 = os.path.exists(f"{ROOT}/cgroup.controllers")

    def create(self, limits: dict[str, str], node: int | None) -> None:
        """Create the groups and set the limits; raises OzoneError after removing the groups."""
        settings: dict[str, list[tuple[str, str]]] = {}
        if node is not None:
            settings["cpuset"] = [("cpuset.mems", str(node))]
        if "cpuset.cpus" in limits:
            settings["cpuset"].append(("cpuset.cpus", limits["cpuset.cpus"]))
        if "memory.limit_in_bytes" in limits:
            name = "memory.max" if self._is_v2 else "memory.limit_in_bytes"
            settings["memory"] = [(name, limits["memory.limit_in_bytes"])]
        try:
            for controller, values in settings.items():
                group = self._make(controller)
                for name, value in values:
                    try:
                        _write(f"{group}/{name}", value)
                    except OSError as error:
                        flag = "-numa" if name == "cpuset.mems" else "-cgroup"
                        raise OzoneError(
                            f"{flag}: the host refuses {name}={value}: {error.strerror}"
                        ) from error
        except OSError as error:
            self.remove()
            raise OzoneError(f"-cgroup: {error.filename}: {error.strerror}") from error
        except OzoneError:
            self.remove()
            raise

    def _make(self, controller: str) -> str:
        group = ROOT if self._is_v2 else f"{ROOT}/{controller}"
        if not self._is_v2 and not os.path.isdir(group):
            raise OzoneError(f"-cgroup: this host has no controller {controller} at {group}")
        if self._is_v2 and controller not in _read(f"{ROOT}/cgroup.controllers").split():
            raise OzoneError(f"-cgroup: this host has no controller {controller} in {ROOT}")
        for name in self._below:
            if self._is_v2:
                _write(f"{group}/cgroup.subtree_control", f"+{controller}")
            above, group = group, f"{group}/{name}"
            with suppress(FileExistsError):
                os.mkdir(group)
            if not self._is_v2 and controller == "cpuset":
                # A version 1 cpuset starts empty and then accepts no process.
                for file in ("cpuset.cpus", "cpuset.mems"):
                    _write(f"{group}/{file}", _read(f"{above}/{file}"))
        return group

    @property
    def _groups(self) -> list[str]:
        tops = [ROOT] if self._is_v2 else [f"{ROOT}/cpuset", f"{ROOT}/memory"]
        found = [os.path.join(top, *self._below) for top in tops]
        return [group for group in found if os.path.isdir(group)]

    def enter(self, pid: int) -> None:
        """Move a process into the groups; raises OSError."""
        for group in self._groups:
            _write(f"{group}/cgroup.procs", str(pid))

    def memory_kills(self) -> int:
        """Number of processes killed at the memory limit; 0 without a limit."""
        name = "memory.events" if self._is_v2 else "memory.oom_control"
        for group in self._groups:
            with suppress(FileNotFoundError):
                lines = [line.split() for line in _read(f"{group}/{name}").splitlines()]
                return int(next((line[1] for line in lines if line[0] == "oom_kill"), 0))
        return 0

    def remove(self) -> None:
        """Remove the groups and their empty parents; raises OSError if in use."""
        for group in self._groups:
            os.rmdir(group)
            above = os.path.dirname(group)
            for _ in self._below[1:]:
                with suppress(OSError):
                    os.rmdir(above)
                above = os.path.dirname(above)
