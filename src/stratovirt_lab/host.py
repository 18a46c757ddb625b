"""One command, run in the lab: QEMU started, streams relayed, the exit status brought back."""

import contextlib
import os
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import tty
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from stratovirt_lab import images
from stratovirt_lab.architectures import Architecture
from stratovirt_lab.diagnosis import qemus_fault, where_the_cpus_are
from stratovirt_lab.errors import LabError, LabSilentError

SCRATCH_SIZE = "8G"
"""Size of the lab's scratch disk; sparse on the host."""

PASSED_ENVIRONMENT = ("PATH", "HOME", "TERM", "LANG", "VIRTUAL_ENV")
"""Variables of the caller that the command sees, besides all named STRATOVIRT_*."""

MONITOR = "monitor"
"""QEMU's own monitor in the job's folder: the way to look into a lab that does not answer."""

PANIC_LINES = 80
"""How much of the console is shown when the lab's kernel has panicked."""

LAST_LINES = 10
"""How much of each log is shown when the lab has ended without saying why."""

CHUNK = 65536


def run(
    argv: Sequence[str],
    *,
    architecture: Architecture,
    cpus: int = 2,
    memory_mib: int = 4096,
    writable: Sequence[Path] = (),
    environment: dict[str, str] | None = None,
    silence: float | None = None,
) -> int:
    """Run `argv` in a fresh lab and return its exit status.

    The lab sees this machine's root file system read-only (changes go to memory) except for the
    folders in `writable`.  A scratch ext4 disk is at ``/scratch``.  When standard input and
    output are terminals, the command gets one of its own.  A lab that says nothing for `silence`
    seconds is given up.  Raises LabError when the lab itself fails.
    """
    kernel, initramfs = images.lab_host(architecture)
    interactive = os.isatty(0) and os.isatty(1)
    with tempfile.TemporaryDirectory(prefix="stratovirt-lab-") as folder:
        job = Path(folder)
        (job / "run.sh").write_text(_script(argv, environment or {}))
        (job / "hold.sh").write_text(_script([sys.executable, "-m", architecture.hold_kvm], {}))
        if interactive:
            size = os.get_terminal_size()
            (job / "tty").write_text(f"rows {size.lines} cols {size.columns}")
        images.scratch_disk(job / "scratch.img", SCRATCH_SIZE)
        qemu = architecture.emulator()
        command = [qemu.program, *architecture.machine]
        command += _qemu_options(architecture, kernel, initramfs, job, cpus, memory_mib, writable)
        names = ("tty", "status") if interactive else ("in", "out", "err", "status")
        return _relay(architecture, command, qemu.environment, names, job, interactive, silence)


def _script(argv: Sequence[str], extra: dict[str, str]) -> str:
    kept = {name: os.environ[name] for name in PASSED_ENVIRONMENT if name in os.environ}
    kept |= {name: value for name, value in os.environ.items() if name.startswith("STRATOVIRT_")}
    kept |= {"TMPDIR": "/scratch", "STRATOVIRT_IN_LAB": "1"} | extra
    lines = [f"export {name}={shlex.quote(value)}" for name, value in kept.items()]
    lines += [f"cd {shlex.quote(os.getcwd())} || exit 126", f"exec {shlex.join(argv)}"]
    return "\n".join(lines) + "\n"


def _qemu_options(
    architecture: Architecture,
    kernel: Path,
    initramfs: Path,
    job: Path,
    cpus: int,
    memory_mib: int,
    writable: Sequence[Path],
) -> list[str]:
    append = f"console={architecture.console} {architecture.host_words} quiet panic=-1 nokaslr"
    append += f" mitigations=off lab.job={job}"
    options = [
        *_two_cards(),
        "-accel",
        "tcg,thread=multi",
        "-smp",
        str(cpus),
        "-m",
        f"{memory_mib}M",
        *_two_nodes(cpus, memory_mib),
        "-nodefaults",
        "-no-reboot",
        "-display",
        "none",
        "-chardev",
        f"file,id=console,path={job}/console.log",
        "-serial",
        "chardev:console",
        "-monitor",
        f"unix:{job}/{MONITOR},server,nowait",
        "-kernel",
        str(kernel),
        "-initrd",
        str(initramfs),
        "-fsdev",
        "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap",
        "-device",
        "virtio-9p-pci,fsdev=root,mount_tag=hostroot",
        "-drive",
        f"file={job}/scratch.img,if=none,id=scratch,format=raw,cache=unsafe",
        "-device",
        "virtio-blk-pci,drive=scratch",
        "-device",
        "virtio-serial-pci",
    ]
    for index, path in enumerate(writable):
        options += [
            "-fsdev",
            f"local,id=rw{index},path={path},security_model=none,multidevs=remap",
            "-device",
            f"virtio-9p-pci,fsdev=rw{index},mount_tag=rw{index}",
        ]
        append += f" lab.rw={path}"
    return [*options, "-append", append]


def _two_cards() -> list[str]:
    """Network cards on one cable, behind an IOMMU: one may be given to a guest (VFIO)."""
    options: list[str] = []
    for number in range(2):
        options += [
            "-netdev", f"hubport,id=card{number},hubid=0",
            "-device", f"virtio-net-pci,netdev=card{number},mac=52:54:00:0c:a8:d{number},"
            "disable-legacy=on,iommu_platform=on,ats=on,romfile=",
        ]  # fmt: skip
    return options


def _two_nodes(cpus: int, memory_mib: int) -> list[str]:
    """NUMA nodes of the lab's host, where guests' memory can be bound to."""
    half, options = cpus // 2, []
    for node, (first, last) in enumerate(((0, half - 1), (half, cpus - 1)) if half else ()):
        options += [
            "-object", f"memory-backend-ram,id=m{node},size={memory_mib // 2}M",
            "-numa", f"node,nodeid={node},memdev=m{node},cpus={first}-{last}",
        ]  # fmt: skip
    return options


def _relay(
    architecture: Architecture,
    command: list[str],
    environment: Mapping[str, str],
    names: Sequence[str],
    job: Path,
    interactive: bool,
    silence: float | None,
) -> int:
    ours: dict[str, socket.socket] = {}
    theirs: list[socket.socket] = []
    for name in names:
        near, far = socket.socketpair()
        ours[name] = near
        theirs.append(far)
        command += ["-chardev", f"socket,id={name},fd={far.fileno()}"]
        if name == "tty":
            command += ["-device", "virtconsole,chardev=tty"]
        else:
            command += ["-device", f"virtserialport,chardev={name},name=lab.{name}"]
    qemu_log = job / "qemu.log"
    with qemu_log.open("wb") as log:
        process = subprocess.Popen(
            command,
            pass_fds=[far.fileno() for far in theirs],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, **environment},
        )
    for far in theirs:
        far.close()
    status = b""
    try:
        with _raw_terminal(interactive), _signals_end(process, job, architecture):
            status = _pump(ours, silence)
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        pass
    except LabSilentError:
        print(where_the_cpus_are(job / MONITOR, architecture), file=sys.stderr)
        if fault := qemus_fault(job, architecture):
            raise LabError(f"QEMU's fault: {fault}") from None
        raise
    finally:
        process.kill()
        process.wait()
        for near in ours.values():
            near.close()
    text = status.decode(errors="replace").strip()
    if not text.isdigit():
        if fault := qemus_fault(job, architecture):
            raise LabError(f"QEMU's fault: {fault}")
        raise LabError(f"the lab ended before its command did: {_last_words(job)}")
    return int(text)


def _last_words(job: Path) -> str:
    found: list[str] = []
    for name in ("qemu.log", "console.log"):
        path = job / name
        lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
        if any("Kernel panic" in line for line in lines):
            return "\n".join(["its kernel panicked", *lines[-PANIC_LINES:]])
        found += [f"{name}: {line}" for line in lines[-LAST_LINES:]]
    return "\n".join(found) or "nothing on its console"


def _pump(ours: dict[str, socket.socket], silence: float | None) -> bytes:
    """Move bytes between this process's streams and the lab's until the status has come.

    Raises LabSilentError when nothing moves for `silence` seconds.
    """
    sinks = {"out": 1, "err": 2, "tty": 1}
    status = b""
    writer = ours.get("in") or ours["tty"]
    with selectors.DefaultSelector() as selector:
        for name, near in ours.items():
            if name != "in":
                selector.register(near, selectors.EVENT_READ, name)
        with contextlib.suppress(PermissionError):
            # A regular file or /dev/null as standard input cannot be polled: see below.
            selector.register(0, selectors.EVENT_READ, "stdin")
        if 0 not in selector.get_map():
            _send_all_of_stdin(writer, "in" in ours)
        open_ports = {name for name in ours if name != "in"}
        while open_ports:
            ready = selector.select(silence)
            if not ready:
                raise LabSilentError(f"the lab said nothing for {silence:g} s")
            for key, _ in ready:
                if key.data == "stdin":
                    data = os.read(0, CHUNK)
                    if data:
                        with contextlib.suppress(BrokenPipeError):
                            writer.sendall(data)
                    else:
                        selector.unregister(0)
                        if "in" in ours:
                            _end_of_input(writer)
                    continue
                data = ours[key.data].recv(CHUNK)
                if not data:
                    selector.unregister(key.fileobj)
                    open_ports.discard(key.data)
                elif key.data == "status":
                    status += data
                else:
                    _write_all(sinks[key.data], data)
    return status


def _send_all_of_stdin(writer: socket.socket, close: bool) -> None:
    while data := os.read(0, CHUNK):
        writer.sendall(data)
    if close:
        _end_of_input(writer)


def _end_of_input(writer: socket.socket) -> None:
    # A half-close: QEMU treats a full close as a hang-up and drops what it has not read yet.
    writer.shutdown(socket.SHUT_WR)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


@contextlib.contextmanager
def _raw_terminal(interactive: bool) -> Iterator[None]:
    if not interactive:
        yield
        return
    saved = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)


@contextlib.contextmanager
def _signals_end(
    process: subprocess.Popen[bytes], job: Path, architecture: Architecture
) -> Iterator[None]:
    """SIGTERM, SIGHUP and SIGINT end the lab instead of leaving QEMU behind."""

    def end(number: int, _frame: object) -> None:
        print(where_the_cpus_are(job / MONITOR, architecture), file=sys.stderr)
        process.kill()
        raise LabError(f"interrupted by {signal.Signals(number).name}")

    before = {
        number: signal.signal(number, end)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
