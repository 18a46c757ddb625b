"""The ``stratovirt`` command: argv in, exit status out, one line for each mistake."""

from __future__ import annotations

import sys

from stratovirt import __version__
from stratovirt.errors import StratovirtError

EXIT_FAILED = 1


def main() -> None:
    """Entry point of the ``stratovirt`` command."""
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Run the machine that `argv` describes and return the exit status."""
    if any(word in ("-help", "--help", "-h") for word in argv):
        from stratovirt.config.command_line import help_text

        print(help_text())
        return 0
    if any(word in ("-version", "--version") for word in argv):
        print(f"StratoVirt {__version__}")
        return 0
    try:
        return _run_machine(argv)
    except StratovirtError as error:
        # One line, whatever the values in it contain.
        print(f"stratovirt: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_FAILED


def _run_machine(argv: list[str]) -> int:
    from stratovirt.config.command_line import parse_command_line
    from stratovirt.runtime import cleanup, log

    config = parse_command_line(argv)
    try:
        log.configure(config.log_file)
    except ValueError as error:
        raise StratovirtError(str(error)) from error
    except OSError as error:
        raise StratovirtError(f"-D {config.log_file}: cannot open: {error.strerror}") from error

    from stratovirt.vm import Vm

    vm = Vm(config)
    try:
        if config.pidfile is not None:
            from stratovirt.runtime.pidfile import write_pidfile

            write_pidfile(config.pidfile)
        vm.build()
        return vm.run()
    finally:
        vm.close()
        cleanup.run_all()
