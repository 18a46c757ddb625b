"""Where the lab's CPUs are, asked of QEMU's monitor when a lab has to be given up."""

import socket
from pathlib import Path

PROMPT = b"(qemu) "
PATIENCE_S = 2.0
SAMPLES = 5
REGISTERS = ("CPU#", "RIP=", "CR3=")


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
