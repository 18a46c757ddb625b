"""Writes docs/qmp-session.md: QEMU's own client talks to a running machine (needs /dev/kvm)."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from qemu.qmp.qmp_client import ExecuteError
from tests.machine_process import MachineProcess, QmpClient
from tests.payload import SPIN, say, write_kernel

TARGET = Path(__file__).resolve().parents[1] / "docs/qmp-session.md"
LONGEST = 400
"""Longer answers are cut: the schema alone has a thousand lines."""
TALK: list[tuple[str, dict[str, object]]] = [
    ("query-version", {}),
    ("query-target", {}),
    ("query-kvm", {}),
    ("query-machines", {}),
    ("query-cpu-definitions", {}),
    ("query-commands", {}),
    ("query-events", {}),
    ("query-qmp-schema", {}),
    ("query-command-line-options", {"option": "smp"}),
    ("qom-list-types", {"implements": "device"}),
    ("device-list-properties", {"typename": "virtio-blk-device"}),
    ("qom-list", {"path": "/machine/peripheral/disk0"}),
    ("qom-get", {"path": "/machine/peripheral/disk0", "property": "drive"}),
    ("query-name", {}),
    ("query-status", {}),
    ("query-cpus-fast", {}),
    ("query-cpus", {}),
    ("query-hotpluggable-cpus", {}),
    ("query-chardev", {}),
    ("query-iothreads", {}),
    ("query-block", {}),
    ("query-named-block-nodes", {}),
    ("query-blockstats", {}),
    ("query-block-jobs", {}),
    ("query-mem", {}),
    ("query-mem-gpa", {"gpa": "0x100000"}),
    ("calc-dirty-rate", {"calc-time": 1, "mode": "page-sampling"}),
    ("query-dirty-rate", {}),
    ("query-balloon", {}),
    ("query-gic-capabilities", {}),
    ("query-sev-capabilities", {}),
    ("query-tpm-models", {}),
    ("query-tpm-types", {}),
    ("query-migrate-capabilities", {}),
    ("human-monitor-command", {"command-line": "info version"}),
    ("trace-get-state", {"name": "qmp_*"}),
    ("no-such-command", {}),
    ("stop", {}),
    ("query-status", {}),
    ("cont", {}),
    ("system_reset", {}),
    ("quit", {}),
]


def shown(value: object) -> str:
    """JSON, cut when it is long."""
    text = json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text)} characters)"


def settled(value: object, scratch: str) -> object:
    """`value` without what differs from run to run: times, the host's thread ids, the folder."""
    if isinstance(value, str):
        return value.replace(scratch, "/run")
    if isinstance(value, list):
        return [settled(item, scratch) for item in value]
    if not isinstance(value, dict):
        return value
    changing = {"seconds", "microseconds"} | (
        {"thread-id", "thread_id"} if "props" in value else set()
    )
    return {key: 0 if key in changing else settled(item, scratch) for key, item in value.items()}


def record() -> str:
    """The session, made now."""
    lines = [
        "# A session with QEMU's client", "",
        "Recorded by `python -m tools.record_qmp_session` with the client of `qemu.qmp`, which",
        "reads the greeting and negotiates first. `->` is sent, `<-` is the answer; times and",
        "thread ids are shown as 0. tests/kvm/test_qmp_session.py fails when it is stale.",
        "", "```",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        image = folder / "disk.img"
        image.write_bytes(bytes(1 << 20))
        kernel = write_kernel(folder, say("on\n") + SPIN)
        argv = [
            "-machine", "microvm", "-smp", "2", "-name", "recorded", "-kernel", str(kernel),
            "-serial", "stdio", "-drive", f"id=d0,file={image},direct=off",
            "-device", "virtio-blk-device,drive=d0,id=disk0,serial=s0",
            "-qmp", f"unix:{folder}/qmp,server,nowait",
        ]  # fmt: skip
        lines.append(f"$ stratovirt {' '.join(argv)}".replace(scratch, "/run"))
        with MachineProcess(*argv) as machine, QmpClient(folder / "qmp") as client:
            machine.expect("on")
            for name, arguments in TALK:
                request = {"execute": name} | ({"arguments": arguments} if arguments else {})
                lines.append(f"-> {json.dumps(request)}")
                answer: dict[str, object]
                try:
                    answer = {"return": client.cmd(name, **arguments)}
                except ExecuteError as error:
                    answer = {"error": {"class": error.error_class, "desc": str(error)}}
                lines.append(f"<- {shown(settled(answer, scratch))}")
            for event in ("STOP", "RESUME", "RESET", "SHUTDOWN"):
                lines.append(f"<- {shown(settled(client.wait_event(event), scratch))}")
            machine.wait()
    return "\n".join([*lines, "```"]) + "\n"


def main() -> int:
    """Write it."""
    TARGET.write_text(record())
    print(f"wrote {TARGET}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
