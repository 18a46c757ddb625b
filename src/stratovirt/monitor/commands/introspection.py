"""Queries of this program's capabilities, by management tools before a machine starts."""

from __future__ import annotations

from stratovirt.architectures import DEFAULT_BOARD, NO_BOARD
from stratovirt.config.kinds import Text
from stratovirt.config.options import Options, opt
from stratovirt.monitor.commands.machine import ARCHITECTURE
from stratovirt.monitor.registry import COMMANDS, NoArguments, command
from stratovirt.monitor.schema import EVENTS, Enum, ListOf, Struct
from stratovirt.monitor.session import version
from stratovirt.qmp.errors import QmpError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.config.options import Field
    from stratovirt.monitor.session import Session

VERSION_TRIPLE = Struct("VersionTriple", {"major": "int", "minor": "int", "micro": "int"})
VERSION_INFO = Struct("VersionInfo", {"qemu": VERSION_TRIPLE, "package": "str"})
COMMAND_INFO = Struct("CommandInfo", {"name": "str"})
EVENT_INFO = Struct("EventInfo", {"name": "str"})
TARGET_INFO = Struct("TargetInfo", {"arch": ARCHITECTURE})
MACHINE_INFO = Struct(
    "MachineInfo",
    {
        "name": "str", "alias?": "str", "is-default?": "bool", "cpu-max": "int",
        "hotpluggable-cpus": "bool", "numa-mem-supported": "bool", "deprecated": "bool",
        "default-cpu-type?": "str",
    },
)  # fmt: skip
CPU_DEFINITION = Struct(
    "CpuDefinitionInfo",
    {
        "name": "str", "migration-safe?": "bool", "static": "bool",
        "unavailable-features?": ListOf("str"), "typename": "str", "deprecated": "bool",
    },
)  # fmt: skip
PARAMETER_TYPE = Enum("CommandLineParameterType", "string", "boolean", "number", "size")
PARAMETER = Struct(
    "CommandLineParameterInfo",
    {"name": "str", "type": PARAMETER_TYPE, "help?": "str", "default?": "str"},
)
OPTION = Struct("CommandLineOptionInfo", {"option": "str", "parameters": ListOf(PARAMETER)})
GIC = Struct("GICCapability", {"version": "int", "emulated": "bool", "kernel": "bool"})
SEV = Struct(
    "SevCapability",
    {"pdh": "str", "cert-chain": "str", "cbitpos": "int", "reduced-phys-bits": "int"},
)
TPM_MODEL = Enum("TpmModel", "tpm-tis", "tpm-crb", "tpm-spapr")
TPM_TYPE = Enum("TpmType", "passthrough", "emulator")
MIGRATION_CAPABILITY = Struct("MigrationCapabilityStatus", {"capability": "str", "state": "bool"})
SCHEMA_META_TYPE = Enum(
    "SchemaMetaType",
    "builtin", "enum", "array", "object", "alternate", "command", "event",
)  # fmt: skip
SCHEMA_MEMBER = Struct("SchemaInfoObjectMember", {"name": "str", "type": "str", "default?": "any"})
SCHEMA_INFO = Struct(
    "SchemaInfo",
    {
        "name": "str", "meta-type": SCHEMA_META_TYPE, "json-type?": "str",
        "values?": ListOf("str"), "element-type?": "str", "members?": ListOf(SCHEMA_MEMBER),
        "arg-type?": "str", "ret-type?": "str", "allow-oob?": "bool",
    },
)  # fmt: skip
PARAMETER_TYPES = {"int": "number", "bool": "boolean", "size": "size"}


@command("query-version", answer=VERSION_INFO)
def query_version(_session: Session, _arguments: NoArguments) -> object:
    """Say what answers here."""
    return version()


@command("query-commands", answer=ListOf(COMMAND_INFO))
def query_commands(_session: Session, _arguments: NoArguments) -> object:
    """List the commands."""
    return [{"name": name} for name in sorted(COMMANDS)]


@command("query-events", answer=ListOf(EVENT_INFO))
def query_events(_session: Session, _arguments: NoArguments) -> object:
    """List the events."""
    return [{"name": name} for name in EVENTS]


@command("query-qmp-schema", answer=ListOf(SCHEMA_INFO))
def query_qmp_schema(_session: Session, _arguments: NoArguments) -> object:
    """Describe every command and event with its types."""
    from stratovirt.monitor.schema_listing import SchemaListing

    return SchemaListing().entities


@command("query-target", answer=TARGET_INFO)
def query_target(session: Session, _arguments: NoArguments) -> object:
    """Say which architecture the guest has."""
    return {"arch": session.vm.machine.target}


@command("query-machines", answer=ListOf(MACHINE_INFO))
def query_machines(session: Session, _arguments: NoArguments) -> object:
    """List the boards that -machine can build."""
    architecture = session.vm.machine.architecture
    cpu_type = {"default-cpu-type": f"host-{architecture.name}-cpu"}
    found = [
        _machine_info(board.name, board.vcpus_most) | cpu_type
        for board in architecture.boards.values()
    ]
    return [*found, _machine_info(NO_BOARD, 1)]


def _machine_info(name: str, vcpus_most: int) -> dict[str, object]:
    return {
        "name": name,
        "is-default": name == DEFAULT_BOARD,
        "cpu-max": vcpus_most,
        "hotpluggable-cpus": False,
        "numa-mem-supported": False,
        "deprecated": False,
    }


@command("query-cpu-definitions", answer=ListOf(CPU_DEFINITION))
def query_cpu_definitions(session: Session, _arguments: NoArguments) -> object:
    """List the CPU models: the host's own."""
    return [
        {
            "name": "host",
            "migration-safe": False,
            "static": False,
            "unavailable-features": [],
            "typename": f"host-{session.vm.machine.target}-cpu",
            "deprecated": False,
        }
    ]


class OptionArguments(Options):
    """Arguments that name a command-line option."""

    option: str | None = opt(Text(longest=64), default=None, help="name without its dash")


@command("query-command-line-options", OptionArguments, answer=ListOf(OPTION))
def query_command_line_options(session: Session, arguments: OptionArguments) -> object:
    """List the command line's options with their properties."""
    from stratovirt.config.reference import definitions

    found: dict[str, dict[str, dict[str, object]]] = {}
    for definition in definitions(may_import=session.vm.process.may_import_packages):
        flag, _, variant = definition.flag.removeprefix("-").partition(" ")
        parameters = found.setdefault(flag, {})
        if flag == "device" and variant:
            # As in QEMU: drivers have device-list-properties, so -device shows none here.
            continue
        for key, field in definition.fields.items():
            parameters.setdefault(key, _parameter(field))
    if arguments.option is not None and arguments.option not in found:
        raise QmpError(f"Unknown command line option '{arguments.option}'")
    return [
        {"option": flag, "parameters": list(parameters.values())}
        for flag, parameters in found.items()
        if arguments.option in (None, flag)
    ]


def _parameter(field: Field) -> dict[str, object]:
    from stratovirt.config.reference import default_text

    kind = PARAMETER_TYPES.get(field.kind.json_type, "string")
    described: dict[str, object] = {"name": field.key, "type": kind, "help": field.help}
    if default := default_text(field):
        described["default"] = default
    return described


@command("query-gic-capabilities", answer=ListOf(GIC))
def query_gic_capabilities(session: Session, _arguments: NoArguments) -> object:
    """List the interrupt controllers of Arm machines."""
    versions = session.vm.machine.architecture.gic_versions
    return [{"version": version, "emulated": False, "kernel": True} for version in versions]


@command("query-sev-capabilities", answer=SEV)
def query_sev_capabilities(_session: Session, _arguments: NoArguments) -> object:
    """Encrypted memory is not supported, which is an error as QEMU's is."""
    raise QmpError("SEV feature is not available")


@command("query-tpm-models", answer=ListOf(TPM_MODEL))
def query_tpm_models(_session: Session, _arguments: NoArguments) -> object:
    """List the TPM devices; there are none."""
    return []


@command("query-tpm-types", answer=ListOf(TPM_TYPE))
def query_tpm_types(_session: Session, _arguments: NoArguments) -> object:
    """List the TPM back ends; there are none."""
    return []


@command("query-migrate-capabilities", answer=ListOf(MIGRATION_CAPABILITY))
def query_migrate_capabilities(_session: Session, _arguments: NoArguments) -> object:
    """List what can be switched about migration; nothing can."""
    return []
