"""Launches a program in a jail: namespaces, mounts, new root, user, program.

`ozone` itself waits outside; inside, process 1 waits for the program and for the processes that it
leaves running (a daemon), and ends with the last.
"""

from __future__ import annotations

import os
import select
import signal

from ozone import linux
from ozone.cgroup import Cgroup
from ozone.errors import OzoneError
from ozone.jail import Jail
from ozone.options import Options
from ozone.view import View

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
FAILED, ENDED = "E", "S"
KEPT_ENVIRONMENT = ("STRATOVIRT_LOG_LEVEL", "TERM")


def launch(options: Options, jail: Jail, cgroup: Cgroup, view: View) -> int:
    """Run the program in its jail; returns its exit status. Raises OzoneError if it never ran."""
    netns = _open_netns(options.netns)
    said, say = os.pipe2(os.O_CLOEXEC)
    go, let_go = os.pipe2(os.O_CLOEXEC)
    try:
        if netns >= 0:
            linux.join(netns, linux.CLONE_NEWNET)
        linux.unshare_processes()
    except OSError as error:
        raise OzoneError(f"cannot make the namespaces: {error.strerror}") from error
    first = os.fork()
    if first == 0:
        # With its own copies open, process 1 would not notice the end of ozone.
        os.close(said)
        os.close(let_go)
        _be_first(options, jail, view, say, go)
    os.close(say)
    os.close(go)
    for number in FORWARDED:
        signal.signal(number, lambda number, _frame: _send(first, number))
    try:
        cgroup.enter(first)
        os.write(let_go, b"!")
    except OSError as error:
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
        raise OzoneError(f"-cgroup: cannot enter: {error.strerror}") from error
    return _await(said)


def _open_netns(path: str | None) -> int:
    if path is None:
        return -1
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise OzoneError(f"-netns {path}: cannot open: {error.strerror}") from error


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _await(said: int) -> int:
    """Read the message of process 1: the program's status; raises OzoneError if it never ran."""
    text = b""
    while part := os.read(said, 4096):
        text += part
        if text.startswith(ENDED.encode()) and text.endswith(b"\n"):
            break
    message = text.decode(errors="replace")
    if message.startswith(FAILED):
        raise OzoneError(message[1:].strip())
    if not message.startswith(ENDED):
        return 128 + signal.SIGKILL
    return int(message[1:])


def _be_first(options: Options, jail: Jail, view: View, say: int, go: int) -> None:
    """Process 1 of the jail; does not return."""
    status = 1
    try:
        if os.read(go, 1) == b"!":
            _enter(options, jail, view)
            if not _is_heard(say):
                os._exit(status)
            status = _serve(options, view, say)
    except BaseException as error:
        reason = getattr(error, "strerror", None) or error
        where = getattr(error, "filename", None) or ""
        os.write(say, f"{FAILED}cannot set the jail up: {where} {reason}".encode())
    finally:
        os._exit(status)


def _enter(options: Options, jail: Jail, view: View) -> None:
    # Here and not before the fork: the new root is the root of all in the mount namespace, and
    # ozone has to find the jail's directory afterwards.
    linux.unshare_mounts()
    os.umask(0o022)
    jail.mount(view)
    linux.pivot_into(jail.root)
    os.umask(0o077)
    linux.become(options.uid, options.gid, [linux.CAPABILITIES[c] for c in options.capabilities])
    # Last: a change of user clears the parent-death signal.
    linux.die_with_parent(signal.SIGKILL)


def _is_heard(say: int) -> bool:
    """Whether ozone still runs: it may have died before die_with_parent was set."""
    poller = select.poll()
    poller.register(say, 0)
    return not poller.poll(0)


def _serve(options: Options, view: View, say: int) -> int:
    for source in options.sources:
        inside = "/" + os.path.basename(source.rstrip("/"))
        if not os.access(inside, os.R_OK):
            text = f"-source {source}: uid {options.uid} cannot read it; change its owner or mode"
            os.write(say, f"{FAILED}{text}".encode())
            return 1
    program = os.fork()
    if program == 0:
        _be_program(options, view, say)
    for number in FORWARDED:
        signal.signal(number, lambda number, _frame: _send(program, number))
    status = 1
    while True:
        try:
            pid, ended = os.wait()
        except ChildProcessError:
            return status
        if pid == program:
            status = os.waitstatus_to_exitcode(ended)
            status = status if status >= 0 else 128 - status
            # A daemon that the program leaves running outlives ozone.
            linux.die_with_parent(0)
            os.write(say, f"{ENDED}{status}\n".encode())
            os.close(say)


def _be_program(options: Options, view: View, say: int) -> None:
    try:
        for number in FORWARDED:
            signal.signal(number, signal.SIG_DFL)
        os.closerange(3, say)
        os.closerange(say + 1, 1 << 16)
        environment = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
        os.execve(view.argv[0], [*view.argv, *options.arguments], environment)
    except OSError as error:
        text = f"-exec_file {options.exec_file}: cannot run: {error.strerror}"
        os.write(say, f"{FAILED}{text}".encode())
    finally:
        os._exit(127)
