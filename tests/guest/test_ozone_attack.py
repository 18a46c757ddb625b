"""A jailed machine that its guest has taken over: it sees the jail, and no way out of it."""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import stratovirt
from ozone.jail import DEVICES
from ozone.view import view_for
from tests import taken_over
from tests.guest import jail_breaker
from tests.payload import POWER_OFF, SPIN, say, write_kernel
from tests.programs import OZONE

NAME, UID, KEY = "broken", 100, 0x5712_0417
JAIL = Path("/srv/zozne/stratovirt") / NAME
HOOK = f"""

def main() -> None:
    import os
    from stratovirt.taken_over import main
    with open("/attack.py") as attack:
        os.environ[{taken_over.ATTACK!r}] = attack.read()
    main()
"""
"""What the test's build of stratovirt has at the end of its command."""


@pytest.fixture(scope="module")
def broken_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stratovirt whose guest can run what the jail's attack.py has."""
    folder = tmp_path_factory.mktemp("build")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    package = Path(stratovirt.__file__).parent
    shutil.copytree(package, site / "stratovirt")
    shutil.copy(taken_over.__file__, site / "stratovirt" / "taken_over.py")
    with open(site / "stratovirt" / "cli.py", "a", encoding="utf-8") as cli:
        cli.write(HOOK)
    program = folder / "stratovirt"
    program.write_text(f"#!{python}\nfrom stratovirt.cli import main\nmain()\n")
    program.chmod(0o755)
    return program


@pytest.fixture
def host(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """What everybody on the host may read, write and connect to."""
    os.chmod(tmp_path, 0o755)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    abstract = f"stratovirt-secret-{os.getpid()}"
    libc = ctypes.CDLL(None)
    segment = libc.shmget(KEY, 4096, 0o1666)
    with (
        socket.socket(socket.AF_UNIX) as named,
        socket.socket(socket.AF_UNIX) as nameless,
        socket.create_server(("127.0.0.1", 0)) as port,
    ):
        for server, address in ((named, f"{tmp_path}/socket"), (nameless, f"\0{abstract}")):
            server.bind(address)
            server.listen()
        os.chmod(tmp_path / "socket", 0o666)
        yield {
            "file": str(secret), "socket": f"{tmp_path}/socket", "abstract": abstract,
            "port": port.getsockname()[1], "key": KEY, "pid": os.getpid(),
        }  # fmt: skip
    libc.shmctl(segment, 0, None)


def attack(
    build: Path, folder: Path, code: str, *argv: str, netns: Path
) -> subprocess.CompletedProcess[str]:
    """Run a jailed machine, to its end, whose guest runs the code in it."""
    kernel = write_kernel(folder, say("x") + POWER_OFF + SPIN)
    script, disk = folder / "attack.py", folder / "disk"
    script.write_text(code)
    disk.write_bytes(bytes(1 << 20))
    for source in (kernel, script, disk):
        os.chown(source, UID, UID)
        source.chmod(0o600)
    return subprocess.run(
        [
            OZONE, "-name", NAME, "-exec_file", str(build), "-uid", str(UID), "-gid", str(UID),
            "-netns", str(netns), "-source", str(kernel), str(script), str(disk), "--",
            "-kernel", "./payload.elf", "-serial", "stdio", "-qmp", "unix:./qmp,server,nowait",
            "-drive", "file=./disk,id=d,direct=off", "-device", "virtio-blk-device,drive=d",
            *argv,
        ],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture
def cleaned(broken_build: Path) -> Iterator[None]:
    yield
    jail = ["-name", NAME, "-exec_file", str(broken_build)]
    subprocess.run([OZONE, *jail, "-clean-resource"], check=True)


def identity(path: Path | str, *, follow: bool = True) -> tuple[int, int]:
    facts = os.stat(path, follow_symlinks=follow)
    return facts.st_dev, facts.st_ino


def shown(build: Path, sources: list[Path]) -> dict[str, tuple[int, int]]:
    """Paths in the jail, and which of the host's files each must be."""
    view = view_for(str(build))
    found = {}
    for host, inside in (*view.shown, *((str(path), f"/{path.name}") for path in sources)):
        found[inside] = identity(host)
        for folder, folders, names in os.walk(host):
            folders[:] = [n for n in folders if not n.endswith("-packages")]
            for name in (*folders, *names):
                path = os.path.join(folder, name)
                found[inside + path.removeprefix(host)] = identity(path, follow=False)
    return found


def test_it_sees_the_jail_and_nothing_else_of_the_host(
    broken_build: Path, tmp_path: Path, host: dict[str, Any], netns: Path, cleaned: None
) -> None:
    code = f"{Path(jail_breaker.__file__).read_text()}\nrun_jailed({host!r})\n"
    done = attack(broken_build, tmp_path, code, "-disable-seccomp", netns=netns)
    assert (done.returncode, done.stdout, done.stderr) == (0, "x", "")
    findings = json.loads((JAIL / "findings").read_text())

    sources = [tmp_path / name for name in ("payload.elf", "attack.py", "disk")]
    seen = {path: tuple(facts) for path, facts in findings["seen"].items()}
    wanted = shown(broken_build, sources)
    nodes = {f"/dev/{name}" for name in DEVICES}
    # Whatever else is installed on the host is not shown, be it among Python's own modules.
    own = {"/qmp", *view_for(str(broken_build)).hidden, *nodes}
    ways = {str(parent) for path in (*wanted, *own) for parent in Path(path).parents}
    for path, facts in seen.items():
        assert path in own or path in ways or wanted.get(path) == facts, path
    # The host may have compiled something since.
    assert {path for path in wanted if "__pycache__" not in path} <= seen.keys()
    mine = {"/", "/qmp", "/attack.py", "/payload.elf", "/disk", "/dev/zero", *nodes}
    assert set(findings["writable"]) <= mine and "/disk" in findings["writable"]
    assert findings["above the root"]

    files = {tuple(facts) for kind, *facts in findings["open"] if kind == "file"}
    assert [facts for kind, *facts in findings["open"] if kind == "folder"] == []
    assert files <= set(seen.values())
    assert set(findings["signalled"]) == set(findings["threads"])
    names = {name for name in findings["proc"] if not name.isdigit()}
    assert names == {"self", "thread-self"} and {"1", "2"} <= set(findings["proc"])

    assert findings["host"] == {
        "read a file": "ENOENT", "enter a folder": "ENOENT", "connect to a socket": "ENOENT",
        "connect to an abstract socket": "ECONNREFUSED", "connect to a port": "ENETUNREACH",
        "attach shared memory": "ENOENT", "open by handle": "EPERM",
    }  # fmt: skip
    assert set(findings["out"].values()) <= {"EPERM", "EACCES"}, findings["out"]
    inner = findings["as root"]
    assert inner.pop("become it") == jail_breaker.DONE
    # Mounts of a namespace with more rights are locked together: EINVAL.
    assert inner.pop("unmount") == "EINVAL"
    assert set(inner.values()) <= {"EPERM", "EACCES"}, inner


def test_the_same_attempts_reach_the_host_without_a_jail(host: dict[str, Any]) -> None:
    here = os.getcwd()
    reached = jail_breaker.reach_the_host(host)
    os.chdir(here)
    assert set(reached.values()) == {jail_breaker.DONE}


def test_in_the_jail_too_the_filter_ends_a_process_that_opens_a_file(
    broken_build: Path, tmp_path: Path, netns: Path, cleaned: None
) -> None:
    done = attack(broken_build, tmp_path, "os.open('/disk', os.O_RDONLY)", netns=netns)
    assert done.returncode == 128 + signal.SIGSYS
    assert done.stderr == (
        "stratovirt: seccomp: the system call openat (257) is not allowed here\n"
    )
    assert not (JAIL / "qmp").exists()
