"""What users write on the command line, and what they are told when it is wrong."""

import ast
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stratovirt
from stratovirt.config.address_kinds import HostPciAddress, MacAddress, PciAddress
from stratovirt.config.chardev import SocketChardev
from stratovirt.config.command_line import parse_command_line
from stratovirt.config.errors import ConfigError
from stratovirt.config.keyval import split
from stratovirt.config.kinds import NumberSet, Size
from stratovirt.config.machine import Machine, Memory, Smp
from stratovirt.config.reference import IGNORED, definitions, help_text
from stratovirt.config.registry import drivers, find, hot_drivers
from tests.programs import OZONE, STRATOVIRT
from tests.unit.command_line_mistakes import MISTAKES

KERNEL = ["-kernel", "vmlinux"]


def test_a_drivers_name_of_a_monitors_client_is_looked_up_at_once() -> None:
    assert find("a-" * 500_000) is None


def test_every_driver_for_device_add_has_a_file_in_hotplug() -> None:
    assert {driver.name for driver in hot_drivers()} == {d.name for d in drivers() if d.is_hot}


@pytest.mark.parametrize(
    ("text", "mib"), [("256m", 256), ("256", 256), ("1G", 1024), ("size=512M", 512), ("2g", 2048)]
)
def test_memory_sizes_are_read_as_the_guidebook_writes_them(text: str, mib: int) -> None:
    assert Memory.parse(text).size == mib << 20


def test_the_guidebook_example_describes_the_machine_it_means() -> None:
    config = parse_command_line(
        [
            "-machine", "microvm", "-smp", "2", "-m", "1G", "-kernel", "k", "-initrd", "i",
            "-append", "console=ttyS0 root=/dev/vda",
            "-drive", "file=r,id=rootfs,readonly=off,direct=off",
            "-device", "virtio-blk-device,drive=rootfs,id=blk1,serial=abc",
            "-qmp", "unix:/tmp/q,server,nowait", "-serial", "stdio",
        ]
    )  # fmt: skip
    assert (config.smp.cpus, config.memory.size, config.accel) == (2, 1 << 30, "kvm")
    assert config.drives["rootfs"].direct is False
    assert config.devices[0].serial == "abc"
    assert [monitor.source for monitor in config.monitors] == ["-qmp unix:/tmp/q"]


def test_a_doubled_comma_is_a_literal_one() -> None:
    assert split("-drive", "file=a,,b,id=x") == [("file", "a,b"), ("id", "x")]


def test_an_iothread_may_wait_for_a_device_that_a_client_adds() -> None:
    line = [*KERNEL, "-object", "iothread,id=io", "-qmp", "unix:q,server,nowait"]
    assert list(parse_command_line(line).objects) == ["io"]


def test_one_comma_at_the_end_is_left_out_as_in_the_guidebook() -> None:
    # Section 2.10; QEMU takes one behind any option.
    line = ["-drive", "file=c,if=pflash,unit=0", "-drive", "file=d,if=pflash,unit=1,"]
    assert [f.unit for f in parse_command_line(["-machine", "q35,", *line]).flashes] == [0, 1]
    assert split("-drive", "id=d,,,") == [("id", "d,")], "what is doubled stays"
    for text in (",", ",id=d", "id=d,,,=x"):
        with pytest.raises(ConfigError, match="empty property"):
            split("-drive", text)


@given(st.lists(st.text(alphabet="ab=,", min_size=1, max_size=5), min_size=1, max_size=4))
def test_values_survive_quoting_and_splitting(values: list[str]) -> None:
    text = ",".join(f"k{i}={value.replace(',', ',,')}" for i, value in enumerate(values))
    assert [value for _, value in split("-x", text)] == values


@given(st.text(max_size=30))
def test_no_text_crashes_the_parser(text: str) -> None:
    for flag in ("-machine", "-smp", "-m", "-drive", "-device", "-serial", "-qmp", "-chardev"):
        try:
            parse_command_line([*KERNEL, flag, text])
        except ConfigError as error:
            assert "\n" not in str(error) or "\n" in text


@pytest.mark.parametrize(
    ("text", "topology"),
    [("4", (1, 1, 1, 4, 1)), ("1", (1, 1, 1, 1, 1)), ("4,cores=1", (4, 1, 1, 1, 1)),
     ("4,sockets=4", (4, 1, 1, 1, 1)), ("2,maxcpus=4", (1, 1, 1, 4, 1)),
     ("4,threads=2", (1, 1, 1, 2, 2)), ("8,sockets=2,cores=2", (2, 1, 1, 2, 2)),
     ("8,sockets=2,cores=2,threads=2", (2, 1, 1, 2, 2)),
     ("4,sockets=1", (1, 1, 1, 4, 1)), ("8,cores=4,threads=2", (1, 1, 1, 4, 2)),
     ("8,sockets=2,dies=2,cores=2", (2, 2, 1, 2, 1))],
)  # fmt: skip
def test_the_topology_follows_from_what_is_given(text: str, topology: tuple[int, ...]) -> None:
    found = Smp.parse(text).topology
    assert (found.sockets, found.dies, found.clusters, found.cores, found.threads) == topology


CASES = [case for cases in MISTAKES.values() for case in cases]


def test_there_are_enough_mistakes_to_learn_from() -> None:
    assert len(CASES) >= 200


@pytest.mark.parametrize(
    ("with_kernel", "argv", "message"), CASES, ids=[" ".join(argv)[:60] for _, argv, _ in CASES]
)
def test_a_mistake_names_option_value_and_what_is_allowed(
    with_kernel: bool, argv: list[str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_command_line([*(KERNEL if with_kernel else []), *argv])
    assert str(caught.value) == message
    assert len(message) < 700 and "\n" not in message


@pytest.mark.parametrize(
    "command", ["stratovirt -help", "stratovirt -version", "stratovirt -trace help", "ozone -help"]
)
def test_a_reader_that_has_seen_enough_is_no_mistake(command: str) -> None:
    program, *words = command.split()
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [{"stratovirt": STRATOVIRT, "ozone": OZONE}[program], *words], stdout=writer,
            stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_help_that_cannot_be_written_is_one_line() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [STRATOVIRT, "-help"], stdout=full,
            stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == b"stratovirt: standard output: No space left on device\n"


def test_help_lists_every_property_with_what_it_allows() -> None:
    text = help_text()
    for option in definitions():
        assert f"  {option.flag}\n" in text
        for key, field in option.fields.items():
            assert f"      {key}" in text
            assert field.kind.allowed in text


def test_what_libvirt_passes_and_nothing_else_is_ignored() -> None:
    argv = [
        "-cpu", "qemu64,+x2apic", "-overcommit", "mem-lock=off", "-no-user-config", "-nodefaults",
        "-uuid", "a3c7a3c7-0000-4000-8000-000000000000", "-sandbox", "on,obsolete=deny",
        "-msg", "timestamp=on", "-rtc", "base=utc", "-no-shutdown", "-nographic",
        "-realtime", "mlock=off", "-display", "none", "-usb", "-mem-prealloc",
        "-boot", "strict=on",
    ]  # fmt: skip
    config = parse_command_line([*KERNEL, *argv])
    assert config.mem_prealloc
    assert set(IGNORED) == {
        "-boot", "-display", "-msg", "-no-shutdown", "-no-user-config", "-nodefaults",
        "-nographic", "-overcommit", "-realtime", "-rtc", "-sandbox", "-usb",
    }  # fmt: skip


def test_numbers_switches_and_addresses_are_read_as_qemus_users_write_them() -> None:
    assert parse_command_line([*KERNEL, "-smp", "0x4"]).smp.cpus == 4
    assert Memory.parse("0x200").size == 512 << 20
    for word, value in (("on", True), ("true", True), ("yes", True), ("off", False),
                        ("false", False), ("no", False)):  # fmt: skip
        assert Machine.parse(f"microvm,mem-share={word}").mem_share is value
    for spelling in ("server,nowait", "server=on,wait=off", "server=yes,nowait=true"):
        config = parse_command_line([*KERNEL, "-qmp", f"unix:/tmp/q,{spelling}"])
        chardev = config.monitors[0].chardev
        assert isinstance(chardev, SocketChardev) and chardev.server and not chardev.waits
    assert PciAddress().parse("0x3.0x1") == (3, 1) and PciAddress().parse("1f") == (31, 0)
    assert NumberSet(7).parse("0-1:4-5") == (0, 1, 4, 5)
    assert HostPciAddress().parse("1A:00.3") == "0000:1a:00.3"
    assert MacAddress().parse("12:34:56:78:9A:BC") == bytes.fromhex("123456789abc")


@given(st.integers(0, 1 << 50))
def test_sizes_without_unit_count_in_the_options_unit(number: int) -> None:
    kind = Size(0, 1 << 80, unit="K")
    assert kind.parse(str(number)) == number << 10
    assert kind.parse(f"{number}B") == number


OF_THE_HOST = ("vfio/container.py", "vfio/host.py")
"""Files that speak of the host kernel's driver vfio-pci."""


def literals(path: Path) -> Iterator[tuple[int, str]]:
    """The texts in a file's code, with their lines; docstrings explain and may give examples."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    explained = [node.value for node in nodes if isinstance(node, ast.Expr)]
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in explained:
            yield node.lineno, node.value


def test_a_drivers_name_stands_in_its_own_file_only() -> None:
    names = [name for driver in drivers() for name in (driver.name, *driver.aliases)]
    root = Path(stratovirt.__file__).parent
    files = {str(path.relative_to(root)): path for path in sorted(root.rglob("*.py"))}
    found = [
        f"{name}:{line}: {text}"
        for name, path in files.items()
        if not name.startswith(("drivers/", "hotplug/")) and name not in OF_THE_HOST
        for line, text in literals(path)
        if any(word in text for word in names)
    ]
    assert found == []


def test_a_global_property_goes_to_the_driver_that_it_names() -> None:
    argv = ["-machine", "q35", "-kernel", "k", "-global", "pcie-root-port.fast-unplug=1"]
    (fast,) = parse_command_line(argv).globals
    assert fast.driver.name == "pcie-root-port" and fast.driver.of_all is type(fast)
    assert "pcie-root-port.fast-unplug" in help_text()
    for text in ("virtio-blk-pci.color=1", "nobody.color=1", "color"):
        with pytest.raises(ConfigError, match=r"known are pcie-root-port\.fast-unplug$"):
            parse_command_line(["-global", text])
