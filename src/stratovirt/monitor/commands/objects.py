"""The part of QEMU's object model that management tools use: types, properties and a tree."""

from __future__ import annotations

from stratovirt.architectures import NO_BOARD
from stratovirt.config.kinds import OnOff, Text
from stratovirt.config.options import Options, opt
from stratovirt.machine.inventory import PERIPHERAL
from stratovirt.monitor.registry import command
from stratovirt.monitor.schema import ListOf, Struct
from stratovirt.qmp.errors import QmpError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.monitor.session import Session
    from stratovirt.virtio.balloon import Balloon
    from stratovirt.vm import Vm

TYPE_INFO = Struct("ObjectTypeInfo", {"name": "str", "abstract?": "bool", "parent?": "str"})
PROPERTY_INFO = Struct(
    "ObjectPropertyInfo",
    {"name": "str", "type": "str", "description?": "str", "default-value?": "any"},
)
PROPERTY_TYPES = {"int": "int64", "bool": "bool", "size": "size", "enum": "str"}
PARENTS = {"object": None, "device": "object", "machine": "object", "cpu": "device"}
"""The abstract types, each with its parent."""


class TypesArguments(Options):
    """Arguments that select types."""

    implements: str | None = opt(Text(longest=128), default=None, help="only types below this one")
    abstract: bool = opt(OnOff(), default=False, help="abstract types too")


class TypeArguments(Options):
    """Arguments that name a type."""

    typename: str = opt(Text("the name of a type", 128), help="a name that qom-list-types gives")


class PathArguments(Options):
    """Arguments that name a path in the tree."""

    path: str = opt(Text("an absolute path", 1024), help="path of the object")


class PropertyArguments(PathArguments):
    """Arguments that name an object's property."""

    property: str = opt(Text("the name of a property", 128), help="name of the property")


def concrete_types(vm: Vm) -> dict[str, tuple[str, type[Options] | None]]:
    """(parent, definition) of every type that can be instantiated."""
    from stratovirt.config.machine import Cpu, Machine
    from stratovirt.config.objects import OBJECTS
    from stratovirt.config.registry import drivers

    architecture = vm.machine.architecture
    found = drivers(may_import=vm.process.may_import_packages)
    types: dict[str, tuple[str, type[Options] | None]] = {}
    types |= {driver.name: ("device", driver.options) for driver in found}
    types |= {name: ("object", thing) for name, thing in OBJECTS.variants.items()}
    boards = [*architecture.boards, NO_BOARD]
    types |= {f"{board}-machine": ("machine", Machine) for board in boards}
    types[f"host-{architecture.name}-cpu"] = ("cpu", Cpu)
    return types


def _is_below(parent: str | None, wanted: str) -> bool:
    while parent is not None and parent != wanted:
        parent = PARENTS[parent]
    return parent == wanted


@command("qom-list-types", TypesArguments, answer=ListOf(TYPE_INFO))
def qom_list_types(session: Session, arguments: TypesArguments) -> object:
    """List the types of devices, objects, machines and CPUs."""
    found: list[dict[str, object]] = []
    if arguments.abstract:
        found += [
            {"name": name, "abstract": True} | ({"parent": parent} if parent else {})
            for name, parent in PARENTS.items()
            if arguments.implements is None or _is_below(name, arguments.implements)
        ]
    found += [
        {"name": name, "parent": parent}
        for name, (parent, _) in concrete_types(session.vm).items()
        if arguments.implements in (None, name) or _is_below(parent, str(arguments.implements))
    ]
    return found


@command("device-list-properties", TypeArguments, answer=ListOf(PROPERTY_INFO))
def device_list_properties(session: Session, arguments: TypeArguments) -> object:
    """List a type's properties, from the definition that -device reads."""
    return _properties(session, arguments.typename)


@command("qom-list-properties", TypeArguments, answer=ListOf(PROPERTY_INFO))
def qom_list_properties(session: Session, arguments: TypeArguments) -> object:
    """List a type's properties; the same list for every kind of type."""
    return _properties(session, arguments.typename)


def _properties(session: Session, name: str) -> object:
    types = concrete_types(session.vm)
    if name not in types:
        raise QmpError(f"Class '{name}' not found", "DeviceNotFound")
    definition = types[name][1]
    listed: list[dict[str, object]] = []
    for key, field in definition.fields.items() if definition is not None else ():
        kind = PROPERTY_TYPES.get(field.kind.json_type, "str")
        entry: dict[str, object] = {"name": key, "type": kind, "description": field.help}
        if isinstance(field.default, bool | int | str):
            entry["default-value"] = field.default
        listed.append(entry)
    return listed


class BalloonStatistics:
    """The guest's last memory statistics; a read requests new ones from the guest."""

    def __init__(self, balloon: Balloon) -> None:
        self._balloon = balloon

    def read(self) -> dict[str, object]:
        """The value of QEMU's guest-stats: counts, and sizes in bytes."""
        self._balloon.ask_for_statistics()
        return {"stats": dict(self._balloon.statistics)}


Node = dict[str, object]
"""An object of the tree: its children as nodes, its properties as values."""


def _tree(vm: Vm) -> Node:
    peripheral: Node = {}
    anonymous: Node = {}
    balloon = vm.machine.balloon
    for device in vm.machine.inventory.devices:
        options = device.options
        node: Node = {"type": options.flag.rpartition(" ")[2]}
        node |= {
            key: value
            for key, field in options.fields.items()
            if isinstance(value := getattr(options, field.name), bool | int | str)
        }
        if balloon is not None and options.driver.device_id == balloon.device_id:
            node["guest-stats"] = BalloonStatistics(balloon)
        folder, _, name = device.path.rpartition("/")
        (peripheral if folder == PERIPHERAL else anonymous)[name] = node
    cpus: Node = {
        f"device[{slot.index}]": {"type": f"host-{vm.machine.target}-cpu", "realized": True}
        for slot in vm.machine.cpus
        if slot.is_present
    }
    machine: Node = {
        "type": f"{vm.config.machine.type}-machine",
        "peripheral": peripheral,
        "peripheral-anon": anonymous,
        "unattached": cpus,
    }
    opened = vm.machine.inventory.chardevs.opened
    chardevs: Node = {c.label: {"filename": c.description} for c in opened}
    return {"machine": machine, "objects": {}, "chardevs": chardevs}


def _find(vm: Vm, path: str) -> Node:
    node: object = _tree(vm)
    for name in path.split("/")[1:]:
        if name:
            node = node.get(name) if isinstance(node, dict) else None
    if not path.startswith("/") or not isinstance(node, dict):
        raise QmpError(f"Device '{path}' not found", "DeviceNotFound")
    return node


@command("qom-list", PathArguments, answer=ListOf(PROPERTY_INFO))
def qom_list(session: Session, arguments: PathArguments) -> object:
    """List what is at a path."""
    return [
        {"name": key, "type": _value_type(value)}
        for key, value in _find(session.vm, arguments.path).items()
    ]


def _value_type(value: object) -> str:
    if isinstance(value, dict):
        return f"child<{value.get('type', 'container')}>"
    return {bool: "bool", int: "int64"}.get(type(value), "str")


@command("qom-get", PropertyArguments, answer="any")
def qom_get(session: Session, arguments: PropertyArguments) -> object:
    """Read a property."""
    node = _find(session.vm, arguments.path)
    value = node.get(arguments.property)
    if value is None:
        raise QmpError(f"Property '{arguments.path}.{arguments.property}' not found")
    if isinstance(value, BalloonStatistics):
        return value.read()
    if isinstance(value, dict):
        return f"{arguments.path.rstrip('/')}/{arguments.property}"
    return value
