"""``stratovirt-lab``: run a command in the lab, build its images, give the demonstration."""

import argparse
import sys
from pathlib import Path

from stratovirt_lab.architectures import NAMES, find, of_this_host
from stratovirt_lab.errors import LabError

EXIT_LAB_FAILED = 125
"""The lab itself failed, as opposed to the command that was to run in it."""


def main() -> None:
    """Entry point of the ``stratovirt-lab`` command."""
    parser = argparse.ArgumentParser(prog="stratovirt-lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="run a command in the lab; its exit status comes back")
    run.add_argument(
        "--arch",
        metavar="NAME",
        help=f"{', '.join(NAMES)}; by default the architecture of this host",
    )
    run.add_argument("--cpus", type=int, default=2, help="CPUs of the lab host (default 2)")
    run.add_argument("--mem", type=int, default=4096, metavar="MIB", help="its memory in MiB")
    run.add_argument(
        "--silence",
        type=float,
        metavar="SECONDS",
        help="give the lab up when it says nothing for so long (default: never)",
    )
    run.add_argument(
        "--rw",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a folder whose changes come back; may be given several times",
    )
    run.add_argument("argv", nargs="+", metavar="CMD", help="the command, after --")

    commands.add_parser("images", help="build every image the lab and the tests use")
    commands.add_parser("demo", help="boot a real Linux guest under stratovirt")

    arguments = parser.parse_args()
    try:
        sys.exit(_dispatch(arguments))
    except LabError as error:
        print(f"stratovirt-lab: {error}", file=sys.stderr)
        sys.exit(EXIT_LAB_FAILED)


def _dispatch(arguments: argparse.Namespace) -> int:
    if arguments.command == "run":
        from stratovirt_lab import host

        writable = [path.resolve() for path in arguments.rw]
        for path in writable:
            if not path.is_dir():
                raise LabError(f"--rw {path}: no such directory")
        return host.run(
            arguments.argv,
            cpus=arguments.cpus,
            memory_mib=arguments.mem,
            writable=writable,
            architecture=find(arguments.arch) if arguments.arch else of_this_host(),
            silence=arguments.silence,
        )
    if arguments.command == "images":
        from stratovirt_lab import images
        from stratovirt_lab.debian_disk import debian_disk

        for make in (
            lambda: images.lab_host(of_this_host()),
            images.guest_kernel,
            images.guest_vmlinux,
            images.guest_raw_image,
            images.guest_initramfs,
            images.guest_root,
            images.guest_tools,
            debian_disk,
        ):
            make()
        return 0
    from stratovirt_lab import demo

    return demo.run()
