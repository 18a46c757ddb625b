"""The system calls allowed to a running machine, by board, each group with its purpose.

Measured with `make seccomp-trace` and reviewed; the guidebook's upper limit is in its chapter 4.
Any other call ends the process.
"""

from __future__ import annotations

import errno
import mmap
import os
import signal

from stratovirt._native import ioctl_numbers as numbers
from stratovirt._native import x86_64_kvm, x86_64_kvm_state
from stratovirt._native.seccomp import CLONE_THREAD_FLAGS, PR_SET_NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Condition = tuple[int, int, int]
    """Argument index, mask and value: the argument's bits under the mask equal the value."""
    Alternatives = list[list[Condition]]

WHOLE_INT = 0xFFFF_FFFF
"""Mask of an int argument: the filter sees 64 bits, of which the kernel ignores the upper 32."""
SIGNAL_BITS = 7
DESCRIPTOR_BITS = 30

ANY: Alternatives = [[]]


def _no_code(protection: int) -> Alternatives:
    return [[(protection, mmap.PROT_EXEC, 0)]]


def _any_but(argument: int, forbidden: Iterable[int], bits: int) -> Alternatives:
    """Conditions for an int from 0 to 2**bits - 1 that is not in `forbidden`."""
    return [
        [(argument, WHOLE_INT & -size, first)]
        for first, size in _blocks(0, 1 << bits, set(forbidden))
    ]


def _blocks(first: int, size: int, forbidden: set[int]) -> Iterator[tuple[int, int]]:
    """[first, first + size) without `forbidden`, as the fewest power-of-two blocks."""
    inside = {number for number in forbidden if first <= number < first + size}
    if not inside:
        yield first, size
    elif size > 1:
        yield from _blocks(first, size // 2, inside)
        yield from _blocks(first + size // 2, size // 2, inside)


def _ioctls(*groups: tuple[int, ...]) -> Alternatives:
    requests = dict.fromkeys(number for group in groups for number in group)
    return [[(1, WHOLE_INT, number)] for number in requests]


KVM = (*numbers.KVM, *x86_64_kvm.IOCTLS, *x86_64_kvm_state.IOCTLS)


MICROVM: dict[str, Alternatives] = {
    # vCPUs, devices of the kernel, taps, the terminal
    "ioctl": _ioctls(
        KVM, numbers.VHOST, numbers.TAP, numbers.FILES, numbers.TERMINAL
    ),
    # disks: the page cache, the kernel's workers, flush; discard: see calls_of
    "preadv2": ANY, "pwritev": ANY, "io_uring_enter": ANY,
    "fdatasync": ANY, "fallocate": ANY,
    # kernel and initrd at a reset
    "pread64": ANY, "lseek": ANY,
    # a snapshot's memory
    "pwrite64": ANY,
    # taps, consoles, eventfds, logs
    "read": ANY, "readv": ANY, "write": ANY, "writev": ANY,
    # waiting
    "epoll_wait": ANY, "epoll_ctl": ANY, "epoll_create1": ANY, "poll": ANY, "eventfd2": ANY,
    "timerfd_create": ANY, "timerfd_settime": ANY, "futex": ANY, "restart_syscall": ANY,
    # hosts without a vDSO clock
    "clock_gettime": ANY,
    # existing sockets: clients, the broker, passed descriptors
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
    # signals: only to this process, and SIGSYS keeps the filter's handler
    "rt_sigaction": _any_but(0, [signal.SIGSYS], SIGNAL_BITS),
    "rt_sigprocmask": ANY, "rt_sigreturn": ANY,
    "tgkill": [[(0, WHOLE_INT, os.getpid())]],
    # random numbers: Python's hashes, MAC addresses
    "getrandom": ANY,
}  # fmt: skip

Q35: dict[str, Alternatives] = MICROVM | {
    "ioctl": _ioctls(
        KVM, numbers.VHOST, numbers.TAP, numbers.VFIO, numbers.FILES, numbers.TERMINAL
    ),
}

BOARDS = {"microvm": MICROVM, "q35": Q35}

TEST_ACCELERATOR: dict[str, Alternatives] = {"recvfrom": ANY, "sendto": ANY}
"""Further calls of the test accelerator, which talks to its client on a socket."""

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
"""The most frequent calls, which the filter compares first."""

DECLINED = {"clone3": errno.ENOSYS}
"""Calls that fail with an errno: a filter cannot read clone3's struct; glibc then uses clone."""


def calls_of(board: str, accel: str, outputs: Iterable[int]) -> dict[str, Alternatives]:
    """The calls of this process; `outputs` are log-like descriptors, barred from fallocate."""
    calls = dict(BOARDS[board])
    calls["fallocate"] = _any_but(0, outputs, DESCRIPTOR_BITS)
    if accel == "test":
        calls |= TEST_ACCELERATOR
    return calls
