"""What users write on the command line, and what they are told when it is wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratovirt.config.command_line import help_text, parse_command_line
from stratovirt.config.errors import ConfigError
from stratovirt.config.keyval import split
from stratovirt.config.kinds import Size
from stratovirt.config.machine import Machine, Memory, Smp

KERNEL = ["-kernel", "vmlinux"]


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
    assert config.qmp is not None and config.qmp.nowait


def test_a_doubled_comma_is_a_literal_one() -> None:
    assert split("-drive", "file=a,,b,id=x") == [("file", "a,b"), ("id", "x")]


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
    [("4", (4, 1, 1, 1, 1)), ("8,sockets=2,cores=2,threads=2", (2, 1, 1, 2, 2)),
     ("4,sockets=1", (1, 1, 1, 4, 1)), ("8,cores=4,threads=2", (1, 1, 1, 4, 2)),
     ("8,sockets=2,dies=2,cores=2", (2, 2, 1, 2, 1))],
)  # fmt: skip
def test_the_topology_follows_from_what_is_given(text: str, topology: tuple[int, ...]) -> None:
    found = Smp.parse(text).topology
    assert (found.sockets, found.dies, found.clusters, found.cores, found.threads) == topology


MISTAKES = [
    (["-smp", "0"], "-smp 0: cpus must be a number from 1 to 254, not '0'"),
    (["-smp", "255"], "-smp 255: cpus must be a number from 1 to 254, not '255'"),
    (["-smp", "4,cores=3"], "-smp 4,cores=3: sockets * dies * clusters * cores * threads is 3 "
     "but must equal maxcpus (4)"),
    (["-smp", "4,maxcpus=2"], "-smp 4,maxcpus=2: maxcpus (2) must be at least cpus (4)"),
    (["-smp", "2", "-smp", "2"], "-smp 2: given twice"),
    (["-m", "255"], "-m 255: size must be a size from 256M to 512G, not '255'"),
    (["-m", "513G"], "-m 513G: size must be a size from 256M to 512G, not '513G'"),
    (["-m", "-1"], "-m -1: size must be a size from 256M to 512G, not '-1'"),
    (["-m", "1X"], "-m 1X: size must be a size from 256M to 512G, not '1X'"),
    (["-machine", "pc"],
     "-machine pc: type must be microvm, none, q35 or virt, not 'pc'"),
    (["-machine", "microvm,usb=on"], "-machine microvm,usb=on: usb must be off, not 'on'"),
    (["-machine", "microvm,color=red"], "-machine microvm,color=red: unknown property 'color'; "
     "known are type, dump-guest-core, mem-share, accel or usb"),
    (["-machine", "microvm,mem-share=maybe"],
     "-machine microvm,mem-share=maybe: mem-share must be on or off, not 'maybe'"),
    (["-drive", "id=a"], "-drive id=a: file is missing; it must be a path"),
    (["-drive", "id=a,file=x,id=b"], "-drive id=a,file=x,id=b: id is given twice"),
    (["-drive", "id=1a,file=x"], "-drive id=1a,file=x: id must be a name of letters, digits, "
     "'-', '.' and '_' that starts with a letter, not '1a'"),
    (["-drive", "id=a,file=x,format=qcow2"],
     "-drive id=a,file=x,format=qcow2: format must be raw, not 'qcow2'"),
    (["-drive", "id=a,,file=x"],  "-drive id=a,,file=x: id must be a name of letters, digits, "
        "'-', '.' and '_' that starts with a letter, not 'a,file=x'"),
    (["-drive", "id=a,file=x"], "-drive id=a: no -device uses it"),
    (["-device", "virtio-blk-device,drive=no"],
     "-device virtio-blk-device,drive=no: no -drive has this id"),
    (["-device", "e1000"],
     "-device e1000: unknown driver 'e1000'; known are virtio-blk-device"),
    (["-serial", "usb"],
     "-serial usb: unknown backend 'usb'; known are stdio, pty, socket or file"),
    (["-serial", "chardev:nobody"], "-serial chardev:nobody: no -chardev has this id"),
    (["-chardev", "stdio,id=c"], "-chardev stdio,id=c: no device uses it"),
    (["-qmp", "tcp:1"], "-qmp tcp:1: must start with unix:PATH"),
    (["-qmp", "unix:/tmp/q"], "-qmp unix:/tmp/q: the monitor listens; add 'server'"),
    (["-qmp", f"unix:/{'x' * 107},server"],
     f"-qmp unix:/{'x' * 107},server: path must be at most 107 characters, not '/{'x' * 107}'"),
    (["-mod-test", "/tmp/s"], "-mod-test /tmp/s: needs -accel test"),
    (["-accel", "test"], "-accel test: needs -mod-test PATH, the socket of the test client"),
    (["-accel", "xen"], "-accel xen: accel must be kvm or test, not 'xen'"),
    (["-fast"], "-fast: unknown option; see stratovirt -help"),
    (["-smp"], "-smp: needs a value"),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "message"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_a_mistake_names_option_value_and_what_is_allowed(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_command_line([*KERNEL, *argv])
    assert str(caught.value) == message


def test_help_lists_every_property_with_what_it_allows() -> None:
    text = help_text()
    for option in (Machine, Smp, Memory):
        for key, field in option.fields.items():
            assert f"    {key}" in text
            assert field.kind.allowed in text


@given(st.integers(0, 1 << 50))
def test_sizes_without_unit_count_in_the_options_unit(number: int) -> None:
    kind = Size(0, 1 << 80, unit="K")
    assert kind.parse(str(number)) == number << 10
    assert kind.parse(f"{number}B") == number
