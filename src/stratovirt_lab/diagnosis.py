"""Why a lab ended: what its console shows, and where its CPUs are when it has to be given up."""

import re
import socket
from pathlib import Path

PROMPT = b"(qemu) "
PATIENCE_S = 2.0
SAMPLES = 5
REGISTERS = ("CPU#", "RIP=", "CR3=")

QEMUS_FAULTS = {
    # An assertion of its own.
    "qemu.log": re.compile(r"assertion failed|Assertion `"),
    # It executed a breakpoint that the kernel had taken away again, or lost a task's stack: what
    # an emulator does whose SVM is not mended, and what no guest can do to its host's kernel.
    "console.log": re.compile(r"\bint3: 0000 |\bdouble fault: 0000 "),
}
"""Lines in a lab's logs that show a fault of the emulator, by the log's name."""


def qemus_fault(job: Path) -> str | None:
    """The line in the logs of the lab in folder `job` that shows a fault of QEMU, if one does."""
    for name, sign in QEMUS_FAULTS.items():
        path = job / name
        if path.exists():
            for line in path.read_text(errors="replace").splitlines():
                if sign.search(line):
                    return line.strip()
    return None


def where_the_cpus_are(monitor: Path) -> str:
    """A few samples of each CPU's program counter; kernel addresses are fixed (nokaslr)."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE_S)
            client.connect(str(monitor))
            _until_prompt(client)
            lines: list[str] = []
            for _ in range(SAMPLES):
                client.sendall(b"info registers -a\n")
                answer = _until_prompt(client).decode(errors="replace")
                lines += [line for line in answer.splitlines() if line.startswith(REGISTERS)]
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
