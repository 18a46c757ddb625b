"""The ``stratovirt`` command: argv in, exit status out, one line for each mistake."""

from __future__ import annotations

import gc
import itertools
import os
import sys

from stratovirt import __version__
from stratovirt.errors import StratovirtError, one_line
from stratovirt.runtime.descriptors import fill_standard_streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.chardev.backend import Chardev
    from stratovirt.config.vm_config import VmConfig
    from stratovirt.runtime.daemon import Daemon
    from stratovirt.runtime.process import Process
    from stratovirt.runtime.trace import Tracing
    from stratovirt.vm import Monitor, Vm

EXIT_FAILED = 1


def main() -> None:
    """Entry point of the ``stratovirt`` command."""
    # A start makes hardly any garbage, and collections would take a seventh of its time.
    gc.disable()
    fill_standard_streams()
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Run the machine that `argv` describes and return the exit status."""
    if any(word in ("-help", "--help", "-h") for word in argv):
        from stratovirt.config.reference import help_text

        return _say(help_text())
    if any(word in ("-version", "--version") for word in argv):
        return _say(f"StratoVirt {__version__}")
    if ("-trace", "help") in itertools.pairwise(argv):
        from stratovirt.runtime.trace import listing

        return _say(listing())
    from stratovirt.runtime.process import Process
    from stratovirt.runtime.signals import SignalledError

    process = Process()
    try:
        process.signals.interrupt_start()
        return _run_machine(process, argv)
    except SignalledError:
        return 0
    except StratovirtError as error:
        print(f"stratovirt: {one_line(str(error))}", file=sys.stderr)
        return EXIT_FAILED
    except OSError as error:
        print(f"stratovirt: {_host_error(error)}", file=sys.stderr)
        return EXIT_FAILED
    except Exception as error:
        # Nothing a user or a guest does should come here, and if it does it is one line as well.
        _report_bug(error)
        return EXIT_FAILED
    finally:
        process.close()


def _host_error(error: OSError) -> str:
    import errno

    if error.errno == errno.EMFILE:
        return (
            f"this machine needs more than the {_raise_descriptor_limit()} file descriptors that "
            "this process may have; raise the hard limit (ulimit -Hn)"
        )
    return one_line(str(error))


def _raise_descriptor_limit() -> int:
    """Allow as many descriptors as the host lets us: each queue needs two; how many that is."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _report_bug(error: Exception) -> None:
    from stratovirt.runtime.faults import describe

    print(f"stratovirt: internal error, please report it: {describe(error)}", file=sys.stderr)


def _run_machine(process: Process, argv: list[str]) -> int:
    from stratovirt.config.command_line import parse_command_line

    config = parse_command_line(argv)
    if not config.daemonize:
        return _run(process, config, None)
    from stratovirt.runtime.daemon import Daemon, detach
    from stratovirt.runtime.signals import SignalledError

    outcome = detach()
    if outcome is None:
        return 0
    if not isinstance(outcome, Daemon):
        raise StratovirtError(outcome)
    try:
        return _run(process, config, outcome)
    except StratovirtError as error:
        outcome.report_error(str(error))
    except OSError as error:
        outcome.report_error(_host_error(error))
    except SignalledError as signalled:
        outcome.report_error(f"{signalled} came before the machine ran")
    return EXIT_FAILED


def _run(process: Process, config: VmConfig, daemon: Daemon | None) -> int:
    _raise_descriptor_limit()
    try:
        sink = process.open_log(config.log_file, to_stderr=config.log_to_stderr)
    except ValueError as error:
        raise StratovirtError(str(error)) from error
    except OSError as error:
        raise StratovirtError(f"-D {config.log_file}: cannot open: {error.strerror}") from error
    if config.trace_events or sink.traces_all:
        _enable_trace_events(process.tracing, config)

    from stratovirt.vm import Vm

    vm = Vm(process, config, _make_monitor)
    try:
        if config.name is not None and config.name.process is not None:
            from stratovirt._native.thread_name import name_this_thread

            name_this_thread(config.name.process)
        if config.pidfile is not None:
            from stratovirt.runtime.pidfile import write_pidfile

            write_pidfile(config.pidfile, process.cleanup)
        vm.build()
        # What the start has made stays: from now on only what is new is looked through.
        gc.freeze()
        gc.enable()
        vm.open()
        if config.is_silent:
            from stratovirt.runtime.log import notice

            notice("this machine is silent: it has no -serial, no monitor and no console")
        if daemon is not None:
            daemon.leave_streams()
        vm.start()
        gc.freeze()
        if daemon is not None:
            _report(daemon, runs=not vm.loop.is_stopped)
        status = vm.run()
    finally:
        vm.close()
        process.cleanup.run_all()
    if status and sink.unseen_error:
        print(f"stratovirt: {one_line(sink.unseen_error)}", file=sys.stderr)
    return status


def _make_monitor(vm: Vm, chardev: Chardev, pretty: bool) -> Monitor:
    from stratovirt.monitor.open import open_session

    return open_session(vm, chardev, pretty=pretty)


def _enable_trace_events(tracing: Tracing, config: VmConfig) -> None:
    for path in config.trace_events:
        tracing.enable_from(path)
    if not config.trace_events and config.wants_log:
        tracing.set_state("*", enable=True)


def _report(daemon: Daemon, *, runs: bool) -> None:
    if runs:
        daemon.report_running()
    else:
        daemon.report_error("-daemonize: the machine was ended before it ran")


def _say(text: str) -> int:
    """Print what was asked for; the exit status."""
    try:
        print(text, flush=True)
    except OSError as error:
        # What Python still flushes at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"stratovirt: standard output: {error.strerror}", file=sys.stderr)
            return EXIT_FAILED
        # The reader has seen enough (`| head`).
    return 0
