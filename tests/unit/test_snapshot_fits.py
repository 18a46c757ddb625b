"""A snapshot's machine and a command line: each thing that a guest could not bear to change."""

import pytest

from stratovirt.config.command_line import parse_command_line
from stratovirt.config.vm_config import VmConfig
from stratovirt.snapshot.errors import SnapshotError
from stratovirt.snapshot.machine import check_fits, guest_visible

SMP = "cpus=4,sockets=1,dies=1,clusters=1,cores=4,threads=1"


def config_of(
    machine: str = "microvm",
    memory: str = "512M",
    smp: str = SMP,
    cpus: tuple[str, str] = ("0-1", "2-3"),
    sizes: tuple[str, str] = ("256M", "256M"),
    distance: int = 20,
    *,
    has_nodes: bool = True,
) -> VmConfig:
    argv = ["-machine", machine, "-m", memory, "-smp", smp, "-kernel", "/k"]
    if has_nodes:
        for node in (0, 1):
            argv += ["-object", f"memory-backend-ram,size={sizes[node]},id=m{node}"]
            argv += ["-numa", f"node,nodeid={node},cpus={cpus[node]},memdev=m{node}"]
        argv += ["-numa", f"dist,src=0,dst=1,val={distance}"]
        argv += ["-numa", f"dist,src=1,dst=0,val={distance}"]
    return parse_command_line(argv)


def test_the_same_command_line_fits() -> None:
    check_fits(guest_visible(config_of()), config_of())


NO_NODES = {"has_nodes": False}
CHANGES: dict[str, tuple[dict[str, object], str]] = {
    "board": ({"machine": "q35"}, "-machine is q35 and .* microvm"),
    "memory": ({**NO_NODES, "memory": "1G"}, "-m is 1G and .* 512M"),
    "vcpus": ({**NO_NODES, "smp": "cpus=8,sockets=1,cores=8"}, "-smp is cpus=8,.* cpus=4,"),
    "sockets": (
        {"smp": "cpus=4,sockets=2,cores=2"},
        "-smp is cpus=4,sockets=2,.* cpus=4,sockets=1,",
    ),
    "dies": ({"smp": "cpus=4,dies=2,cores=2"}, "-smp is .*,dies=2,.*,dies=1,"),
    "clusters": ({"smp": "cpus=4,clusters=2,cores=2"}, "-smp is .*,clusters=2,.*,clusters=1,"),
    "threads": ({"smp": "cpus=4,cores=2,threads=2"}, "-smp is .*,threads=2 and .*,threads=1"),
    "a node's vcpus": ({"cpus": ("0-2", "3")}, "-numa node 0 is .*cpus=0:1:2,.*,cpus=0:1,256M"),
    "a node's memory": ({"sizes": ("128M", "384M")}, "-numa node 0 is .*128M and .*256M"),
    "a distance": ({"distance": 30}, "-numa dist,src=0,dst=1 is val=30 and .* val=20"),
}


@pytest.mark.parametrize(("change", "why"), CHANGES.values(), ids=CHANGES)
def test_whatever_a_guest_knows_may_not_differ(change: dict[str, object], why: str) -> None:
    has_nodes = bool(change.get("has_nodes", True))
    saved = config_of(has_nodes=has_nodes)
    with pytest.raises(SnapshotError, match=f"^{why}"):
        check_fits(guest_visible(saved), config_of(**change))  # type: ignore[arg-type]


def test_what_only_one_of_them_has_is_named() -> None:
    with pytest.raises(SnapshotError, match=r"^-numa node 0 is not given and .* has nodeid=0,"):
        check_fits(guest_visible(config_of()), config_of(has_nodes=False))
    with pytest.raises(SnapshotError, match=r"^-numa node 0 is nodeid=0,.* machine has none$"):
        check_fits(guest_visible(config_of(has_nodes=False)), config_of())


def test_the_accelerator_may_not_differ() -> None:
    saved = guest_visible(config_of())
    with pytest.raises(SnapshotError, match=r"^-accel is kvm and the snapshot's machine has test$"):
        check_fits({**saved, "-accel": "test"}, config_of())
