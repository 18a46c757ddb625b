"""The last step before the guest runs: open and import late needs, install the seccomp filter."""

from __future__ import annotations

import sys
import time
from importlib import import_module

from stratovirt.architectures import load, of_this_host
from stratovirt.errors import StratovirtError
from stratovirt.lockdown.calls import ANY
from stratovirt.lockdown.imports import LateImports
from stratovirt.runtime import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.config.vm_config import VmConfig
    from stratovirt.host.line import BrokerLine
    from stratovirt.lockdown.calls import Alternatives, Calls
    from stratovirt.machine.board import Board
    from stratovirt.runtime.process import Process

ALWAYS = ("stratovirt._native.rate_limit",)
"""The module of the log; the list of calls brings the modules of a reset."""
CODE_OF_MONITORS = (
    "_socket", "array", "hashlib", "math", "fcntl", "stratovirt._native.memory_file",
    "stratovirt._native.rename",
)  # fmt: skip
"""Extension modules of QMP commands; Python modules come through the broker."""


def lock_down(process: Process, config: VmConfig, board: Board, broker: BrokerLine | None) -> None:
    """Load modules, open files and create rings for later use, and install the filter.

    Raises StratovirtError where the kernel has no seccomp filters.
    """
    calls: Calls = load(of_this_host().calls)
    _import(ALWAYS)
    _import(board.late_modules)
    if config.monitors:
        from stratovirt.config.registry import hot_drivers

        _import(CODE_OF_MONITORS)
        for driver in hot_drivers():
            if driver.bus == board.bus:
                _import(driver.native)
        # A package's module may do anything when it is imported, which would end the machine.
        process.may_import_packages = False
        _open_for_monitors(process)
    _make_rings(process, config, board)
    # Makes the C library read the host's time zone file now.
    time.localtime()
    LateImports(broker).install()
    sys.excepthook = sys.unraisablehook = _report
    _install(config, calls, process.outputs)


def _import(names: tuple[str, ...]) -> None:
    for name in names:
        import_module(name)


def _open_for_monitors(process: Process) -> None:
    from stratovirt._native import memory_file

    process.tracing.open()
    try:
        memory_file.open_pagemap()
    except OSError as error:
        raise StratovirtError(
            f"{memory_file.PAGEMAP}, which a snapshot would need: {error.strerror}; "
            "-disable-seccomp opens it later"
        ) from error


def _make_rings(process: Process, config: VmConfig, board: Board) -> None:
    count = sum(device.rings for device in board.devices)
    count += sum(options.driver.rings for options in config.devices)
    if count:
        from stratovirt._native.block_requests import RING_ENTRIES

        process.rings.make_no_more(count, RING_ENTRIES)


def _report(*what: object) -> None:
    """Log an uncaught exception in one line; a traceback would open source files."""
    error = getattr(what[0], "exc_value", None) or what[min(1, len(what) - 1)]
    log.Log(__name__).error(f"internal error: {type(error).__name__}: {error}")


def _install(config: VmConfig, calls: Calls, outputs: set[int]) -> None:
    from stratovirt._native.seccomp import Filter

    row = of_this_host().boards[config.machine.type]
    allowed = calls.of(row, config.accel or "kvm", outputs)
    declared = _declared(config, allowed, calls.declined)
    try:
        rules = Filter()
        for name, driver in declared.items():
            try:
                rules.allow(name, ())
            except ValueError as error:
                raise StratovirtError(
                    f"-device {driver}: its driver declares the system call {name}, which does "
                    "not exist"
                ) from error
        for name, alternatives in allowed.items():
            for conditions in alternatives:
                rules.allow(name, conditions)
        for name, error_number in calls.declined.items():
            rules.decline(name, error_number)
        for name in calls.preferred:
            rules.prefer(name)
        rules.install(log.descriptor())
    except OSError as error:
        raise StratovirtError(
            f"seccomp: the kernel refuses the filter: {error.strerror}; "
            "-disable-seccomp runs without"
        ) from error


def _declared(
    config: VmConfig, calls: dict[str, Alternatives], declined: dict[str, int]
) -> dict[str, str]:
    """The calls that drivers declare beyond the list, with the driver; each is logged."""
    declared: dict[str, str] = {}
    for driver in dict.fromkeys(options.driver for options in config.devices):
        for name in driver.calls:
            if name in declined or calls.get(name, ANY) != ANY:
                raise StratovirtError(
                    f"-device {driver.name}: its driver declares the system call {name}, which "
                    "the filter allows under conditions only; no driver may widen them"
                )
            if name not in calls and name not in declared:
                log.Log(__name__).warn(
                    f"-device {driver.name}: the filter allows {name}, which its driver declares"
                )
                declared[name] = driver.name
    return declared
