"""Queries of the machine's parts: CPUs, chardevs, iothreads, balloon, its name."""

from __future__ import annotations

from stratovirt.architectures import TARGETS
from stratovirt.config.kinds import Size
from stratovirt.config.options import Options, opt
from stratovirt.monitor.registry import NoArguments, command
from stratovirt.monitor.schema import Enum, ListOf, Struct
from stratovirt.qmp.errors import QmpError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.cpu.slots import CpuSlot
    from stratovirt.monitor.session import Session
    from stratovirt.virtio.balloon import Balloon
    from stratovirt.vm import Vm

ARCHITECTURE = Enum("SysEmuTarget", *TARGETS)
CPU_ARCH = Enum("CpuInfoArch", "x86", "arm")
CPU_PROPS = Struct(
    "CpuInstanceProperties",
    {
        "node-id?": "int", "socket-id?": "int", "die-id?": "int", "cluster-id?": "int",
        "core-id?": "int", "thread-id?": "int",
    },
)  # fmt: skip
CPU_INFO = Struct(
    "CpuInfo",
    {
        "CPU": "int", "current": "bool", "halted": "bool", "qom_path": "str", "arch": CPU_ARCH,
        "thread_id": "int", "props?": CPU_PROPS,
    },
)  # fmt: skip
CPU_INFO_FAST = Struct(
    "CpuInfoFast",
    {
        "cpu-index": "int", "qom-path": "str", "thread-id": "int", "arch": CPU_ARCH,
        "target": ARCHITECTURE, "props?": CPU_PROPS,
    },
)  # fmt: skip
HOTPLUGGABLE_CPU = Struct(
    "HotpluggableCPU",
    {"type": "str", "vcpus-count": "int", "props": CPU_PROPS, "qom-path?": "str"},
)
NAME_INFO = Struct("NameInfo", {"name?": "str"})
KVM_INFO = Struct("KvmInfo", {"enabled": "bool", "present": "bool"})
CHARDEV_INFO = Struct("ChardevInfo", {"label": "str", "filename": "str", "frontend-open": "bool"})
IOTHREAD_INFO = Struct(
    "IOThreadInfo",
    {
        "id": "str", "thread-id": "int", "poll-max-ns": "int", "poll-grow": "int",
        "poll-shrink": "int",
    },
)  # fmt: skip
NEVER_POLLS = {"poll-max-ns": 0, "poll-grow": 0, "poll-shrink": 0}
"""Polling values of every iothread: it never polls but sleeps until the kernel wakes it."""
BALLOON_INFO = Struct("BalloonInfo", {"actual": "int"})


def _props(vm: Vm, slot: CpuSlot) -> dict[str, object]:
    """The topology ids of a place; a level above the core is named where there are several."""
    topology = vm.config.smp.topology
    props: dict[str, object] = {
        "socket-id": slot.socket, "core-id": slot.core, "thread-id": slot.thread,
    }  # fmt: skip
    if topology.dies > 1:
        props["die-id"] = slot.die
    if topology.clusters > 1:
        props["cluster-id"] = slot.cluster
    if slot.node is not None:
        props["node-id"] = slot.node
    return props


def _present(vm: Vm) -> list[CpuSlot]:
    return [slot for slot in vm.machine.cpus if slot.is_present]


def _arch(vm: Vm) -> str:
    return vm.machine.architecture.cpu_info


def _path(index: int) -> str:
    return f"/machine/unattached/device[{index}]"


@command("query-cpus", answer=ListOf(CPU_INFO))
def query_cpus(session: Session, _arguments: NoArguments) -> object:
    """List the vCPUs; `halted` says whether the machine is not running."""
    vm = session.vm
    return [
        {
            "CPU": slot.index, "current": slot.index == 0, "halted": vm.status != "running",
            "qom_path": _path(slot.index), "arch": _arch(vm), "thread_id": slot.thread_id,
            "props": _props(vm, slot),
        }
        for slot in _present(vm)
    ]  # fmt: skip


@command("query-cpus-fast", answer=ListOf(CPU_INFO_FAST))
def query_cpus_fast(session: Session, _arguments: NoArguments) -> object:
    """List the vCPUs with their host threads."""
    vm = session.vm
    return [
        {
            "cpu-index": slot.index, "qom-path": _path(slot.index), "thread-id": slot.thread_id,
            "arch": _arch(vm), "target": vm.machine.target, "props": _props(vm, slot),
        }
        for slot in _present(vm)
    ]  # fmt: skip


@command("query-hotpluggable-cpus", answer=ListOf(HOTPLUGGABLE_CPU))
def query_hotpluggable_cpus(session: Session, _arguments: NoArguments) -> object:
    """List the places for vCPUs; those that are taken have a path."""
    vm = session.vm
    return [
        {
            "type": f"host-{vm.machine.target}-cpu",
            "vcpus-count": 1,
            "props": _props(vm, slot),
            **({"qom-path": _path(slot.index)} if slot.is_present else {}),
        }
        for slot in reversed(list(vm.machine.cpus))
    ]


@command("query-name", answer=NAME_INFO)
def query_name(session: Session, _arguments: NoArguments) -> object:
    """Say the name that -name gave."""
    name = session.vm.config.name
    return {"name": name.guest} if name is not None and name.guest else {}


@command("query-kvm", answer=KVM_INFO)
def query_kvm(session: Session, _arguments: NoArguments) -> object:
    """Say whether the host has KVM, and whether this machine uses it."""
    present = session.host_has_kvm
    return {"enabled": present and session.vm.config.accel == "kvm", "present": present}


@command("query-chardev", answer=ListOf(CHARDEV_INFO))
def query_chardev(session: Session, _arguments: NoArguments) -> object:
    """List the chardevs."""
    return [
        {"label": c.label, "filename": c.description, "frontend-open": c.is_connected}
        for c in session.vm.machine.inventory.chardevs.opened
    ]


@command("query-iothreads", answer=ListOf(IOTHREAD_INFO))
def query_iothreads(session: Session, _arguments: NoArguments) -> object:
    """List the iothreads."""
    return [
        {"id": name, "thread-id": thread.thread_id, **NEVER_POLLS}
        for name, thread in session.vm.machine.inventory.iothreads.items()
    ]


class BalloonArguments(Options):
    """Arguments of balloon."""

    value: int = opt(Size(1, 1 << 62, unit="B"), help="bytes the guest should have")


def _balloon(session: Session) -> Balloon:
    found = session.vm.machine.balloon
    if found is None:
        raise QmpError("No balloon device has been activated", "DeviceNotActive")
    return found


@command("query-balloon", answer=BALLOON_INFO)
def query_balloon(session: Session, _arguments: NoArguments) -> object:
    """Say how much memory the guest has, in bytes."""
    return {"actual": _balloon(session).actual}


@command("balloon", BalloonArguments)
def balloon(session: Session, arguments: BalloonArguments) -> object:
    """Set how much memory the guest should have; BALLOON_CHANGED tells how far it has come."""
    _balloon(session).set_target(arguments.value)
    return {}
