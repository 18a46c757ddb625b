"""The command line of ``ozone`` (the guidebook's section 6.1)."""

from __future__ import annotations

import os
import re

from ozone.errors import OzoneError
from ozone.linux import CAPABILITIES

NAME_LONGEST = 255
CONTROLLERS = ("cpuset.cpus", "memory.limit_in_bytes")
LARGEST_ID = (1 << 32) - 2

HELP = """\
usage: ozone -name NAME -exec_file FILE -uid UID -gid GID [...] -- ARGUMENTS
       ozone -name NAME -exec_file FILE -clean-resource

  -name NAME             a name that no other jail has, at most 255 bytes
  -exec_file FILE        a static ELF binary, or stratovirt itself
  -uid UID, -gid GID     whom the program runs as
  -capability CAP_* ...  what it may do beyond that user; nothing if not given
  -netns FILE            a network namespace, as ip netns makes it
  -source FILE ...       what the program finds in its root directory
  -numa NODE             where its memory comes from; needed with cpuset.cpus
  -cgroup NAME=VALUE ... cpuset.cpus and memory.limit_in_bytes
  -clean-resource        remove what the jail of that name left
  -- ARGUMENTS           for the program
"""


class Options:
    """The parsed command line; paths are as given."""

    def __init__(
        self,
        *,
        name: str,
        exec_file: str,
        uid: int,
        gid: int,
        capabilities: list[str],
        netns: str | None,
        sources: list[str],
        numa: int | None,
        cgroup: dict[str, str],
        clean_resource: bool,
        arguments: list[str],
    ) -> None:
        self.name, self.exec_file, self.uid, self.gid = name, exec_file, uid, gid
        self.capabilities, self.netns, self.sources = capabilities, netns, sources
        self.numa, self.cgroup, self.clean_resource = numa, cgroup, clean_resource
        self.arguments = arguments

    @property
    def program(self) -> str:
        """The executable's file name."""
        return os.path.basename(self.exec_file)


def parse(argv: list[str]) -> Options:
    """Read the command line; raises OzoneError."""
    words, arguments = argv, []
    if "--" in argv:
        at = argv.index("--")
        words, arguments = argv[:at], argv[at + 1 :]
    given: dict[str, list[str]] = {}
    flag = ""
    for word in words:
        if word.startswith("-") and not re.fullmatch(r"-\d+", word):
            flag = word
            if flag not in _COUNTS:
                raise OzoneError(f"{flag}: no such argument; known are {', '.join(_COUNTS)}")
            if flag in given:
                raise OzoneError(f"{flag}: given twice")
            given[flag] = []
        elif not flag:
            raise OzoneError(f"'{word[:80]}' belongs to no argument")
        else:
            given[flag].append(word)
    for flag, values in given.items():
        _check_count(flag, values)
    return _from(given, _join_append(arguments))


def _join_append(arguments: list[str]) -> list[str]:
    """Join the words of -append into one: the guidebook's example gives several."""
    if "-append" not in arguments:
        return arguments
    first = arguments.index("-append") + 1
    last = first
    while last < len(arguments) and not arguments[last].startswith("-"):
        last += 1
    return [*arguments[:first], " ".join(arguments[first:last]), *arguments[last:]]


_COUNTS = {
    "-name": "one", "-exec_file": "one", "-uid": "one", "-gid": "one", "-capability": "many",
    "-netns": "one", "-source": "many", "-numa": "one", "-cgroup": "many",
    "-clean-resource": "none",
}  # fmt: skip


def _check_count(flag: str, values: list[str]) -> None:
    wanted = _COUNTS[flag]
    if wanted == "none" and values:
        raise OzoneError(f"{flag} takes no value, not '{values[0][:80]}'")
    if wanted == "one" and len(values) != 1:
        raise OzoneError(f"{flag} takes one value, not {len(values)}")
    if wanted == "many" and not values:
        raise OzoneError(f"{flag} takes at least one value")


def _from(given: dict[str, list[str]], arguments: list[str]) -> Options:
    cleans = "-clean-resource" in given
    needed = ("-name", "-exec_file") if cleans else ("-name", "-exec_file", "-uid", "-gid")
    for flag in needed:
        if flag not in given:
            raise OzoneError(f"{flag} is needed")
    options = Options(
        name=_name(given["-name"][0]),
        exec_file=_exec_file(given["-exec_file"][0]),
        uid=_number("-uid", given.get("-uid", ["0"])[0], LARGEST_ID),
        gid=_number("-gid", given.get("-gid", ["0"])[0], LARGEST_ID),
        capabilities=_capabilities(given.get("-capability", [])),
        netns=given["-netns"][0] if "-netns" in given else None,
        sources=given.get("-source", []),
        numa=_number("-numa", given["-numa"][0], 1023) if "-numa" in given else None,
        cgroup=_cgroup(given.get("-cgroup", [])),
        clean_resource=cleans,
        arguments=arguments,
    )
    if "cpuset.cpus" in options.cgroup and options.numa is None:
        raise OzoneError("-numa is needed where -cgroup sets cpuset.cpus")
    names = [os.path.basename(source.rstrip("/")) for source in options.sources]
    for name in names:
        if names.count(name) > 1 or not name:
            raise OzoneError(f"-source: '{name}' would be there twice; the jail has one of a name")
    return options


def _name(value: str) -> str:
    if not value or len(os.fsencode(value)) > NAME_LONGEST:
        raise OzoneError(f"-name: must have 1 to {NAME_LONGEST} bytes, not {len(value)}")
    if "/" in value or value in (".", ".."):
        raise OzoneError(f"-name {value[:80]}: must be a file name, without '/'")
    return value


def _exec_file(value: str) -> str:
    # Its name is part of the jail's path, which -clean-resource removes.
    if os.path.basename(value) in ("", ".", ".."):
        raise OzoneError(f"-exec_file {value[:80]}: must be the path of a file")
    return value


def _number(flag: str, value: str, most: int) -> int:
    if not re.fullmatch(r"\d{1,10}", value) or int(value) > most:
        raise OzoneError(f"{flag} must be a number from 0 to {most}, not '{value[:80]}'")
    return int(value)


def _capabilities(values: list[str]) -> list[str]:
    names = [name for value in values for name in value.split(",")]
    for name in names:
        if name not in CAPABILITIES:
            raise OzoneError(f"-capability: there is no '{name[:80]}'; see capabilities(7)")
    return names


def _cgroup(values: list[str]) -> dict[str, str]:
    limits: dict[str, str] = {}
    for word in re.split(r"\s+", " ".join(values)) if values else []:
        # A comma separates controllers, and CPUs as well: only the former is followed by a name.
        for entry in re.split(r",(?=[a-z])", word):
            name, equals, value = entry.partition("=")
            if name not in CONTROLLERS or not equals:
                raise OzoneError(
                    f"-cgroup {entry[:80]}: must be NAME=VALUE with one of {', '.join(CONTROLLERS)}"
                )
            if name in limits:
                raise OzoneError(f"-cgroup: {name} given twice")
            pattern = r"\d+(-\d+)?(,\d+(-\d+)?)*" if name == "cpuset.cpus" else r"\d{1,18}"
            if not re.fullmatch(pattern, value):
                kind = "a list as 0-2,5" if name == "cpuset.cpus" else "a number of bytes"
                raise OzoneError(f"-cgroup: {name} must be {kind}, not '{value[:80]}'")
            limits[name] = value
    return limits
