"""Machines made and closed one after the other in one process, and what each leaves behind.

``check`` starts this file as a program, which counts after WARM_UP machines and after MACHINES.
"""

import gc
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from stratovirt.cli import _make_monitor
from stratovirt.config.command_line import parse_command_line
from stratovirt.errors import StratovirtError
from stratovirt.runtime.process import Process
from stratovirt.vm import Vm
from tests.payload import SPIN, write_kernel

MACHINES, WARM_UP = 200, 20
MACHINES_OF_A_PROCESS = 8
PATIENCE_S = 10.0
FAILS = "--fails"

PLAIN_MEMORY = {
    "PYTHONMALLOC": "malloc",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "GLIBC_TUNABLES": "glibc.pthread.stack_cache_size=0",
}
"""Small objects are in the heap alone and an ended thread's stack is unmapped at once, so that a
mapping more is one that a machine has left."""

NEVER = re.compile(r"__\w+__|_abc_\w+")
"""Attributes that Python keeps for itself."""


def options(folder: Path) -> list[str]:
    """A machine with a monitor, a serial port, an iothread and what the disk and source need."""
    (folder / "disk").write_bytes(bytes(1 << 20))
    return [
        "-disable-seccomp", "-m", "256M", "-kernel", str(write_kernel(folder, SPIN)),
        "-object", "iothread,id=io", "-object", "rng-random,id=r,filename=/dev/urandom",
        "-drive", f"id=d,file={folder}/disk,direct=off",
        "-chardev", f"socket,id=s,path={folder}/serial,server,nowait", "-serial", "chardev:s",
        "-chardev", f"socket,id=k,path={folder}/console,server,nowait",
        "-qmp", f"unix:{folder}/qmp,server,nowait", "-D", f"{folder}/log",
    ]  # fmt: skip


BOARDS = {
    "microvm": [
        "-machine", "microvm",
        "-device", "virtio-blk-device,id=b,drive=d,iothread=io",
        "-device", "virtio-rng-device,rng=r", "-device", "virtio-balloon-device,id=balloon",
        "-device", "virtio-serial-device", "-device", "virtconsole,chardev=k",
    ],
    "q35": [
        "-machine", "q35",
        "-device", "pcie-root-port,id=port,bus=pcie.0,addr=0x1,port=0x1",
        "-device", "virtio-blk-pci,id=b,drive=d,iothread=io,bus=pcie.0,addr=0x2",
        "-device", "virtio-rng-pci,rng=r,bus=pcie.0,addr=0x3",
        "-device", "virtio-serial-pci,bus=pcie.0,addr=0x4", "-device", "virtconsole,chardev=k",
    ],
}  # fmt: skip
"""Devices of each board."""

NO_SECOND_DISK = {
    "microvm": ["-device", "virtio-blk-device,id=c,drive=none"],
    "q35": ["-device", "virtio-blk-pci,id=c,drive=none,bus=pcie.0,addr=0x5"],
}
"""A device that cannot be made, after all others."""


def argv_of(board: str, folder: Path, *, fails: bool) -> list[str]:
    """The command line of a machine with devices; if it `fails`, the last cannot be made."""
    argv = [*options(folder), *BOARDS[board]]
    if fails:
        argv += ["-drive", f"id=none,file={folder}/none", *NO_SECOND_DISK[board]]
    return argv


def check(argv: list[str], *, fails: bool) -> None:
    """Make and close the machines of `argv`; all counts are the same after the first few."""
    program = [sys.executable, "-m", "tests.machines_in_turn", *([FAILS] if fails else []), *argv]
    environment = {"PATH": os.environ["PATH"], **PLAIN_MEMORY}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after = map(json.loads, done.stdout.splitlines())
    assert before.keys() == after.keys() and all(before.values())
    left = {kind: _changes(before[kind], after[kind]) for kind in before}
    assert not any(left.values()), left


def _changes(before: dict[str, int], after: dict[str, int]) -> list[str]:
    names = sorted(before.keys() | after.keys())
    return [
        f"{name}: {before.get(name, 0)} -> {after.get(name, 0)}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def _threads() -> Counter[str]:
    """The threads of this process by name, once those that are ending have ended."""
    deadline = time.monotonic() + PATIENCE_S
    while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    names: Counter[str] = Counter()
    for task in os.listdir("/proc/self/task"):
        names[Path(f"/proc/self/task/{task}/comm").read_text(encoding="utf-8").strip()] += 1
    return names


def _descriptors() -> Counter[str]:
    # The listing's own is closed by now.
    links = [Path(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    names = [os.readlink(link) for link in links if link.is_symlink()]
    return Counter(re.sub(r":\[\d+\]", "", name) for name in names)


def _mappings() -> Counter[str]:
    with open("/proc/self/maps", encoding="utf-8") as maps:
        pieces = [line.split(maxsplit=5) for line in maps]
    return Counter(piece[5].strip() if len(piece) > 5 else "anonymous" for piece in pieces)


def _containers() -> Iterator[tuple[str, int]]:
    """The containers in the globals and class attributes of the package, and their lengths."""
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] != "stratovirt":
            continue
        classes = [value for value in vars(module).values() if isinstance(value, type)]
        for owner in (module, *classes):
            for key, value in vars(owner).items():
                if isinstance(value, list | dict | set) and not NEVER.fullmatch(key):
                    yield f"{name}.{getattr(owner, '__qualname__', '')}.{key}", len(value)


def _objects() -> Counter[str]:
    """The objects of the package's classes."""
    kinds = [type(thing) for thing in gc.get_objects()]
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
    return Counter(name for name in names if name.startswith("stratovirt."))


def _open_process(argv: list[str]) -> Process:
    """A Process with log and trace events."""
    process = Process()
    process.open_log(parse_command_line(argv).log_file, to_stderr=False)
    process.tracing.set_state("vm_status", enable=True)
    return process


def _run_one(process: Process, argv: list[str], *, fails: bool) -> None:
    """Make a machine, let it run for a moment and close it."""
    vm = Vm(process, parse_command_line(argv), _make_monitor)
    try:
        vm.build()
        vm.open()
        vm.start()
        vm.loop.call_at(
            time.monotonic_ns() + 1_000_000,
            lambda: vm.request_shutdown(guest=False, reason="host-ui"),
        )
        assert vm.run() == 0
    except StratovirtError as error:
        assert fails, error
    else:
        assert not fails
    finally:
        vm.close()
        process.cleanup.run_all()


def _run_with_client(process: Process, argv: list[str], *, fails: bool) -> None:
    """Run one with a client of the test accelerator, if that is its accelerator."""
    if "-mod-test" not in argv:
        _run_one(process, argv, fails=fails)
        return
    path = argv[argv.index("-mod-test") + 1].removeprefix("unix:")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        _run_one(process, argv, fails=fails)
    os.unlink(path)


def main() -> None:
    """Make and close the machines; print the counts after the first few and after all."""
    fails = sys.argv[1] == FAILS
    argv = sys.argv[2 if fails else 1 :]
    process = _open_process(argv)
    for number in range(1, MACHINES + 1):
        _run_with_client(process, argv, fails=fails)
        if number in (WARM_UP, MACHINES):
            # Threads and descriptors are gone by themselves, objects once their circles are found.
            threads, descriptors = _threads(), _descriptors()
            gc.collect()
            counts = {
                "threads": threads,
                "descriptors": descriptors,
                "mappings": _mappings(),
                "globals": dict(_containers()),
                "objects": _objects(),
            }
            print(json.dumps(counts), flush=True)
        if number % MACHINES_OF_A_PROCESS == 0:
            process.close()
            process = _open_process(argv)


if __name__ == "__main__":
    main()
