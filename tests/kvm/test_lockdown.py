"""A process that a guest has taken over: what it can still do."""

import errno
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import stratovirt
from stratovirt.architectures import BoardRow, load, of_this_host
from stratovirt.block.image_files import ImageRequest
from stratovirt.host.request import Request
from stratovirt.lockdown.calls import Calls
from stratovirt.net.tap_queues import TapRequest
from stratovirt.net.vhost_net import VhostNetRequest
from stratovirt.runtime.sockets import TcpRequest, UnixRequest
from stratovirt.snapshot.files import SnapshotRequest
from stratovirt.vfio.host import VfioRequest
from tests.machine_process import MachineProcess, QmpClient, wait_listening, wait_until
from tests.payload import POWER_OFF, SPIN, say, write_kernel
from tests.taken_over import ATTACK, PATIENCE

pytestmark = pytest.mark.needs_filter

MOST_CALLS = {"microvm": 47, "q35": 53}
"""The guidebook, chapter 4."""

NUMBERS = {
    name: int(number)
    for name, number in re.findall(
        r"#define __NR_(\w+) (\d+)",
        Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h").read_text(),
    )
}

PATH = 'b"/etc/passwd"'
FORBIDDEN = {
    "open": f"{PATH}, 0", "openat": f"-100, {PATH}, 0", "openat2": f"-100, {PATH}, None, 24",
    "creat": 'b"/tmp/x", 0', "name_to_handle_at": f"-100, {PATH}, None, None, 0",
    "stat": f"{PATH}, None", "unlink": PATH, "rename": f"{PATH}, {PATH}", "chmod": f"{PATH}, 0",
    "mkdir": PATH, "symlink": f"{PATH}, {PATH}", "mount": "None, None, None, 0, None",
    "chroot": PATH, "fork": "", "vfork": "", "clone": "17, None, None, None, None",
    "execve": f"{PATH}, None, None", "execveat": f"-100, {PATH}, None, None, 0",
    "socket": "1, 1, 0", "socketpair": "1, 1, 0, None", "connect": "0, None, 0",
    "bind": "0, None, 0", "ptrace": "16, 1, None, None",
    "process_vm_readv": "1, None, 0, None, 0, 0", "process_vm_writev": "1, None, 0, None, 0, 0",
    "pidfd_open": "1, 0", "kill": "1, 0", "tgkill": "1, 1, 0", "setuid": "0",
    "unshare": "0x10000000", "setns": "0, 0", "bpf": "0, None, 0", "keyctl": "0, 0",
    "perf_event_open": "None, 0, 0, 0, 0", "userfaultfd": "0", "io_uring_setup": "1, None",
    "io_uring_register": "0, 0, None, 0", "memfd_create": 'b"x", 0', "seccomp": "0, 0, None",
    "prctl": "22, 1", "personality": "0", "mmap": "None, 4096, 5, 0x22, -1, 0",
    "mprotect": "None, 4096, 5", "rt_sigaction": "31, None, None, 8",
    "ioctl": "0, 0x5412, None", "init_module": "None, 0, None", "reboot": "0, 0, 0, None",
}  # fmt: skip
"""Calls with their arguments; ioctl is TIOCSTI, mmap and mprotect ask for memory to execute."""


def start_attack(tmp_path: Path, code: str, *argv: str) -> subprocess.Popen[str]:
    """A machine whose guest takes it over when it runs."""
    kernel = write_kernel(tmp_path, say("x") + POWER_OFF + SPIN)
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.taken_over",
            "-kernel",
            str(kernel),
            "-serial",
            "stdio",
            *argv,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin", ATTACK: code, PATIENCE: "1"},
    )


def end_of(machine: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """What it said, when it has ended."""
    out, err = machine.communicate(timeout=60)
    return subprocess.CompletedProcess(machine.args, machine.returncode, out, err)


def attack(tmp_path: Path, code: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a machine whose guest has taken it over to its end."""
    return end_of(start_attack(tmp_path, code, *argv))


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_call_that_is_not_on_the_list_ends_the_process_and_is_named(
    tmp_path: Path, name: str
) -> None:
    arguments = ", ".join(filter(None, [str(NUMBERS[name]), FORBIDDEN[name]]))
    done = attack(tmp_path, f"libc.syscall({arguments}); os.write(1, b'it lives')")
    assert done.returncode == -signal.SIGSYS, done
    assert done.stdout == ""
    assert done.stderr == (
        f"stratovirt: seccomp: the system call {name} ({NUMBERS[name]}) is not allowed here\n"
    )


def test_the_handler_that_names_refused_calls_cannot_be_replaced(tmp_path: Path) -> None:
    """The kernel takes an int: what stands in the upper half of the register is nothing to it."""
    ignore = "ctypes.create_string_buffer((1).to_bytes(8, 'little'), 32)"
    done = attack(
        tmp_path,
        f"libc.syscall({NUMBERS['rt_sigaction']}, ctypes.c_long(1 << 32 | 31), {ignore}, None, "
        "ctypes.c_long(8)); os.write(1, b'it lives')",
    )
    assert (done.returncode, done.stdout) == (-signal.SIGSYS, ""), done
    assert "the system call rt_sigaction (13) is not allowed here" in done.stderr


PUNCH = f"libc.syscall({NUMBERS['fallocate']}, ctypes.c_long({{fd}}), 3, 0, ctypes.c_long(4096))"


@pytest.mark.parametrize("high", [0, 1 << 32])
@pytest.mark.parametrize("what", ["log", "chardev", "stdout"])
def test_nothing_can_be_punched_out_of_what_is_written_for_the_user(
    tmp_path: Path, what: str, high: int
) -> None:
    log, console = tmp_path / "log", tmp_path / "console"
    log.write_text("evidence\n")
    fd = {
        "log": "__import__('stratovirt.runtime.log').runtime.log.descriptor()",
        "chardev": "vm.machine.inventory.chardevs.opened[1]._file",
        "stdout": "1",
    }[what]
    code = PUNCH.format(fd=f"{fd} | {high}")
    done = attack(
        tmp_path, code, "-D", str(log), "-chardev", f"file,id=c,path={console}",
        "-device", "virtio-serial-device", "-device", "virtconsole,chardev=c,id=console",
    )  # fmt: skip
    assert done.returncode == -signal.SIGSYS, done
    assert "the system call fallocate (285) is not allowed here" in done.stderr
    assert log.read_text().startswith("evidence\n")


def test_what_a_guest_discards_of_its_disk_is_punched_out_as_ever(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"x" * (1 << 20))
    code = (
        "fd = vm.machine.board.devices[0].image._files.fd\n"
        f"os.write(1, str({PUNCH.format(fd='fd')}).encode())"
    )
    done = attack(
        tmp_path, code, "-drive", f"id=d,file={disk},direct=off",
        "-device", "virtio-blk-device,drive=d,id=d",
    )  # fmt: skip
    assert done.stdout == "0x", done
    assert disk.read_bytes() == bytes(4096) + b"x" * ((1 << 20) - 4096)


def test_the_page_map_shows_no_frames(tmp_path: Path) -> None:
    """An administrator who opens it sees where in the host each page of the machine lies."""
    code = (
        "import struct\n"
        "page = ctypes.create_string_buffer(b'here', 4096)\n"
        "at = ctypes.addressof(page) // 4096 * 8\n"
        "entry = ctypes.create_string_buffer(8)\n"
        "for fd in range(3, 64):\n"
        f"    n = libc.syscall({NUMBERS['pread64']}, fd, entry, 8, ctypes.c_long(at))\n"
        "    value = int.from_bytes(entry.raw, 'little')\n"
        "    if n == 8 and value >> 63: os.write(1, b'frame %#x;' % (value & (1 << 55) - 1))"
    )
    done = attack(tmp_path, code, "-qmp", f"unix:{tmp_path}/qmp,server,nowait")
    assert done.stdout == "frame 0x0;x", done


def test_without_the_filter_the_same_attack_works(tmp_path: Path) -> None:
    code = f"os.write(1, os.read(libc.syscall({NUMBERS['openat']}, -100, {PATH}, 0), 5))"
    done = attack(tmp_path, code, "-disable-seccomp")
    assert (done.returncode, done.stdout, done.stderr) == (0, "root:x", "")


def test_the_call_for_threads_that_no_filter_can_read_does_not_exist(tmp_path: Path) -> None:
    code = (
        f"r = libc.syscall({NUMBERS['clone3']}, None, 0); "
        "os.write(1, f'{r} {ctypes.get_errno()} '.encode())"
    )
    assert attack(tmp_path, code).stdout == f"-1 {errno.ENOSYS} x"


def test_threads_work_on(tmp_path: Path) -> None:
    code = (
        "import _thread\n"
        "lock = _thread.allocate_lock(); lock.acquire()\n"
        "_thread.start_new_thread(lambda: (os.write(1, b'thread '), lock.release()), ())\n"
        "lock.acquire()"
    )
    assert attack(tmp_path, code).stdout == "thread x"


@pytest.mark.parametrize("board", of_this_host().boards.values(), ids=lambda board: board.name)
def test_there_are_no_more_calls_than_the_guidebook_has(board: BoardRow) -> None:
    calls: Calls = load(of_this_host().calls)
    assert len(calls.of(board, "kvm", ())) <= MOST_CALLS[board.name]


REQUESTS: dict[str, Request[Any]] = {
    request.kind: request
    for request in (
        TapRequest(name="tap0", queues=1, source="x"),
        VhostNetRequest(),
        VfioRequest(host="0000:00:00.0", source="x"),
        UnixRequest(path="/run/x"),
        TcpRequest(host="localhost", port=80),
        SnapshotRequest(place="/tmp/x", memory_bytes=4096),
    )
}


def image(path: Path, *, readonly: bool = True) -> Request[Any]:
    return ImageRequest(path=str(path), readonly=readonly, direct=False, source="x")


def ask(request: Request[Any]) -> str:
    """Code that asks the broker for a request and says what came of it."""
    kind = request.kind
    return (
        f"try: answer = vm._broker.ask('open', kind='{kind}', fields={request.fields})[0]\n"
        "except Exception as error: os.write(1, f'{error}; '.encode())\n"
        "else: os.write(1, "
        f"b'nobody has named it; ' if answer == {{'unnamed': True}} else b'{kind} opened; ')\n"
    )


@pytest.mark.parametrize("kind", ["image", *REQUESTS, "nothing"])
def test_the_broker_opens_nothing_that_no_client_has_named(tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(512))
    code = ask(REQUESTS.get(kind, image(secret))).replace("kind='image'", f"kind='{kind}'")
    done = attack(tmp_path, code, "-qmp", f"unix:{tmp_path}/qmp,server,nowait")
    assert done.stdout == "nobody has named it; x", done


def test_a_request_that_no_client_has_named_is_refused_by_its_name(tmp_path: Path) -> None:
    code = (
        "from stratovirt.runtime.sockets import UnixRequest\n"
        "try: vm.access.open(UnixRequest(path='/run/x'))\n"
        "except Exception as error: os.write(1, f'{error}; '.encode())\n"
    )
    done = attack(tmp_path, code, "-qmp", f"unix:{tmp_path}/qmp,server,nowait")
    assert done.stdout == "/run/x: no client of a monitor has named it; x", done


def test_what_a_client_named_is_over_when_it_was_answered(tmp_path: Path) -> None:
    """Refused for what they say, refused for what there is, and done: nothing is left of them."""
    (tmp_path / "secret").write_bytes(bytes(512))
    code = "".join(ask(request) for request in (image(tmp_path / "secret"), *REQUESTS.values()))
    machine = start_attack(tmp_path, code, "-qmp", f"unix:{tmp_path}/qmp,server,nowait", "-S")
    node = {"node-name": "n", "read-only": True, "file": {"filename": f"{tmp_path}/secret"}}
    address = {"type": "unix", "data": {"path": "/run/x"}}
    backend = {"type": "socket", "data": {"addr": address, "server": False}}
    refused: list[tuple[str, dict[str, object]]] = [
        ("blockdev-add", {**node, "cache": {"direct": False}}),
        ("migrate", {"uri": "exec:/tmp/x"}),
        ("netdev_add", {}),
        ("netdev_add", {"type": "tap", "id": "t", "ifname": "tap0", "vhost": True}),
        ("device_add", {"driver": "vfio-pci", "id": "v", "bus": "b", "host": "0000:00:00.0"}),
        ("chardev-add", {"id": "c", "backend": backend}),
    ]
    with QmpClient(tmp_path / "qmp") as client:
        client.cmd("blockdev-add", **{**node, "cache": {"direct": False}})
        client.cmd("chardev-add", id="c", backend=backend)
        for command, arguments in refused:
            with pytest.raises(Exception, match=r"."):
                client.cmd(command, **arguments)
        client.cmd("chardev-remove", id="c")
        client.cmd("cont")
        done = end_of(machine)
    assert done.stdout == "nobody has named it; " * (1 + len(REQUESTS)) + "x", done


def test_what_was_named_read_only_is_not_opened_for_writing(tmp_path: Path) -> None:
    """At the very moment when the client asks for it."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096))
    code = (
        "import select\n"
        "os.write(1, b'here; ')\n"
        "for _ in range(3000):\n"
        f"    if vm._broker.ask('open', kind='image', fields={image(disk).fields})[1]: break\n"
        "    select.poll().poll(10)\n"
        "os.write(1, b'the first; ')\n"
        + ask(image(disk, readonly=False))
        + ask(image(disk))
        + ask(image(disk))
    )
    machine = start_attack(tmp_path, code, "-qmp", f"unix:{tmp_path}/qmp,server,nowait")
    # From then on the machine's own loop waits for the attacker, who has its lock.
    assert machine.stdout is not None and machine.stdout.read(6) == "here; "
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "qmp"))
        node = {"read-only": True, "file": {"filename": str(disk)}, "cache": {"direct": False}}
        requests = [
            json.dumps({"execute": "blockdev-add", "arguments": {"node-name": name, **node}})
            for name in ("a", "b")
        ]
        # In one piece, so that the broker has seen both when it has seen one.
        client.send("".join(requests).encode())
        done = end_of(machine)
    nobody = "nobody has named it; "
    assert done.stdout == f"the first; {nobody}image opened; {nobody}x", done


def test_a_command_written_with_escapes_is_the_same_to_machine_and_broker(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(4096))
    kernel = write_kernel(tmp_path, say("on\n") + SPIN)
    with MachineProcess(
        "-kernel", str(kernel), "-serial", "stdio", "-qmp", f"unix:{tmp_path}/qmp,server,nowait"
    ) as machine:
        machine.expect("on")
        wait_listening(tmp_path / "qmp")
        with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as answers:
            client.connect(str(tmp_path / "qmp"))
            client.send(
                rb'{"\u0065xecute": "\u0062lockdev-add", "arguments": {"node-name": "n", "file": '
                + json.dumps({"filename": f"{tmp_path}/disk"}).replace("/", r"\/").encode()
                + b', "cache": {"direct": false}}}'
            )
            assert b"QMP" in answers.readline()
            assert json.loads(answers.readline()) == {"return": {}}
        assert machine.terminate() == 0


def test_whatever_of_the_package_is_imported_late_can_be_had(tmp_path: Path) -> None:
    root = Path(stratovirt.__file__).parent
    names = [
        ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted(root.rglob("*.py"))
        # Terminals are only taken over when a machine starts.
        if path.stem not in ("__main__", "pty", "terminal")
    ]
    code = (
        f"for name in {names}:\n"
        "    try: __import__(name)\n"
        "    except ImportError as error: os.write(1, f'{error}; '.encode())\n"
        "vm.request_shutdown(guest=False, reason='host-qmp-quit')"
    )
    done = attack(
        tmp_path, code, "-machine", "q35", "-qmp", f"unix:{tmp_path}/qmp,server,nowait",
        "-device", "pcie-root-port,port=0x1,addr=0x1,bus=pcie.0,id=port1",
    )  # fmt: skip
    assert done.stdout == "x", done


@pytest.mark.parametrize("name", ["os.path.x", "pytest", "tests.payload", "_ssl"])
def test_no_other_modules_can_be_had(tmp_path: Path, name: str) -> None:
    code = (
        f"try: __import__('{name}'); os.write(1, b'loaded')\n"
        "except ImportError as error: os.write(1, str(error).encode())"
    )
    done = attack(tmp_path, code, "-qmp", f"unix:{tmp_path}/qmp,server,nowait")
    assert done.stdout.startswith(("No module named", f"{name} is no Python module")), done


def test_the_broker_survives_nonsense_and_is_sealed_once(tmp_path: Path) -> None:
    code = (
        "import socket\n"
        "for question in ('seal', 'nonsense', 'open', '', 'monitors', 'serve', 'module'):\n"
        "    try: vm._broker.ask(question, name=7, removals=[['/etc/passwd', 1, 1]])\n"
        "    except Exception as error: os.write(1, b'no ')\n"
        "line = vm._broker._questions\n"
        "for nonsense in (b'no json', b'[]', b'[' * 60000, b'x' * 100000):\n"
        "    socket.send_fds(line, [nonsense], [0, 1, 2])\n"
        "    os.write(1, b'no ' if b'no message' in line.recvmsg(1000)[0] else b'?')\n"
        "for fields in (None, [], 'x'):\n"
        "    try: vm._broker.ask('open', kind='image', fields=fields)\n"
        "    except Exception as error: os.write(1, b'no ')\n"
        "vm._broker.ask('commit'); os.write(1, b'alive ')\n"
    )
    done = attack(tmp_path, code, "-qmp", f"unix:{tmp_path}/qmp,server,nowait")
    assert done.stdout == 14 * "no " + "alive x", done
    assert not (tmp_path / "qmp").exists()


LIVE_ON = "import select\nos.write(1, b'lives on;')\nselect.poll().poll(60_000)\n"


def test_a_machine_that_takes_its_leave_must_end(tmp_path: Path) -> None:
    """Nothing runs without the socket and the pidfile by which its manager finds it."""
    started = time.monotonic()
    done = attack(
        tmp_path, f"vm._broker.ask('leave')\n{LIVE_ON}",
        "-qmp", f"unix:{tmp_path}/qmp,server,nowait", "-pidfile", f"{tmp_path}/pid",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "lives on;"), done
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("line", ["questions", "news"])
def test_what_leads_to_a_machine_stays_while_it_runs_on_without_its_broker(
    tmp_path: Path, line: str
) -> None:
    machine = start_attack(
        tmp_path, f"os.close(vm._broker._{line}.fileno())\n{LIVE_ON}",
        "-qmp", f"unix:{tmp_path}/qmp,server,nowait", "-pidfile", f"{tmp_path}/pid",
    )  # fmt: skip
    assert machine.stdout is not None
    assert machine.stdout.read(9) == "lives on;"
    time.sleep(1.5)
    assert machine.poll() is None
    assert {entry.name for entry in tmp_path.iterdir()} == {"payload.elf", "pid", "qmp"}
    machine.kill()
    machine.wait()
    wait_until(
        lambda: [entry.name for entry in tmp_path.iterdir()] == ["payload.elf"],
        "the broker clears away",
    )


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[MachineProcess, Path]]:
    """A machine that waits for commands, and its monitor."""
    path = tmp_path / "qmp"
    kernel = write_kernel(tmp_path, say("on\n") + SPIN)
    with MachineProcess(
        "-kernel", str(kernel), "-serial", f"socket,path={tmp_path}/tty,server,nowait",
        "-pidfile", f"{tmp_path}/pid", "-qmp", f"unix:{path},server,nowait",
    ) as machine:  # fmt: skip
        yield machine, path


def test_a_killed_machine_leaves_no_sockets_and_no_pidfile(
    running: tuple[MachineProcess, Path],
) -> None:
    machine, path = running
    with QmpClient(path) as client:
        client.cmd("query-status")
        machine.process.kill()
        machine.process.wait()
    wait_until(
        lambda: [entry.name for entry in path.parent.iterdir()] == ["payload.elf"],
        "the broker clears away",
    )


def test_what_a_client_names_can_be_opened(
    running: tuple[MachineProcess, Path], tmp_path: Path
) -> None:
    machine, path = running
    (tmp_path / "disk").write_bytes(bytes(4096))
    node = {"node-name": "n", "file": {"filename": f"{tmp_path}/disk"}, "cache": {"direct": False}}
    with QmpClient(path) as client:
        for _ in range(3):
            client.cmd("blockdev-add", **node)
            client.cmd("device_add", driver="virtio-blk-mmio", id="d", drive="n", addr="0x0")
            client.cmd("device_del", id="d")
            client.cmd("blockdev-del", **{"node-name": "n"})
        with pytest.raises(Exception, match="cannot open: No such file or directory"):
            client.cmd("blockdev-add", **{**node, "file": {"filename": f"{tmp_path}/none"}})
    assert machine.terminate() == 0


def test_a_machine_that_was_stopped_by_a_signal_goes_on(
    running: tuple[MachineProcess, Path],
) -> None:
    machine, path = running
    with QmpClient(path) as client:
        stat = Path(f"/proc/{machine.process.pid}/stat")
        for _ in range(5):
            machine.process.send_signal(signal.SIGSTOP)
            wait_until(lambda: ") T " in stat.read_text(), "it stands still")
            machine.process.send_signal(signal.SIGCONT)
            assert client.cmd("query-status")["running"]
    assert machine.terminate() == 0


def test_a_machine_without_monitors_has_no_broker(tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path, say("on\n") + SPIN)
    with MachineProcess("-kernel", str(kernel), "-serial", "stdio") as machine:
        machine.expect("on")
        children = Path(f"/proc/{machine.process.pid}/task/{machine.process.pid}/children")
        assert children.read_text() == ""


def test_every_thread_is_under_the_filter_before_the_guest_runs(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    kernel = write_kernel(tmp_path, say("on\n") + SPIN)
    with MachineProcess(
        "-kernel", str(kernel), "-serial", "stdio", "-smp", "2", "-object", "iothread,id=io",
        "-drive", f"id=d,file={tmp_path}/disk,direct=off",
        "-device", "virtio-blk-device,drive=d,iothread=io",
    ) as machine:  # fmt: skip
        machine.expect("on")
        tasks = list(Path(f"/proc/{machine.process.pid}/task").iterdir())
        assert len(tasks) >= 4
        for task in tasks:
            assert "Seccomp:\t2\n" in (task / "status").read_text()
            assert "NoNewPrivs:\t1\n" in (task / "status").read_text()
