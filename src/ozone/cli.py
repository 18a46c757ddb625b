"""The ``ozone`` command: runs a program in a jail; an error is one line on stderr."""

from __future__ import annotations

import os
import signal
import sys

from ozone.errors import OzoneError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ozone.options import Options


def main() -> None:
    """Entry point of the ``ozone`` command."""
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Run the command line `argv`; returns the exit status."""
    from ozone import options

    if any(word in ("-help", "--help", "-h") for word in argv[: _own_words(argv)]):
        try:
            print(options.HELP, end="", flush=True)
        except BrokenPipeError:
            # The reader has closed the pipe; Python's flush at exit goes to /dev/null.
            os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), sys.stdout.fileno())
        return 0
    try:
        return _run(options.parse(argv))
    except OzoneError as error:
        print(f"ozone: {' '.join(str(error).split())}", file=sys.stderr)
    except OSError as error:
        print(f"ozone: {error.filename or 'error'}: {error.strerror}", file=sys.stderr)
    return 1


def _own_words(argv: list[str]) -> int:
    return argv.index("--") if "--" in argv else len(argv)


class _Interrupted(BaseException):
    """A signal arrived while the jail was set up."""


def _interrupt(_number: int, _frame: object) -> None:
    raise _Interrupted


def _run(options: Options) -> int:
    from ozone.cgroup import Cgroup
    from ozone.jail import Jail
    from ozone.launch import launch
    from ozone.view import view_for

    if os.geteuid() != 0:
        raise OzoneError("must be run as root")
    jail, cgroup = Jail(options), Cgroup(options.program, options.name)
    if options.clean_resource:
        jail.remove()
        cgroup.remove()
        return 0
    jail.check()
    view = view_for(options.exec_file)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        jail.create(view)
        cgroup.create(options.cgroup, options.numa)
        killed_before = cgroup.memory_kills()
        status = launch(options, jail, cgroup, view)
        if status == 128 + signal.SIGKILL and cgroup.memory_kills() > killed_before:
            limit = options.cgroup["memory.limit_in_bytes"]
            print(
                f"ozone: -cgroup memory.limit_in_bytes={limit}: the program needed more memory "
                "and the host killed it",
                file=sys.stderr,
            )
        return status
    except BaseException as error:
        if jail.is_ours:
            jail.remove()
            cgroup.remove()
        if isinstance(error, _Interrupted):
            return 128 + signal.SIGTERM
        raise
