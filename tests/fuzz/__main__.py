"""``make fuzz T=NAME MIN=10``: run one fuzz target for so many minutes; T=all runs each so long.

A target begins with the inputs kept in ``tests/fuzz/corpus``; what it finds beyond them, and what
breaks it, goes to ``build/fuzz``.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

DEVICES = ("virtio-blk", "virtio-net", "virtio-console", "virtio-balloon", "virtio-rng")
TARGETS = {
    "command-line": ["tests.fuzz.command_line"],
    "qmp": ["tests.fuzz.qmp"],
    "state": ["tests.fuzz.state"],
    "state-q35": ["tests.fuzz.state", "q35"],
    "kernel": ["tests.fuzz.kernel"],
    "vhost-user": ["tests.fuzz.vhost_user"],
    "broker": ["tests.fuzz.broker"],
    "pci": ["tests.fuzz.pci"],
    "serial": ["tests.fuzz.serial"],
    "fw-cfg": ["tests.fuzz.fw_cfg"],
    **{name: ["tests.fuzz.devices", name] for name in DEVICES},
}
LONGEST_INPUT = 512
CORPUS = Path(__file__).with_name("corpus")
FOUND = Path("build/fuzz")


def command(name: str, minutes: float) -> list[str]:
    """The program that runs a target."""
    found = FOUND / name
    found.mkdir(parents=True, exist_ok=True)
    kept = CORPUS / name
    return [
        sys.executable, "-m", *TARGETS[name], f"-max_total_time={minutes * 60:.0f}",
        f"-max_len={LONGEST_INPUT}", f"-artifact_prefix={FOUND}/{name}-", str(found),
        *([str(kept)] if kept.is_dir() else []),
    ]  # fmt: skip


def run_quietly(name: str, minutes: float) -> bool:
    """Run a target; what it said is shown when it broke."""
    done = subprocess.run(
        command(name, minutes), capture_output=True, text=True, errors="replace", check=False
    )
    last = done.stderr.rstrip().rpartition("\n")[2] if not done.returncode else "BROKEN"
    print(f"fuzz {name}: {last[:100]}", flush=True)
    if done.returncode:
        print("\n".join(line[:300] for line in done.stderr.splitlines()[-40:]), flush=True)
    return done.returncode == 0


def main() -> int:
    """TARGET MINUTES."""
    name, minutes = sys.argv[1], float(sys.argv[2])
    if name == "all":
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            outcomes = list(pool.map(lambda target: run_quietly(target, minutes), TARGETS))
        print(f"{outcomes.count(True)} passed, {outcomes.count(False)} failed")
        return int(not all(outcomes))
    if name not in TARGETS:
        known = ", ".join((*TARGETS, "all"))
        print(f"fuzz: T={name}: no such target; known are {known}", file=sys.stderr)
        return 2
    return subprocess.run(command(name, minutes), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
