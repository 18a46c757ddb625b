"""``make fuzz T=command-line``: no argv, however odd, gets more than one clear line."""

import sys

import atheris

with atheris.instrument_imports(include=["stratovirt.config"]):
    from stratovirt.config import (  # noqa: F401
        board_check,
        chardev,
        devices,
        drive,
        net,
        numa,
        numa_check,
        objects,
        process,
    )
    from stratovirt.config.command_line import _SWITCHES, _TAKERS, parse_command_line
    from stratovirt.config.errors import ConfigError
    from stratovirt.config.reference import definitions

FLAGS = ["-kernel", *_TAKERS, *_SWITCHES, "-D", "-usb", "-boot", "--smp", "-nonsense"]
KEYS = sorted({key for option in definitions() for key in option.fields})
HEADS = sorted({option.flag.rpartition(" ")[2] for option in definitions()})
VALUES = ["a", "b", "0", "1", "2", "0x1", "on", "off", "1G", "256M", "/x", "3:4", "0-1", ""]


def word(data: atheris.FuzzedDataProvider) -> str:
    """One value: mostly of known words, sometimes of anything."""
    pieces: list[str] = []
    for _ in range(data.ConsumeIntInRange(0, 6)):
        kind = data.ConsumeIntInRange(0, 4)
        if kind == 0:
            pieces.append(data.ConsumeUnicodeNoSurrogates(12))
        elif kind == 1:
            pieces.append(data.PickValueInList(HEADS))
        else:
            key, value = data.PickValueInList(KEYS), data.PickValueInList(VALUES)
            pieces.append(f"{key}={value}")
    return ",".join(pieces)


def one_input(content: bytes) -> None:
    """Build an argv and read it."""
    data = atheris.FuzzedDataProvider(content)
    argv: list[str] = ["-kernel", "k"] if data.ConsumeBool() else []
    for _ in range(data.ConsumeIntInRange(0, 6)):
        argv += [data.PickValueInList(FLAGS), word(data)]
    try:
        parse_command_line(argv)
    except ConfigError as error:
        # Room for the cut text of the user, the cut value, and the names of all drivers.
        assert 0 < len(str(error)) < 1200, str(error)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
