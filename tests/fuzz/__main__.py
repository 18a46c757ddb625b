"""``make fuzz T=NAME MIN=10``: run one fuzz target for so many minutes."""

import subprocess
import sys

DEVICES = ("virtio-blk", "virtio-net", "virtio-console", "virtio-balloon", "virtio-rng")
TARGETS = {
    "command-line": ["tests.fuzz.command_line"],
    "qmp": ["tests.fuzz.qmp"],
    "state": ["tests.fuzz.state"],
    "pci": ["tests.fuzz.pci"],
    **{name: ["tests.fuzz.devices", name] for name in DEVICES},
}
LONGEST_INPUT = 512


def main() -> int:
    """TARGET MINUTES."""
    name, minutes = sys.argv[1:]
    if name not in TARGETS:
        print(f"fuzz: T={name}: no such target; known are {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    options = [f"-max_total_time={float(minutes) * 60:.0f}", f"-max_len={LONGEST_INPUT}"]
    return subprocess.run([sys.executable, "-m", *TARGETS[name], *options], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
