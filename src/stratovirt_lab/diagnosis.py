"""Why a lab ended: what its console shows, and where its CPUs are when it has to be given up."""

import re
import socket
from pathlib import Path

from stratovirt_lab.architectures import Architecture

PROMPT = b"(qemu) "
PATIENCE_S = 2.0
SAMPLES = 5
ASSERTIONS = "assertion failed|Assertion `"
"""QEMU's own, in its log."""


def qemus_fault(job: Path, architecture: Architecture) -> str | None:
    """The line in the logs of the lab in folder `job` that shows a fault of QEMU, if one does."""
    signs = {"qemu.log": ASSERTIONS, "console.log": architecture.kernel_faults}
    for name, sign in signs.items():
        path = job / name
        if path.exists():
            for line in path.read_text(errors="replace").splitlines():
                if re.search(sign, line):
                    return line.strip()
    return None


def where_the_cpus_are(monitor: Path, architecture: Architecture) -> str:
    """A few samples of each CPU's program counter; kernel addresses are fixed (nokaslr)."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE_S)
            client.connect(str(monitor))
            _until_prompt(client)
            lines: list[str] = []
            registers = architecture.registers
            for _ in range(SAMPLES):
                client.sendall(b"info registers -a\n")
                answer = _until_prompt(client).decode(errors="replace")
                lines += [line for line in answer.splitlines() if line.startswith(registers)]
            return "\n".join(lines)
    except OSError as error:
        return f"QEMU's monitor does not answer: {error}"


def _until_prompt(client: socket.socket) -> bytes:
    answer = b""
    while not answer.endswith(PROMPT):
        received = client.recv(65536)
        if not received:
            break
        answer += received
    return answer
