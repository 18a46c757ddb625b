"""What -smp, -m and -numa say is what the guest's own tools see, and what the host gave."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from stratovirt.config.machine import Smp
from tests.guest.conftest import Boot, Tools
from tests.machine_process import MachineProcess

MIB = 1 << 20


def nodes(*sizes: str, cpus: Sequence[str], backend: str = "ram", more: str = "") -> list[str]:
    """-object and -numa of one node for each size."""
    argv = []
    for number, (size, numbers) in enumerate(zip(sizes, cpus, strict=True)):
        argv += ["-object", f"memory-backend-{backend},id=m{number},size={size}{more}"]
        argv += ["-numa", f"node,nodeid={number},cpus={numbers},memdev=m{number}"]
    return argv


class Wanted:
    """What the guest should see: `cpus` of each node, `mib` of each, threads, cores, sockets."""

    def __init__(
        self, threads: int, cores: int, sockets: int, mib: Sequence[int], cpus: Sequence[str],
        distances: Sequence[Sequence[int]] = ((10,),),
    ) -> None:  # fmt: skip
        self.lscpu = {
            "Thread(s) per core": threads, "Core(s) per socket": cores, "Socket(s)": sockets,
        }  # fmt: skip
        self.mib, self.cpus, self.distances = mib, cpus, distances


SHOWN = r"per core|per socket|Socket|NUMA node\(s\)"
TWO = ((10, 20), (20, 10))
CASES: dict[str, tuple[list[str], Wanted]] = {
    "one": (["-smp", "1", "-m", "256"], Wanted(1, 1, 1, [256], ["0"])),
    "cores": (["-smp", "4", "-m", "512"], Wanted(1, 4, 1, [512], ["0-3"])),
    "two sockets of dies of threads": (
        ["-smp", "8,sockets=2,dies=2,cores=1,threads=2", "-m", "512"],
        Wanted(2, 2, 2, [512], ["0-7"]),
    ),
    "clusters of threads in dies": (
        ["-smp", "16,sockets=1,dies=2,clusters=2,cores=2,threads=2", "-m", "512"],
        Wanted(2, 8, 1, [512], ["0-15"]),
    ),
    "two sockets of threads": (
        ["-smp", "8,sockets=2,cores=2,threads=2", "-m", "512"], Wanted(2, 2, 2, [512], ["0-7"]),
    ),
    "three sockets": (
        ["-smp", "6,sockets=3,cores=2", "-m", "300M"], Wanted(1, 2, 3, [300], ["0-5"]),
    ),
    "across the PCI hole": (["-smp", "2", "-m", "4G"], Wanted(1, 2, 1, [4096], ["0-1"])),
    "two nodes": (
        ["-smp", "2,sockets=2", "-m", "512", *nodes("256M", "256M", cpus=["0", "1"])],
        Wanted(1, 1, 2, [256, 256], ["0", "1"], TWO),
    ),
    "the guidebook's cpu lists": (
        ["-smp", "8", "-m", "1G", *nodes("512M", "512M", cpus=["0-1:4-5", "2-3:6-7"])],
        Wanted(1, 8, 1, [512, 512], ["0,1,4,5", "2,3,6,7"], TWO),
    ),
    "two nodes and 4 GiB across the hole": (
        [
            "-smp", "4,sockets=2,cores=2", "-m", "4G",
            *nodes("2G", "2G", cpus=["0-1", "2-3"]),
            "-numa", "dist,src=0,dst=1,val=30", "-numa", "dist,src=1,dst=0,val=40",
        ],
        Wanted(1, 2, 2, [2048, 2048], ["0-1", "2-3"], ((10, 30), (40, 10))),
    ),
    "unequal nodes of which one has no cpu": (
        [
            "-smp", "2", "-m", "768",
            *nodes("512M", "256M", cpus=["0-1", "0"])[:6],
            "-numa", "node,nodeid=1,memdev=m1", "-numa", "dist,src=0,dst=1,val=80",
        ],
        Wanted(1, 2, 1, [512, 256], ["0-1", ""], ((10, 80), (80, 10))),
    ),
    "three nodes of memfd": (
        [
            "-smp", "3,sockets=3", "-m", "768",
            *nodes("256M", "256M", "256M", cpus=["0", "1", "2"], backend="memfd"),
        ],
        Wanted(1, 1, 3, [256] * 3, ["0", "1", "2"], ((10, 20, 20), (20, 10, 20), (20, 20, 10))),
    ),
}  # fmt: skip


def shared(cpus: int, size: int) -> list[list[int]]:
    """For each of so many CPUs those of its group, where `size` in a row are one."""
    return [list(range(cpu - cpu % size, cpu - cpu % size + size)) for cpu in range(cpus)]


def check_topology(guest: MachineProcess, smp: str) -> None:
    """The guest's sysfs and ``lscpu -e`` say what -smp says."""
    topology = Smp.parse(smp).topology
    count, threads = topology.count, topology.threads
    cluster = threads * topology.cores
    die = cluster * topology.clusters
    package = die * topology.dies
    shown = guest.command(
        "cd /sys/devices/system/cpu; for c in $(seq 0 $(($(ls -d cpu[0-9]* | wc -l) - 1))); do "
        "cd cpu$c; cat topology/core_cpus_list topology/die_cpus_list topology/package_cpus_list "
        "topology/physical_package_id topology/die_id; "
        "second=$(grep -lx 2 cache/index*/level 2>/dev/null) && "
        "cat ${second%level}shared_cpu_list || echo -; cd ..; done"
    ).split()
    lists = [shown[position::6] for position in range(6)]
    for found, size in zip(lists[:3], (threads, die, package), strict=True):
        assert [numbers(text) for text in found] == shared(count, size), shown
    assert [int(number) for number in lists[3]] == [cpu // package for cpu in range(count)]
    assert [int(number) for number in lists[4]] == [
        cpu // die % topology.dies if topology.dies > 1 else int(lists[4][cpu])
        for cpu in range(count)
    ]
    # Linux on x86 calls those CPUs a cluster that share a cache of the second level; the host
    # may have none to tell of, as the lab's.
    second = cluster if topology.clusters > 1 else threads
    if set(lists[5]) != {"-"}:
        assert [numbers(text) for text in lists[5]] == shared(count, second), shown
    shown = guest.command("chroot /tools lscpu -e=CPU,CORE,SOCKET").splitlines()
    rows = [tuple(map(int, row.split())) for row in shown if row.strip()[:1].isdigit()]
    assert rows == [(cpu, cpu // threads, cpu // package) for cpu in range(count)], shown


def numbers(text: str) -> list[int]:
    """``0-2,5`` or ``0 1 2 5`` as numbers."""
    found: list[int] = []
    for piece in re.split("[ ,]+", text.strip()):
        if piece:
            first, _, last = piece.partition("-")
            found += range(int(first), int(last or first) + 1)
    return found


@pytest.mark.parametrize("name", list(CASES))
def test_the_guests_tools_see_what_was_configured(
    ready: Boot, tools: type[Tools], name: str
) -> None:
    argv, wanted = CASES[name]
    guest = ready(*argv, *tools.options)
    tools.mount(guest)
    seen = {
        line.partition(":")[0].strip(): line.partition(":")[2].strip()
        for line in guest.command(f"chroot /tools lscpu | grep -E '{SHOWN}'").splitlines()
    }
    assert {key: int(seen[key]) for key in wanted.lscpu} == wanted.lscpu
    check_topology(guest, argv[1])
    assert int(seen["NUMA node(s)"]) == len(wanted.mib)
    shown = guest.command("chroot /tools numactl -H")
    for node, (mib, cpus) in enumerate(zip(wanted.mib, wanted.cpus, strict=True)):
        assert numbers(re.findall(rf"node {node} cpus:(.*)", shown)[0]) == numbers(cpus), shown
        size = int(re.findall(rf"node {node} size: (\d+) MB", shown)[0])
        # The kernel keeps its image, its map of pages and the low megabyte for itself.
        assert 0.75 * mib - 40 < size <= mib, shown
    if len(wanted.mib) > 1:
        rows = re.findall(r"(?m)^ +\d+: +([\d ]+)$", shown)
        assert [tuple(map(int, row.split())) for row in rows] == list(wanted.distances), shown
    total = int(re.findall(r"MemTotal: +(\d+) kB", guest.command("grep MemTotal /proc/meminfo"))[0])
    assert 0.85 * sum(wanted.mib) - 40 < total / 1024 <= sum(wanted.mib)
    guest.type("poweroff -f\n")
    assert guest.wait() == 0


def policies(guest: MachineProcess, mib: int) -> list[str]:
    """The policy of each mapping of that size, in address order."""
    maps = Path(f"/proc/{guest.process.pid}/maps").read_text().splitlines()
    starts = []
    for line in maps:
        first, _, last = line.split()[0].partition("-")
        if int(last, 16) - int(first, 16) == mib * MIB:
            starts.append(first)
    kept = Path(f"/proc/{guest.process.pid}/numa_maps").read_text().splitlines()
    return [line.split()[1] for line in kept if line.split()[0] in starts]


def test_the_hosts_nodes_are_used_as_the_policies_say(ready: Boot) -> None:
    guest = ready(
        "-smp", "3", "-m", "768",
        "-object", "memory-backend-ram,id=a,size=256M,policy=bind,host-nodes=1,prealloc=on",
        "-object", "memory-backend-ram,id=b,size=256M,policy=interleave,host-nodes=0-1",
        "-object", "memory-backend-ram,id=c,size=256M,policy=preferred,host-nodes=0",
        "-numa", "node,cpus=0,memdev=a", "-numa", "node,cpus=1,memdev=b",
        "-numa", "node,cpus=2,memdev=c",
    )  # fmt: skip
    assert policies(guest, 256) == ["bind:1", "interleave:0-1", "prefer:0"]
    kept = Path(f"/proc/{guest.process.pid}/numa_maps").read_text()
    (bound,) = [line for line in kept.splitlines() if "bind:1" in line]
    pages = {int(n): int(count) for n, count in re.findall(r"N(\d+)=(\d+)", bound)}
    assert pages == {1: pages.get(1)} and pages[1] >= (256 * MIB) // (2 * MIB)
    guest.type("poweroff -f\n")
    assert guest.wait() == 0


def test_a_node_that_the_host_lacks_is_one_line(boot: Boot) -> None:
    guest = boot(
        "-m", "256", "-object", "memory-backend-ram,id=a,size=256M,policy=bind,host-nodes=5",
        "-numa", "node,cpus=0,memdev=a",
    )  # fmt: skip
    assert guest.wait() == 1
    assert guest.errors.decode() == (
        "stratovirt: -object memory-backend-ram,id=a: host-nodes: this host has no node 5; "
        "it has 0, 1\n"
    )
