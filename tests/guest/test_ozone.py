"""ozone in the lab, as root: the guidebook's example, its mistakes, and sudden deaths."""

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ozone.view import view_for
from tests.guest.conftest import APPEND, GuestFiles
from tests.machine_process import MachineProcess, QmpClient, wait_until
from tests.programs import OZONE, STRATOVIRT

TOP, NAME = Path("/srv/zozne"), "stratovirt_ozone"
JAIL = TOP / "stratovirt" / NAME
CGROUP = Path("/sys/fs/cgroup")
UID = 100
KEEPS_CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


STATIC = str(Path(__file__).parents[2] / "dist/stratovirt")
"""The executable of `make dist`."""


def mounts() -> list[str]:
    return sorted(line.split(" - ")[0].split(" ", 1)[1] for line in
                  Path("/proc/self/mountinfo").read_text().splitlines())  # fmt: skip


def ozone(*argv: str, timeout: float = 60) -> tuple[int, str]:
    done = subprocess.run([OZONE, *argv], capture_output=True, text=True, timeout=timeout)
    return done.returncode, done.stderr


@pytest.fixture
def cgroups() -> Iterator[None]:
    """Version 2, as any host with systemd has it."""
    mounted = not (CGROUP / "cgroup.controllers").exists()
    if mounted:
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", str(CGROUP)], check=True)
    yield
    # The groups of a test that failed go while they can be reached: they outlive the mount.
    wait_until(lambda: clean()[0] == 0, "the jail can be removed")
    if mounted:
        subprocess.run(["umount", str(CGROUP)], check=True)


@pytest.fixture
def sources(tmp_path: Path, files: type[GuestFiles], root_image: Path) -> list[str]:
    """A kernel, an initramfs and a disk that the user may read, and the last one write."""
    kernel, initramfs = tmp_path / "vmlinux.bin", tmp_path / "initramfs"
    shutil.copy(files.kernel, kernel)
    shutil.copy(files.initramfs, initramfs)
    rootfs = root_image.rename(tmp_path / "rootfs")
    for path in (kernel, initramfs, rootfs):
        os.chown(path, UID, UID)
    return [str(kernel), str(initramfs), str(rootfs)]


def argv(sources: list[str], *more: str, program: str = STRATOVIRT) -> list[str]:
    return [
        "-name", NAME, "-exec_file", program, "-gid", str(UID), "-uid", str(UID),
        "-source", *sources, *more, "--", "-kernel", "./vmlinux.bin", "-initrd", "./initramfs",
        "-append", *APPEND.split(), "rw",
        "-drive", "file=./rootfs,id=rootfs,readonly=off,direct=off",
        "-device", "virtio-blk-device,drive=rootfs,id=rootfs",
        "-qmp", "unix:./stratovirt.socket,server,nowait", "-serial", "stdio",
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def no_jail_is_left() -> Iterator[None]:
    """A test that fails half way does not fail the next."""
    yield
    wait_until(lambda: clean()[0] == 0, "the jail can be removed")


def clean() -> tuple[int, str]:
    return ozone("-name", NAME, "-exec_file", STRATOVIRT, "-clean-resource")


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def start(sources: list[str], *more: str, program: str = STRATOVIRT) -> MachineProcess:
    return MachineProcess(*argv(sources, *more, program=program), program=OZONE)


def boot(machine: MachineProcess) -> int:
    """Wait for the guest's shell; stratovirt's process."""
    machine.expect("guest: ready in the initramfs")
    machine.expect("# ")
    (first,) = children(machine.process.pid)
    (program,) = children(first)
    return program


LIMITS = ("-numa", "0", "-cgroup", "cpuset.cpus=1", f"memory.limit_in_bytes={1 << 30}")


@pytest.mark.parametrize("program", [STRATOVIRT, STATIC])
def test_the_guidebooks_example_runs_a_guest_in_its_jail(
    cgroups: None, netns: Path, sources: list[str], program: str
) -> None:
    before = mounts()
    with start(sources, "-netns", str(netns), *LIMITS, program=program) as machine:
        pid = boot(machine)
        facts = status(pid)
        assert facts["Uid"].split() == [str(UID)] * 4 and facts["Gid"].split() == [str(UID)] * 4
        assert facts["Groups"] == "" and facts["NoNewPrivs"] == "1"
        assert {int(facts[name], 16) for name in KEEPS_CAPABILITIES} == {0}
        assert facts["Cpus_allowed_list"] == "1" and facts["Mems_allowed_list"] == "0"
        group = CGROUP / "ozone" / "stratovirt" / NAME
        assert str(pid) in (group / "cgroup.procs").read_text().split()
        assert (group / "memory.max").read_text().strip() == str(1 << 30)
        for kind in ("mnt", "pid", "ipc", "uts", "net"):
            assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
        assert os.stat(f"/proc/{pid}/ns/net").st_ino == netns.stat().st_ino
        view, names = view_for(program), set(os.listdir(f"/proc/{pid}/root"))
        assert names == {
            "dev", "proc", *view.tops, "vmlinux.bin", "initramfs", "rootfs", "stratovirt.socket",
            *([] if view.tops else ["stratovirt"]),
        }  # fmt: skip
        if view.tops:
            assert set(os.listdir(f"/proc/{pid}/root/opt/stratovirt")) == {"stratovirt"}
        for name in ("bin/sh", "usr/bin/sh", "etc", "sys", "tmp", "root/.ssh"):
            assert not Path(f"/proc/{pid}/root/{name}").exists()
        kvm = Path(f"/proc/{pid}/root/dev/kvm").stat()
        assert kvm.st_mode & 0o777 == 0o600 and kvm.st_uid == UID
        assert mounts() == before
        # The disk is the host's file, not a copy.
        machine.command("printf ozone | dd of=/dev/vda bs=512 seek=9 conv=sync,fsync 2>/dev/null")
        assert Path(sources[2]).read_bytes()[512 * 9 :].startswith(b"ozone")
        assert ozone(*argv(sources)) == (
            1, f"ozone: -name {NAME}: {JAIL} exists; choose another name, or remove it with "
            "-clean-resource when nothing runs there\n",
        )  # fmt: skip
        assert clean() == (1, f"ozone: -name {NAME}: it is still running; end it first\n")
        # In another network namespace it is not in this one's list of sockets; its path is.
        with QmpClient(JAIL / "stratovirt.socket", listed=False) as client:
            assert client.cmd("query-status")["running"]
            client.cmd("quit")
        assert machine.wait() == 0
    assert JAIL.exists()
    assert clean() == (0, "")
    assert not TOP.exists() and not (CGROUP / "ozone").exists() and mounts() == before
    assert clean() == (0, "")


def test_a_mistake_leaves_nothing(cgroups: None, sources: list[str], tmp_path: Path) -> None:
    before = mounts()
    secret = tmp_path / "secret"
    secret.write_text("x")
    os.chmod(secret, 0o600)
    mistakes = [
        ([*sources, "/nonexistent"], (), "-source /nonexistent: there is no such file"),
        ([*sources, str(secret)], (), f"-source {secret}: uid 100 cannot read it"),
        (sources, ("-netns", "/nonexistent"), "-netns /nonexistent: cannot open: No such file"),
        (sources, ("-netns", str(secret)), "cannot make the namespaces: Invalid argument"),
        (sources, ("-numa", "77"), "-numa: the host refuses cpuset.mems=77"),
        (
            sources, ("-numa", "0", "-cgroup", "cpuset.cpus=900"),
            "-cgroup: the host refuses cpuset.cpus=900",
        ),
    ]  # fmt: skip
    for given, more, message in mistakes:
        code, text = ozone(*argv(given, *more))
        assert code == 1 and text.startswith(f"ozone: {message}") and text.count("\n") == 1, text
        assert not TOP.exists() and not (CGROUP / "ozone").exists() and mounts() == before


def test_killed_at_any_moment_it_leaves_what_one_command_cleans(
    cgroups: None, sources: list[str]
) -> None:
    before = mounts()
    for _ in range(10):
        machine = subprocess.Popen(
            [OZONE, *argv(sources, *LIMITS)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        time.sleep(random.uniform(0, 4))
        machine.kill()
        machine.wait()
        wait_until(lambda: clean() == (0, ""), "nobody is left in the jail")
        assert not TOP.exists() and not (CGROUP / "ozone").exists() and mounts() == before


def test_a_static_program_has_the_capabilities_it_was_given(tmp_path: Path) -> None:
    source, program = tmp_path / "x.c", tmp_path / "static"
    source.write_text("""
        #include <stdio.h>
        int main(void) {
            char line[256];
            FILE *status = fopen("/proc/self/status", "r");
            while (fgets(line, sizeof(line), status)) fputs(line, stdout);
            return 7;
        }
    """)
    subprocess.run(["gcc", "-static", "-o", program, source], check=True)
    name = ["-name", "caps", "-exec_file", str(program)]
    done = subprocess.run(
        [OZONE, *name, "-uid", "100", "-gid", "100", "-capability", "CAP_CHOWN,CAP_NET_ADMIN"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    facts = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    wanted = 1 << 0 | 1 << 12
    assert {int(facts[key], 16) for key in KEEPS_CAPABILITIES} == {wanted}
    assert facts["NoNewPrivs"].strip() == "1"
    assert ozone(*name, "-clean-resource") == (0, "")
    assert not TOP.exists()


def test_a_program_that_the_memory_limit_kills_is_said_to_be(cgroups: None, tmp_path: Path) -> None:
    source, program = tmp_path / "x.c", tmp_path / "eater"
    source.write_text("""
        #include <stdlib.h>
        #include <string.h>
        int main(void) { for (;;) memset(malloc(1 << 20), 1, 1 << 20); }
    """)
    subprocess.run(["gcc", "-static", "-O0", "-o", program, source], check=True)
    name = ["-name", "eater", "-exec_file", str(program)]
    limit = ["-cgroup", f"memory.limit_in_bytes={32 << 20}"]
    assert ozone(*name, "-uid", "100", "-gid", "100", *limit) == (
        137,
        f"ozone: {limit[0]} {limit[1]}: the program needed more memory and the host killed it\n",
    )
    assert ozone(*name, "-clean-resource") == (0, "")
