"""The system calls of a running machine, by board, with what each is needed for.

Measured with `make seccomp-trace` and reviewed; what the guidebook allows at most is in chapter 4.
A call that is not here ends the process.
"""

from __future__ import annotations

import errno
import mmap
import os
import signal

from stratovirt._native import ioctl_numbers as numbers
from stratovirt._native.seccomp import CLONE_THREAD_FLAGS, PR_SET_NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Condition = tuple[int, int, int]
    """Argument, mask and value: the bits under the mask are the value."""
    Alternatives = list[list[Condition]]

WHOLE_INT = 0xFFFF_FFFF
"""What the kernel takes of an int: a filter sees 64 bits, of which the upper ones are anything."""
SIGNAL_BITS = 7
DESCRIPTOR_BITS = 30

ANY: Alternatives = [[]]


def _no_code(protection: int) -> Alternatives:
    return [[(protection, mmap.PROT_EXEC, 0)]]


def _any_but(argument: int, forbidden: Iterable[int], bits: int) -> Alternatives:
    """An int from 0 to 2**bits - 1 that is none of `forbidden`."""
    return [
        [(argument, WHOLE_INT & -size, first)]
        for first, size in _blocks(0, 1 << bits, set(forbidden))
    ]


def _blocks(first: int, size: int, forbidden: set[int]) -> Iterator[tuple[int, int]]:
    """What is left of [first, first + size), as few blocks of powers of two as there are."""
    inside = {number for number in forbidden if first <= number < first + size}
    if not inside:
        yield first, size
    elif size > 1:
        yield from _blocks(first, size // 2, inside)
        yield from _blocks(first + size // 2, size // 2, inside)


def _ioctls(*groups: tuple[int, ...]) -> Alternatives:
    return [[(1, WHOLE_INT, number)] for group in groups for number in group]


MICROVM: dict[str, Alternatives] = {
    # vCPUs, devices of the kernel, taps, the terminal
    "ioctl": _ioctls(
        numbers.KVM, numbers.VHOST, numbers.TAP, numbers.FILES, numbers.TERMINAL
    ),
    # disks: the page cache, the kernel's workers, flush; discard: see calls_of
    "preadv2": ANY, "pwritev": ANY, "io_uring_enter": ANY,
    "fdatasync": ANY, "fallocate": ANY,
    # kernel and initrd when the machine starts anew
    "pread64": ANY, "lseek": ANY,
    # a snapshot's memory
    "pwrite64": ANY,
    # taps, consoles, eventfds, logs
    "read": ANY, "readv": ANY, "write": ANY, "writev": ANY,
    # waiting
    "epoll_wait": ANY, "epoll_ctl": ANY, "epoll_create1": ANY, "poll": ANY, "eventfd2": ANY,
    "timerfd_create": ANY, "timerfd_settime": ANY, "futex": ANY, "restart_syscall": ANY,
    # where the clock cannot be read without a call
    "clock_gettime": ANY,
    # sockets that are there: clients, the broker, descriptors sent along
    "accept4": ANY, "getsockname": ANY, "recvmsg": ANY, "sendmsg": ANY,
    "close": ANY,
    # memory: none that could be executed
    "mmap": _no_code(2), "mprotect": _no_code(2), "munmap": ANY, "mremap": ANY, "madvise": ANY,
    "brk": ANY,
    # threads, not processes
    "clone": [[(0, WHOLE_INT, CLONE_THREAD_FLAGS)]],
    "set_robust_list": ANY, "rseq": ANY, "gettid": ANY, "getpid": ANY, "exit": ANY,
    "exit_group": ANY,
    "prctl": [[(0, WHOLE_INT, PR_SET_NAME)]],
    # signals: to itself, and never the handler of the filter's own
    "rt_sigaction": _any_but(0, [signal.SIGSYS], SIGNAL_BITS),
    "rt_sigprocmask": ANY, "rt_sigreturn": ANY,
    "tgkill": [[(0, WHOLE_INT, os.getpid())]],
    # what Python's hashes and a card's address are made of
    "getrandom": ANY,
}  # fmt: skip

Q35: dict[str, Alternatives] = MICROVM | {
    "ioctl": _ioctls(
        numbers.KVM, numbers.VHOST, numbers.TAP, numbers.VFIO, numbers.FILES, numbers.TERMINAL
    ),
}

BOARDS = {"microvm": MICROVM, "q35": Q35}

TEST_ACCELERATOR: dict[str, Alternatives] = {"recvfrom": ANY, "sendto": ANY}
"""Its client is the processor, on a socket."""

PREFERRED = (
    "ioctl",
    "io_uring_enter",
    "preadv2",
    "epoll_wait",
    "futex",
    "write",
    "writev",
    "readv",
)
"""Called most: looked for first."""

DECLINED = {"clone3": errno.ENOSYS}
"""A filter cannot see what clone3 is asked for, and glibc falls back to clone."""


def calls_of(board: str, accel: str, outputs: Iterable[int]) -> dict[str, Alternatives]:
    """The list for this process; `outputs` are its log and its like, which may only grow."""
    calls = dict(BOARDS[board])
    calls["fallocate"] = _any_but(0, outputs, DESCRIPTOR_BITS)
    if accel == "test":
        calls |= TEST_ACCELERATOR
    return calls
