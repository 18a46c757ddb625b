"""What a guest tries that has taken its machine over: to see more than the jail, and to get out.

Its text runs in the vCPU's thread of a jailed machine (`tests.taken_over`), with the process's user
and namespaces and without the seccomp filter: the jail has to hold alone.
"""

import ctypes
import errno
import json
import os
import socket
import stat
import struct
from collections.abc import Callable
from typing import Any

PTRACE_ATTACH, CLONE_NEWUSER, CLONE_NEWNS = 16, 0x1000_0000, 0x2_0000
MNT_DETACH, MS_BIND, MS_REMOUNT = 2, 0x1000, 0x20
PIVOT_ROOT, NAME_TO_HANDLE_AT, OPEN_BY_HANDLE_AT = 155, 303, 304
HANDLE = struct.Struct("=Ii128s")
PACKAGE = "/opt/stratovirt/stratovirt"
DONE = "done"
libc = ctypes.CDLL(None, use_errno=True)


def walk() -> dict[str, tuple[int, int]]:
    """Everything below the root but /proc, with its device and inode."""
    found = {}
    for folder, folders, names in os.walk("/"):
        if folder == "/":
            folders.remove("proc")
        for name in (*folders, *names):
            path = os.path.join(folder, name)
            facts = os.lstat(path)
            found[path] = (facts.st_dev, facts.st_ino)
    return found


def writable(paths: list[str]) -> list[str]:
    """Those that this user can change."""
    return [path for path in paths if os.access(path, os.W_OK, follow_symlinks=False)]


def open_files() -> list[tuple[str, int, int]]:
    """Open files and folders, whoever left them open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            facts = os.fstat(int(name))
        except OSError:
            # The folder of the listing itself.
            continue
        kind = "folder" if stat.S_ISDIR(facts.st_mode) else "file"
        if kind == "folder" or stat.S_ISREG(facts.st_mode):
            found.append((kind, facts.st_dev, facts.st_ino))
    return found


def threads() -> list[int]:
    """Threads that the jail's /proc shows."""
    pids = [name for name in os.listdir("/proc") if name.isdigit()]
    return [int(name) for pid in pids for name in os.listdir(f"/proc/{pid}/task")]


def signalled(most: int) -> list[int]:
    """Threads, among the first `most` numbers, that a signal would reach."""
    found = []
    for pid in range(1, most + 1):
        try:
            os.kill(pid, 0)
        except OSError as error:
            if error.errno == errno.ESRCH:
                continue
        found.append(pid)
    return found


def call(result: int) -> None:
    """What libc gave back, as Python has it."""
    if result < 0:
        raise OSError(ctypes.get_errno(), "")


def outcome(attempt: Callable[[], object]) -> str:
    """`done`, or the error's name."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return DONE


def connect(family: int, address: Any) -> None:
    """Reach somebody on the host."""
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        client.connect(address)


def open_by_handle() -> None:
    """Open a folder by its handle: with other numbers it would be one outside."""
    handle = ctypes.create_string_buffer(HANDLE.pack(128, 0, b""))
    mount = ctypes.c_int()
    call(libc.syscall(NAME_TO_HANDLE_AT, -100, b"/dev", handle, ctypes.byref(mount), 0))
    folder = os.open("/dev", os.O_RDONLY)
    try:
        call(libc.syscall(OPEN_BY_HANDLE_AT, folder, handle, os.O_RDONLY))
    finally:
        os.close(folder)


def reach_the_host(host: dict[str, Any]) -> dict[str, str]:
    """Attempts that change nothing where they succeed."""
    attempts: dict[str, Callable[[], object]] = {
        "read a file": lambda: os.close(os.open(host["file"], os.O_RDONLY)),
        "enter a folder": lambda: os.chdir(os.path.dirname(host["file"])),
        "connect to a socket": lambda: connect(socket.AF_UNIX, host["socket"]),
        "connect to an abstract socket": lambda: connect(socket.AF_UNIX, "\0" + host["abstract"]),
        "connect to a port": lambda: connect(socket.AF_INET, ("127.0.0.1", host["port"])),
        "attach shared memory": lambda: call(libc.shmget(host["key"], 0, 0)),
        "open by handle": open_by_handle,
    }
    return {name: outcome(attempt) for name, attempt in attempts.items()}


WAYS_OUT: dict[str, Callable[[], object]] = {
    "unmount": lambda: call(libc.umount2(b"/proc", MNT_DETACH)),
    "make a mount writable": lambda: call(
        libc.mount(None, b"/opt", None, MS_BIND | MS_REMOUNT, None)
    ),
    "make a device": lambda: os.mknod("/device", stat.S_IFBLK | 0o600, os.makedev(254, 0)),
    "enter the first process's root": lambda: os.chdir("/proc/1/root"),
    "trace the first process": lambda: call(libc.ptrace(PTRACE_ATTACH, 1, None, None)),
}
"""Attempts that a host would suffer from, of this user and of a root that it makes itself."""


def break_out() -> dict[str, str]:
    """Those, and what only a user without a namespace of its own is refused."""
    attempts: dict[str, Callable[[], object]] = {
        **WAYS_OUT,
        "mount": lambda: call(libc.mount(b"none", b"/", b"tmpfs", 0, None)),
        "pivot_root": lambda: call(libc.syscall(PIVOT_ROOT, b"/", b"/")),
        "chroot": lambda: os.chroot("/"),
        "list the first process's files": lambda: os.listdir("/proc/1/fd"),
        "be root": lambda: os.setuid(0),
        "set the host's name": lambda: socket.sethostname("taken"),
        "change a program": lambda: os.close(os.open(f"{PACKAGE}/vm.py", os.O_RDWR)),
    }
    return {name: outcome(attempt) for name, attempt in attempts.items()}


def as_another_root() -> dict[str, str]:
    """What a child can do that is root of a user namespace of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        entered = outcome(lambda: call(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS)))
        attempts: dict[str, Callable[[], object]] = {
            **WAYS_OUT,
            "mount another proc": lambda: call(libc.mount(b"proc", b"/proc", b"proc", 0, None)),
            "open by handle": open_by_handle,
        }
        results = {name: outcome(attempt) for name, attempt in attempts.items()}
        os.write(writer, json.dumps({"become it": entered, **results}).encode())
        os._exit(0)
    os.close(writer)
    text = os.read(reader, 1 << 16)
    os.waitpid(child, 0)
    result: dict[str, str] = json.loads(text)
    return result


def report(path: str, findings: dict[str, Any]) -> None:
    """Leave the findings where the test finds them."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(findings, file)


def run_jailed(host: dict[str, Any]) -> None:
    """All of it."""
    seen = walk()
    report("/findings", {
        "seen": seen, "writable": writable(["/", *seen]), "open": open_files(),
        "threads": threads(), "signalled": signalled(host["pid"]), "proc": os.listdir("/proc"),
        "above the root": os.stat("/..").st_ino == os.stat("/").st_ino,
        "host": reach_the_host(host), "out": break_out(), "as root": as_another_root(),
    })  # fmt: skip
