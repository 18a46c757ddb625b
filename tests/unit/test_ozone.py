"""ozone's command line, and which programs it takes."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

import stratovirt
from ozone.cli import run
from ozone.errors import OzoneError
from ozone.options import parse
from ozone.view import view_for

NEEDED = ["-name", "n", "-exec_file", "/x/stratovirt", "-uid", "100", "-gid", "100"]


def test_the_guidebooks_example_is_understood() -> None:
    options = parse([
        "-name", "stratovirt_ozone", "-exec_file", "/path/to/stratovirt", "-gid", "100",
        "-uid", "101", "-capability", "CAP_CHOWN", "-netns", "/var/run/netns/mynet",
        "-source", "/path/to/vmlinux.bin", "/path/to/rootfs", "-numa", "0",
        "-cgroup", "cpuset.cpus=4-5", "memory.limit_in_bytes=1000000", "--",
        "-kernel", "./vmlinux.bin", "-append", "console=ttyS0", "root=/dev/vda", "rw",
        "-serial", "stdio",
    ])  # fmt: skip
    assert (options.name, options.program) == ("stratovirt_ozone", "stratovirt")
    assert (options.uid, options.gid, options.numa) == (101, 100, 0)
    assert options.capabilities == ["CAP_CHOWN"]
    assert options.sources == ["/path/to/vmlinux.bin", "/path/to/rootfs"]
    assert options.cgroup == {"cpuset.cpus": "4-5", "memory.limit_in_bytes": "1000000"}
    assert options.arguments == [
        "-kernel", "./vmlinux.bin", "-append", "console=ttyS0 root=/dev/vda rw", "-serial", "stdio"
    ]  # fmt: skip


def test_controllers_may_be_separated_by_commas() -> None:
    options = parse([*NEEDED, "-numa", "0", "-cgroup", "cpuset.cpus=0,2-3,memory.limit_in_bytes=5"])
    assert options.cgroup == {"cpuset.cpus": "0,2-3", "memory.limit_in_bytes": "5"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "-name is needed"),
        (NEEDED[:6], "-gid is needed"),
        (["-name", "n", "-clean-resource"], "-exec_file is needed"),
        (
            ["-name", "n", "-exec_file", "/usr/..", "-clean-resource"],
            "-exec_file /usr/..: must be the path of a file",
        ),
        ([*NEEDED, "-color", "red"], "-color: no such argument; known are -name, -exec_file"),
        ([*NEEDED, "-name", "m"], "-name: given twice"),
        (["x", *NEEDED], "'x' belongs to no argument"),
        (["-name", "a", "b", *NEEDED[2:]], "-name takes one value, not 2"),
        (["-name", "a/b", *NEEDED[2:]], "-name a/b: must be a file name, without '/'"),
        (["-name", "..", *NEEDED[2:]], "-name ..: must be a file name, without '/'"),
        (["-name", "x" * 256, *NEEDED[2:]], "-name: must have 1 to 255 bytes, not 256"),
        ([*NEEDED[:4], "-uid", "-1", "-gid", "1"], "-uid must be a number from 0 to 4294967294"),
        ([*NEEDED, "-numa", "x"], "-numa must be a number from 0 to 1023, not 'x'"),
        ([*NEEDED, "-capability", "CAP_FLY"], "-capability: there is no 'CAP_FLY'"),
        ([*NEEDED, "-source"], "-source takes at least one value"),
        ([*NEEDED, "-source", "/a/k", "/b/k"], "-source: 'k' would be there twice"),
        ([*NEEDED, "-cgroup", "cpu.shares=1"], "-cgroup cpu.shares=1: must be NAME=VALUE"),
        ([*NEEDED, "-cgroup", "cpuset.cpus=0"], "-numa is needed where -cgroup sets cpuset.cpus"),
        ([*NEEDED, "-cgroup", "cpuset.cpus=a"], "-cgroup: cpuset.cpus must be a list as 0-2,5"),
        ([*NEEDED, "-cgroup", "memory.limit_in_bytes=1M"], "must be a number of bytes, not '1M'"),
        ([*NEEDED, "-clean-resource", "now"], "-clean-resource takes no value, not 'now'"),
    ],
)
def test_a_mistake_names_argument_value_and_what_is_allowed(argv: list[str], message: str) -> None:
    with pytest.raises(OzoneError) as caught:
        parse(argv)
    assert message in str(caught.value)


def test_only_static_programs_and_stratovirt_are_taken(tmp_path: Path) -> None:
    source, static, dynamic = tmp_path / "x.c", tmp_path / "static", tmp_path / "dynamic"
    source.write_text("int main(void) { return 0; }")
    subprocess.run(["gcc", "-static", "-o", static, source], check=True)
    subprocess.run(["gcc", "-o", dynamic, source], check=True)
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    os.chmod(script, 0o755)
    assert view_for(str(static)).argv == ["/static"]
    for path in (dynamic, script):
        with pytest.raises(OzoneError, match="must be a statically linked ELF file or stratovirt"):
            view_for(str(path))
    with pytest.raises(OzoneError, match="not executable"):
        view_for(str(source))
    with pytest.raises(OzoneError, match="cannot read: No such file"):
        view_for(str(tmp_path / "none"))


def test_the_jail_shows_packages_that_add_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, group in (("with_device", "stratovirt.devices"), ("without", "console_scripts")):
        (tmp_path / f"{name}.py").write_text("DRIVERS = ()\n")
        facts = tmp_path / f"{name}-1.0.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (facts / "entry_points.txt").write_text(f"[{group}]\nvirtio-x = {name}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    view = view_for(str(Path(sys.executable).with_name("stratovirt")))
    shown = {inside for path, inside in view.shown if path.startswith(str(tmp_path))}
    assert shown == {"/opt/stratovirt/with_device.py", "/opt/stratovirt/with_device-1.0.dist-info"}


def test_the_loader_is_asked_once_for_all_that_ask_for_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = Path(sysconfig.get_path("stdlib")) / "lib-dynload"
    native = Path(stratovirt.__file__).parent / "_native"
    modules = [str(path) for folder in (library, native) for path in folder.glob("*.so")]
    done = subprocess.run(["ldd", *modules], capture_output=True, text=True, check=True)
    taken = set(re.findall(r"^\s+\S+ => (/\S+) \(0x", done.stdout, re.MULTILINE))
    asked: list[list[str]] = []
    run_it = subprocess.run

    def ask(argv: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        asked.append(argv)
        return run_it(argv, **how)

    monkeypatch.setattr("ozone.view.subprocess.run", ask)
    view = view_for(str(Path(sys.executable).with_name("stratovirt")))
    assert taken <= {path for path, _ in view.shown}
    assert len(asked) < len(modules) / 2


def test_what_costs_nothing_is_checked_before_the_program_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("ozone.view.view_for", lambda _path: pytest.fail("too early"))
    assert run([*NEEDED, "-source", "/nonexistent"]) == 1
    assert capsys.readouterr().err == "ozone: -source /nonexistent: there is no such file\n"
