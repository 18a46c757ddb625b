"""The process around the machine: -name, -pidfile, -daemonize, -D, -trace, -incoming, -S."""

from __future__ import annotations

from stratovirt.config.kinds import OnOff, PathName, Text, Uuid
from stratovirt.config.options import Options, opt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.host.request import Named


class Name(Options, flag="-name", first="guest"):
    """The machine's name, and the names its threads show."""

    guest: str | None = opt(Text(longest=255), default=None, help="name that query-name reports")
    process: str | None = opt(
        Text(longest=15), default=None, help="name of the process in ps and /proc"
    )
    debug_threads: bool = opt(
        OnOff(), default=False, help="name threads as QEMU does: 'CPU N/KVM' and 'IO ID'"
    )


class MachineUuid(Options, flag="-uuid", whole="uuid"):
    """The machine's UUID, which the guest finds in SMBIOS (q35)."""

    uuid: bytes = opt(Uuid(), help="such as 12345678-9abc-def0-1234-56789abcdef0")


class Pidfile(Options, flag="-pidfile", whole="path"):
    """Holds the process id while the process lives; one instance at a time may hold it."""

    path: str = opt(PathName(), help="the file; removed on exit")


class LogFile(Options, flag="-D", whole="path"):
    """Log to a file, or to stderr when no path follows; without -D nothing is logged."""

    path: str = opt(PathName(), help="the file; lines are appended")


class Trace(Options, flag="-trace"):
    """Events to trace, to the log and to the kernel's trace_marker."""

    events: str = opt(
        PathName(), help="file of event names or patterns, one a line; -trace help lists the events"
    )


class Incoming(Options, flag="-incoming", whole="uri"):
    """Start from a snapshot."""

    uri: str = opt(Text("file:PATH"), help="file:PATH, the folder that migrate wrote")

    def check(self) -> None:
        """Only files so far."""
        if not self.uri.startswith("file:") or self.uri == "file:":
            raise ValueError(f"must be file:PATH, not '{self.uri}'")


class Migrate(Options):
    """The place and mode of a snapshot to be written."""

    uri: str = opt(Text("file:PATH"), help="file:PATH, the folder to write")

    def check(self) -> None:
        """Only files."""
        if not self.uri.startswith("file:") or self.uri == "file:":
            raise ValueError(f"uri must be file:PATH, not '{self.uri[:80]}'")

    @property
    def place(self) -> str:
        """The folder."""
        return self.uri.removeprefix("file:")

    def names(self) -> Named:
        """The folder."""
        from stratovirt.host.request import Named
        from stratovirt.snapshot.files import SnapshotRequest

        return Named([SnapshotRequest(place=self.place)])


class Daemonize(Options, flag="-daemonize"):
    """Detach from the terminal once the machine runs; errors until then reach the caller."""


class Paused(Options, flag="-S"):
    """Start with the vCPUs stopped; QMP's cont runs them."""


class DisableSeccomp(Options, flag="-disable-seccomp"):
    """Run without the filter on system calls, and without a broker."""
