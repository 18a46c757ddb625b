"""What a manager does to a machine, with a real guest in it: buttons, consoles, memory, traces."""

import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.conftest import Boot
from tests.machine_process import PATIENCE, MachineProcess, QmpClient, wait_listening, wait_until

READY = "guest: ready in the initramfs"


def ready(guest: MachineProcess) -> None:
    guest.expect(READY)
    guest.expect("# ")


def test_the_power_button_reaches_the_guest_which_powers_off(boot: Boot, tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    guest = boot("-qmp", f"unix:{path},server,nowait")
    ready(guest)
    assert "Power Button" in guest.command("cat /sys/class/input/*/name")
    # Linux reports the press as an input event, which an init system acts on.
    guest.type("head -c 24 /dev/input/event0 >/dev/null && poweroff -f\n")
    with QmpClient(path) as client:
        time.sleep(1)
        client.cmd("system_powerdown")
        assert client.wait_event("POWERDOWN")
        data = client.wait_event("SHUTDOWN")["data"]
        assert data == {"guest": True, "reason": "guest-shutdown"}
    assert guest.wait() == 0


def test_a_reset_in_the_middle_of_work_boots_the_guest_anew(
    boot: Boot, tmp_path: Path, root_image: Path
) -> None:
    path = tmp_path / "qmp"
    guest = boot(
        "-smp", "2", "-qmp", f"unix:{path},server,nowait",
        "-drive", f"id=d,file={root_image},direct=on", "-device", "virtio-blk-device,drive=d",
    )  # fmt: skip
    ready(guest)
    guest.command("echo marker > /tmp/marker")
    guest.type("while true; do dd if=/dev/vda of=/dev/null bs=1M 2>/dev/null; done\n")
    with QmpClient(path) as client:
        for _ in range(2):
            time.sleep(1)
            client.cmd("system_reset")
            data = client.wait_event("RESET")["data"]
            assert data == {"guest": False, "reason": "host-qmp-system-reset"}
            ready(guest)
            assert guest.command("nproc").strip() == "2"
            assert guest.command("ls /tmp").strip() == ""
            size = guest.command("dd if=/dev/vda bs=1M count=8 2>/dev/null | wc -c")
            assert size.strip() == str(8 << 20)
        client.cmd("quit")
    assert guest.wait() == 0


def answers(path: Path, *commands: str) -> list[dict[str, object]]:
    """What a client hears that sends everything, shuts its writing side, and reads to the end."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(path))
        said = ["qmp_capabilities", *commands]
        client.sendall(b"".join(b'{"execute": "%s"}\n' % name.encode() for name in said))
        client.shutdown(socket.SHUT_WR)
        heard = b""
        while part := client.recv(65536):
            heard += part
    return [json.loads(line) for line in heard.splitlines()]


def test_peers_that_leave_halfway_do_not_hold_up_the_guest(boot: Boot, tmp_path: Path) -> None:
    path, proof = tmp_path / "qmp", tmp_path / "proof"
    proof.write_bytes(bytes(1 << 20))
    guest = boot(
        "-qmp", f"unix:{path},server,nowait",
        "-drive", f"id=d,file={proof},direct=off", "-device", "virtio-blk-device,drive=d",
    )  # fmt: skip
    ready(guest)
    for _ in range(3):
        heard = answers(path, "query-status", "query-cpus-fast", "query-version")
        assert [next(iter(message)) for message in heard] == ["QMP", *["return"] * 4]
    # The console's reader goes, as in `stratovirt ... | head`; the guest talks on, and listens.
    assert guest.process.stdout is not None
    guest.process.stdout.close()
    guest.process.stdout = open(os.devnull, "rb")  # noqa: SIM115
    guest.type("seq 1 2000; echo still there | dd of=/dev/vda conv=fsync,notrunc\n")
    wait_until(lambda: proof.read_bytes().startswith(b"still there\n"), "the guest goes on")
    heard = answers(path, "query-status", "quit")
    assert [message for message in heard if "return" in message][-1] == {"return": {}}
    assert guest.process.wait(PATIENCE) == 0


@pytest.fixture
def hugetlbfs() -> Iterator[Path]:
    """A mounted hugetlbfs with room for a guest of 256 MiB."""
    count = Path("/proc/sys/vm/nr_hugepages")
    before = count.read_text()
    count.write_text("140")
    assert int(count.read_text()) == 140
    folder = Path("/run/hugepages")
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "hugetlbfs", "hugetlbfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    count.write_text(before)


def test_a_guest_lives_in_huge_pages(boot: Boot, hugetlbfs: Path) -> None:
    guest = boot("-m", "256", "-mem-path", str(hugetlbfs), "-mem-prealloc")
    ready(guest)
    smaps = Path(f"/proc/{guest.process.pid}/smaps").read_text()
    (block,) = [b for b in re.split(r"(?m)^(?=[0-9a-f]+-)", smaps) if str(hugetlbfs) in b]
    assert "KernelPageSize:     2048 kB" in block
    assert re.search(r"Private_Hugetlb: +262144 kB", block)
    guest.type("poweroff -f\n")
    assert guest.wait() == 0
    free = int(re.findall(r"HugePages_Free: +(\d+)", Path("/proc/meminfo").read_text())[0])
    assert free == 140


def test_more_huge_pages_than_there_are_is_one_line(boot: Boot, hugetlbfs: Path) -> None:
    guest = boot("-m", "1G", "-mem-path", str(hugetlbfs))
    assert guest.wait() == 1
    text = guest.errors.decode()
    assert text == (
        f"stratovirt: -mem-path {hugetlbfs}: cannot map 1G: Cannot allocate memory; it takes 512 "
        "huge pages of 2M and 140 are free (sysctl vm.nr_hugepages)\n"
    )


def test_a_node_lives_in_huge_pages_of_a_memfd(boot: Boot, hugetlbfs: Path) -> None:
    assert hugetlbfs.is_dir()
    guest = boot(
        "-m", "256", "-object", "memory-backend-memfd,id=m,size=256M,hugetlb=on",
        "-numa", "node,cpus=0,memdev=m",
    )  # fmt: skip
    ready(guest)
    smaps = Path(f"/proc/{guest.process.pid}/smaps").read_text()
    (block,) = [b for b in re.split(r"(?m)^(?=[0-9a-f]+-)", smaps) if "stratovirt-ram" in b]
    assert "KernelPageSize:     2048 kB" in block
    guest.type("poweroff -f\n")
    assert guest.wait() == 0


@pytest.mark.parametrize("dump", ["on", "off"])
def test_a_core_has_guest_memory_only_when_wanted(boot: Boot, tmp_path: Path, dump: str) -> None:
    Path("/proc/sys/kernel/core_pattern").write_text(f"{tmp_path}/core")
    guest = boot("-m", "256", "-mem-prealloc", board=f"microvm,dump-guest-core={dump}")
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(guest.process.pid, resource.RLIMIT_CORE, unlimited)
    guest.expect("guest: ready in the initramfs")
    guest.process.send_signal(signal.SIGABRT)
    guest.wait()
    written = (tmp_path / "core").stat().st_blocks * 512
    if dump == "on":
        assert written > 256 << 20
    else:
        assert written < 64 << 20


class Console:
    """The guest's console at the other end of a file descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd, self.text = fd, b""

    def expect(self, pattern: bytes) -> None:
        deadline = time.monotonic() + PATIENCE
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, self.text[-500:]
            if select.select([self.fd], [], [], 1)[0]:
                self.text += os.read(self.fd, 4096)

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())


def shell_session(console: Console, guest: MachineProcess) -> None:
    console.expect(b"# ")
    console.type("echo an''swer $((6 * 7))\n")
    console.expect(b"answer 42")
    console.type("poweroff -f\n")
    assert guest.wait() == 0


def test_a_shell_on_a_pty(boot: Boot) -> None:
    guest = boot(serial="pty")
    found = guest.expect(r"char device redirected to (\S+) ")
    fd = os.open(found[1], os.O_RDWR | os.O_NOCTTY)
    shell_session(Console(fd), guest)
    os.close(fd)


def test_a_shell_on_a_unix_socket_that_the_machine_waits_for(boot: Boot, tmp_path: Path) -> None:
    path = tmp_path / "serial"
    guest = boot(serial=f"socket,path={path},server")
    wait_listening(path)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
        shell_session(Console(peer.fileno()), guest)


def test_the_console_goes_to_a_file(boot: Boot, tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    guest = boot(serial=f"file,path={path}", append="rdinit=/bin/poweroff panic=1")
    guest.wait()
    assert "Kernel panic" in path.read_text() or "reboot: Power down" in path.read_text()


def test_trace_events_reach_the_kernels_trace_marker(boot: Boot, tmp_path: Path) -> None:
    events = tmp_path / "events"
    events.write_text("virtio_*\nblock_request\n")
    tracing = Path("/sys/kernel/tracing")
    (tracing / "trace").write_text("")
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    guest = boot(
        "-trace", f"events={events}", "-D", str(tmp_path / "log"),
        "-drive", f"id=d,file={image},direct=off", "-device", "virtio-blk-device,drive=d,id=blk0",
    )  # fmt: skip
    ready(guest)
    guest.command("dd if=/dev/vda of=/dev/null bs=64k count=4 2>/dev/null")
    guest.type("poweroff -f\n")
    assert guest.wait() == 0
    for text in ((tracing / "trace").read_text(), (tmp_path / "log").read_text()):
        assert "virtio_status device=blk0 status=0xf" in text
        assert re.search(r"block_request type=0 sector=0 bytes=\d+", text)
