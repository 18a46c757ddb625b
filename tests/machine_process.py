"""A stratovirt process under test: its console, its monitor, its end."""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from qemu.qmp.legacy import QEMUMonitorProtocol
from tools.seccomp_report import FAST

from tests.programs import STRATOVIRT

PATIENCE = 90 if "STRATOVIRT_IN_LAB" in os.environ else 30
"""Seconds to wait for what must happen; the lab is an emulated machine."""


NO_FILTER = "-disable-seccomp"


def _logging(argv: tuple[str, ...]) -> tuple[str, ...]:
    """What puts warnings on stderr, where a test looks for them; last, since no path follows."""
    return () if {"-D", "-daemonize"} & {*argv} else ("-D",)


def _if_sanitized(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Without the filter under a sanitizer, which makes system calls of its own."""
    return (NO_FILTER,) if "ASAN_OPTIONS" in os.environ and NO_FILTER not in argv else ()


COMMAND = [STRATOVIRT, *_if_sanitized(())]
"""How tests that need more than MachineProcess start a machine."""


def run_to_end(*argv: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    """Run stratovirt until it ends by itself."""
    return subprocess.run(
        [STRATOVIRT, *argv, *_if_sanitized(argv)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
    )


TRACES = "STRATOVIRT_TRACE_CALLS"
"""The variable that names a folder: machines are traced, a file each (`make seccomp-trace`)."""


def _tracer() -> list[str]:
    if TRACES not in os.environ:
        return []
    handle, path = tempfile.mkstemp(dir=os.environ[TRACES])
    os.close(handle)
    calls = ",".join(FAST)
    how = ("-D", "-f", "-qq", "--seccomp-bpf", "--decode-pids=pidns")
    return ["strace", *how, "-e", f"trace=!{calls}", "-o", path]


class MachineEndedError(AssertionError):
    """The process ended before it showed what was expected."""

    def __init__(self, pattern: str, machine: "MachineProcess") -> None:
        super().__init__(
            f"the machine ended with {machine.process.returncode} before it showed {pattern!r}; "
            f"stderr {machine.errors[-1000:]!r}, console {machine.console[-2000:]!r}"
        )


class MachineProcess:
    """A running machine; killed when the block ends, whatever happened."""

    def __init__(
        self,
        *argv: str,
        env: dict[str, str] | None = None,
        pass_fds: tuple[int, ...] = (),
        program: str = STRATOVIRT,
    ) -> None:
        logging = _logging(argv) if program == STRATOVIRT else ()
        self.process = subprocess.Popen(
            [*_tracer(), program, *argv, *_if_sanitized(argv), *logging],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
            env={**os.environ, "STRATOVIRT_LOG_LEVEL": "warn", **(env or {})},
        )
        self.console = b""
        self.errors = b""
        self._mark = 0
        self._shell_reads_lines = False

    def __enter__(self) -> "MachineProcess":
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self._drain()
        self.process.wait()
        if error is not None:
            sys.stderr.write(f"--- console\n{self.console.decode(errors='replace')[-3000:]}\n")
            sys.stderr.write(f"--- stderr\n{self.errors.decode(errors='replace')[-3000:]}\n")
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def _pump(self, wait_s: float) -> bool:
        assert self.process.stdout is not None and self.process.stderr is not None
        ready, _, _ = select.select([self.process.stdout, self.process.stderr], [], [], wait_s)
        got = False
        for stream in ready:
            content = os.read(stream.fileno(), 65536)
            got |= bool(content)
            if stream is self.process.stdout:
                self.console += content
            else:
                self.errors += content
        return got

    def _drain(self) -> None:
        while self._pump(0):
            continue

    def expect(self, pattern: str, timeout: float = PATIENCE) -> re.Match[bytes]:
        """Wait until the console shows `pattern` after what was expected before."""
        deadline = time.monotonic() + timeout
        while True:
            found = re.compile(pattern.encode()).search(self.console, self._mark)
            if found is not None:
                self._mark = found.end()
                return found
            if time.monotonic() > deadline:
                shown = self.console[-1500:].decode(errors="replace")
                raise AssertionError(
                    f"the console never showed {pattern!r}, but {shown!r}; {self.look()}"
                )
            if not self._pump(0.5) and self.process.poll() is not None:
                self._drain()
                if re.compile(pattern.encode()).search(self.console, self._mark) is None:
                    raise MachineEndedError(pattern, self)

    def look(self) -> str:
        """What a machine does that does not answer: its threads and, in the lab, KVM's events."""
        threads = [
            # NAME) STATE PPID ... with the CPU time as 12th and 13th behind the name.
            (
                stat.read_text().partition("(")[2].partition(") ")[0],
                stat.read_text().rpartition(") ")[2].split(),
            )
            for stat in Path(f"/proc/{self.process.pid}/task").glob("*/stat")
        ]
        told = ", ".join(f"{name} {field[0]} {field[11]}+{field[12]}" for name, field in threads)
        if "STRATOVIRT_IN_LAB" not in os.environ or all(field[0] != "R" for _, field in threads):
            return told
        tracing = Path("/sys/kernel/tracing")
        (tracing / "trace").write_text("")
        (tracing / "events/kvm/enable").write_text("1")
        time.sleep(0.3)
        (tracing / "events/kvm/enable").write_text("0")
        told_by_kvm = re.findall(r"(?m)^ *(\S+) .*?: (kvm_.*)$", (tracing / "trace").read_text())
        events = Counter(f"{thread} {event}" for thread, event in told_by_kvm)
        lines = (f"\n{times:6} {event}" for event, times in events.most_common(40))
        return told + "".join(lines)

    def type(self, text: str) -> None:
        """Type at the console."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def command(self, line: str, timeout: float = PATIENCE) -> str:
        """Run a shell command in the guest and return what it printed."""
        if not self._shell_reads_lines:
            # An interactive shell edits and echoes each character, which takes the lab's guests
            # seven times as long as to read it.
            self.type("stty -echo; echo re''ading; exec sh /dev/tty\n")
            self.expect("reading\r\n", timeout)
            self._shell_reads_lines = True
        # The shell's echo of what is typed, wrapped as it may be, never holds the markers.
        self.type(f"echo be''gin; {line}; echo e''nd-$?-of\n")
        found = self.expect(r"(?s)begin\r\n(.*?)end-(\d+)-of", timeout)
        assert found[2] == b"0", f"guest command {line!r} failed: {found[0]!r}"
        return found[1].decode().replace("\r\n", "\n")

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for the process to end; its status."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"the machine did not end; {self.look()}")
            self._pump(0.1)
        self._drain()
        return self.process.returncode

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it by signal; its status."""
        self.process.send_signal(number)
        return self.wait()


def wait_until(condition: Callable[[], bool], what: str, timeout: float = PATIENCE) -> None:
    """Wait until `condition` holds; `what` says in the failure what should have been."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


def wait_listening(path: Path, timeout: float = PATIENCE) -> None:
    """Wait until somebody listens on the socket at `path`."""
    deadline = time.monotonic() + timeout
    while not _is_listening(path):
        if time.monotonic() > deadline:
            raise AssertionError(f"nobody listens on {path}")
        time.sleep(0.05)


def _is_listening(path: Path) -> bool:
    # /proc/net/unix shows a listening socket by its flags, without taking the one connection.
    # What it has accepted is listed by the same name.
    lines = Path("/proc/net/unix").read_text().splitlines()
    return any(line.endswith(f" {path}") and " 00010000 0001 01 " in line for line in lines)


class QmpClient:
    """QEMU's own client, connected and past negotiation."""

    def __init__(
        self, path: Path | tuple[str, int], timeout: float = PATIENCE, listed: bool = True
    ) -> None:
        """`listed` says whether a socket's path is in this network namespace's list of sockets."""
        if isinstance(path, Path) and listed:
            wait_listening(path, timeout)
        self._client = QEMUMonitorProtocol(str(path) if isinstance(path, Path) else path)
        self._client.settimeout(timeout)
        self._client.connect()

    def cmd(self, name: str, /, **arguments: object) -> Any:
        """Run a command; its answer."""
        return self._client.cmd(name, **arguments)

    def send_descriptor(self, fd: int) -> None:
        """Send a file descriptor; the next command takes it."""
        self._client.send_fd_scm(fd)

    def events(self) -> list[dict[str, Any]]:
        """The events that have come before the last answer and were not waited for."""
        return [dict(event) for event in self._client.get_events(wait=False)]

    def wait_event(self, name: str) -> dict[str, Any]:
        """The next event called `name`."""
        while True:
            event = self._client.pull_event(wait=float(PATIENCE))
            assert event is not None
            if event["event"] == name:
                return dict(event)

    def __enter__(self) -> "QmpClient":
        return self

    def __exit__(self, *_exception: object) -> None:
        # The server may have hung up first.
        with contextlib.suppress(EOFError, OSError):
            self._client.close()
