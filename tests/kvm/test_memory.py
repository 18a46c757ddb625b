"""Guest RAM as the host has it: anonymous, shared, in files, in nodes, allocated early or late."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.machine_process import COMMAND, PATIENCE, MachineProcess, QmpClient, run_to_end
from tests.payload import SPIN, say, write_kernel

MIB = 1 << 20


def start(tmp_path: Path, *argv: str, **options: dict[str, str]) -> MachineProcess:
    kernel = write_kernel(tmp_path, say("on\n") + SPIN)
    return MachineProcess("-kernel", str(kernel), "-serial", "stdio", *argv, **options)  # type: ignore[arg-type]


def mapping_of_ram(pid: int, name: str, mib: int = 256) -> tuple[str, str]:
    """The text and the VmFlags of the mapping that holds guest RAM, so large and called `name`."""
    text = Path(f"/proc/{pid}/smaps").read_text()
    for block in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", text):
        line = block.partition("\n")[0]
        bounds = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if bounds is None:
            continue
        if int(bounds[2], 16) - int(bounds[1], 16) == mib * MIB and name in line:
            return block, re.findall(r"VmFlags: (.*)", block)[0]
    raise AssertionError(f"no mapping of {mib} MiB called {name!r}")


@pytest.mark.measures_memory
def test_memory_is_anonymous_and_dumped_unless_said_otherwise(tmp_path: Path) -> None:
    with start(tmp_path) as machine:
        machine.expect("on")
        block, flags = mapping_of_ram(machine.process.pid, "")
        assert " rw-p " in block and " dd" not in flags


def test_shared_memory_is_a_memfd_that_others_could_map(tmp_path: Path) -> None:
    with start(tmp_path, "-machine", "microvm,mem-share=on") as machine:
        machine.expect("on")
        block, _ = mapping_of_ram(machine.process.pid, "memfd:stratovirt-ram")
        assert " rw-s " in block


def test_memory_can_be_kept_out_of_core_dumps(tmp_path: Path) -> None:
    with start(tmp_path, "-machine", "microvm,dump-guest-core=off") as machine:
        machine.expect("on")
        assert " dd" in mapping_of_ram(machine.process.pid, "")[1]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_memory_lies_in_the_backing_file(tmp_path: Path, kind: str) -> None:
    backing = tmp_path / "backing"
    if kind == "folder":
        backing.mkdir()
    with start(tmp_path, "-machine", "microvm,mem-share=on", "-mem-path", str(backing)) as machine:
        machine.expect("on")
        block, _ = mapping_of_ram(machine.process.pid, str(backing))
        assert " rw-s " in block
        if kind == "file":
            content = backing.read_bytes()
            assert len(content) == 256 * MIB and say("on\n") in content
        else:
            assert list(backing.iterdir()) == []


def test_a_backing_file_that_cannot_be_is_a_mistake(tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path, SPIN)
    done = run_to_end("-kernel", str(kernel), "-mem-path", "/nonexistent/file")
    assert done.returncode == 1
    assert done.stderr == (
        "stratovirt: -mem-path /nonexistent/file: cannot map 256M: No such file or directory\n"
    )


@pytest.mark.parametrize("option", ["-mem-path", "memory-backend-file"])
def test_a_file_that_holds_something_else_is_not_overwritten(tmp_path: Path, option: str) -> None:
    kernel = write_kernel(tmp_path, SPIN)
    backing = tmp_path / "backing"
    if option == "-mem-path":
        argv = ["-mem-path", str(backing)]
        source = f"-mem-path {backing}"
    else:
        argv = ["-object", f"memory-backend-file,id=m,size=256M,mem-path={backing}",
                "-numa", "node,cpus=0,memdev=m"]  # fmt: skip
        source = f"-object memory-backend-file,id=m,mem-path={backing}"
    backing.write_bytes(b"a letter")
    done = run_to_end("-kernel", str(kernel), "-machine", "microvm,mem-share=on", *argv)
    assert done.stderr == (
        f"stratovirt: {source}: the file has 8 bytes and is not overwritten; "
        f"it must be empty, absent or of {256 * MIB} bytes\n"
    )
    assert backing.read_bytes() == b"a letter"
    for size in (0, 256 * MIB):
        backing.write_bytes(b"")
        os.truncate(backing, size)
        with start(tmp_path, *argv) as machine:
            machine.expect("on")
            second = run_to_end("-kernel", str(kernel), *argv)
            assert second.stderr == (
                f"stratovirt: {source}: the file is in use as memory or as an image\n"
            )


def test_one_file_cannot_be_memory_and_a_disk(tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path, SPIN)
    both, link = tmp_path / "both", tmp_path / "link"
    both.touch()
    os.truncate(both, 256 * MIB)
    link.symlink_to(both)
    done = run_to_end(
        "-kernel", str(kernel), "-mem-path", str(both),
        "-drive", f"id=d,file={link},direct=off", "-device", "virtio-blk-device,drive=d",
    )  # fmt: skip
    assert done.stderr == (
        f"stratovirt: -mem-path {both}: -drive id=d has the same file; "
        "it cannot be memory and disk\n"
    )


def test_memory_is_never_a_device(tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path, SPIN)
    done = run_to_end("-kernel", str(kernel), "-mem-path", "/dev/null")
    assert done.stderr == ("stratovirt: -mem-path /dev/null: neither a regular file nor a folder\n")


@pytest.mark.measures_memory
def test_address_space_that_does_not_suffice_is_one_line(tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path, SPIN)
    done = subprocess.run(
        ["prlimit", f"--as={1 << 30}", *COMMAND, "-m", "2G", "-kernel", str(kernel)],
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        "stratovirt: -m 2G: cannot reserve so much address space: Cannot allocate memory; "
        "see ulimit -v\n"
    )


@pytest.mark.measures_memory
def test_preallocated_memory_is_resident_before_the_guest_runs(tmp_path: Path) -> None:
    with start(tmp_path, "-mem-prealloc") as machine:
        machine.expect("on")
        block, _ = mapping_of_ram(machine.process.pid, "")
        assert int(re.findall(r"Rss:\s+(\d+) kB", block)[0]) == 256 << 10
    with start(tmp_path) as machine:
        machine.expect("on")
        block, _ = mapping_of_ram(machine.process.pid, "")
        assert int(re.findall(r"Rss:\s+(\d+) kB", block)[0]) < 64 << 10


def test_more_than_the_host_has_available_is_refused_at_once(tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path, SPIN)
    done = run_to_end("-kernel", str(kernel), "-m", "512G", "-mem-prealloc")
    assert done.returncode == 1
    assert re.fullmatch(
        r"stratovirt: -m 512G: cannot allocate 512G at once: the host has \d+M available\n",
        done.stderr,
    )


def test_progress_of_early_allocation_is_logged(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with start(
        tmp_path, "-m", "1G", "-mem-prealloc", "-D", str(log),
        env={"STRATOVIRT_LOG_LEVEL": "info"},
    ) as machine:  # fmt: skip
        machine.expect("on")
    assert re.search(r"-m 1G: 1G allocated by \d+ threads in \d+\.\d s", log.read_text())


def test_a_nodes_memory_is_mapped_as_its_backend_says(tmp_path: Path) -> None:
    path, backing = tmp_path / "qmp", tmp_path / "backing"
    argv = ["-m", "800M", "-smp", "4", "-qmp", f"unix:{path},server,nowait"]
    for number, (kind, size, more) in enumerate(
        (
            ("ram", 320, ",dump=off"), ("memfd", 192, ",share=on"),
            ("file", 160, f",mem-path={backing},share=on,prealloc=on"), ("memfd", 128, ""),
        )
    ):  # fmt: skip
        argv += ["-object", f"memory-backend-{kind},id=m{number},size={size}M{more}"]
        argv += ["-numa", f"node,cpus={number},memdev=m{number}"]
    with start(tmp_path, *argv) as machine, QmpClient(path) as client:
        machine.expect("on")
        pid = machine.process.pid
        block, flags = mapping_of_ram(pid, "", 320)
        assert " rw-p " in block and " dd" in flags
        block, flags = mapping_of_ram(pid, "memfd:stratovirt-ram", 192)
        assert " rw-s " in block and " dd" not in flags
        block, _ = mapping_of_ram(pid, str(backing), 160)
        assert " rw-s " in block
        assert " rw-p " in mapping_of_ram(pid, "memfd:stratovirt-ram", 128)[0]
        assert backing.stat().st_blocks * 512 >= 160 * MIB
        listed = client.cmd("query-mem")
        assert [(entry["gpa"], entry["size"], entry["node"]) for entry in listed] == [
            (0, 320 * MIB, 0), (320 * MIB, 192 * MIB, 1), (512 * MIB, 160 * MIB, 2),
            (672 * MIB, 128 * MIB, 3),
        ]  # fmt: skip
