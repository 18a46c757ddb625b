"""Tiny kernels that KVM runs at full speed anywhere, for the host's architecture."""

import os
from importlib import import_module
from pathlib import Path

from tests.payloads import Payloads

PAYLOADS: Payloads = import_module(f"tests.payloads.{os.uname().machine}").PAYLOADS

say = PAYLOADS.say
RESET, POWER_OFF = PAYLOADS.reset, PAYLOADS.power_off
SPIN, BUSY, CRASH = PAYLOADS.spin, PAYLOADS.busy, PAYLOADS.crash


def write_kernel(folder: Path, code: bytes) -> Path:
    """Put the payload into a file for -kernel."""
    path = folder / "payload.elf"
    path.write_bytes(PAYLOADS.kernel(code))
    return path


def newc(name: str, content: bytes) -> bytes:
    """One entry of a cpio archive, a regular file."""
    fields = [0] * 13
    fields[1], fields[4] = 0o100644, 1
    fields[6], fields[11] = len(content), len(name) + 1
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    head += b"\0" * (-len(head) % 4)
    return head + content + b"\0" * (-len(content) % 4)
