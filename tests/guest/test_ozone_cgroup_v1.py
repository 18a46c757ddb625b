"""ozone on a host with cgroups of version 1; a lab of its own, as a controller has one version."""

import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.guest.test_ozone import (
    CGROUP,
    LIMITS,
    NAME,
    TOP,
    boot,
    clean,
    sources,
    start,
    status,
)

__all__ = ["sources"]


@pytest.fixture
def old_cgroups() -> Iterator[None]:
    """Version 1."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(CGROUP)], check=True)
    for name in ("cpuset", "memory"):
        (CGROUP / name).mkdir()
        subprocess.run(["mount", "-t", "cgroup", "-o", name, name, str(CGROUP / name)], check=True)
    yield
    for name in ("cpuset", "memory"):
        subprocess.run(["umount", str(CGROUP / name)], check=True)
    subprocess.run(["umount", str(CGROUP)], check=True)


def test_cgroups_of_version_1_serve_as_well(old_cgroups: None, sources: list[str]) -> None:
    with start(sources, *LIMITS) as machine:
        pid = boot(machine)
        assert status(pid)["Cpus_allowed_list"] == "1"
        group = CGROUP / "memory" / "ozone" / "stratovirt" / NAME
        assert (group / "memory.limit_in_bytes").read_text().strip() == str(1 << 30)
        assert str(pid) in (group / "cgroup.procs").read_text().split()
        machine.process.send_signal(signal.SIGTERM)
        assert machine.wait() == 0
    assert clean() == (0, "")
    assert not TOP.exists() and not (CGROUP / "memory" / "ozone").exists()
