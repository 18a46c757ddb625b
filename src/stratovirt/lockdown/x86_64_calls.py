"""The system calls allowed to a running machine, each group with its purpose.

Measured with `make seccomp-trace` and reviewed; the guidebook's upper limit is in its chapter 4.
Any other call ends the process.
"""

from __future__ import annotations

import errno
import os
import signal

from stratovirt._native import ioctl_numbers as numbers
from stratovirt._native import x86_64_kvm, x86_64_kvm_state
from stratovirt._native.seccomp import CLONE_THREAD_FLAGS, PR_SET_NAME
from stratovirt.lockdown.calls import ANY, WHOLE_INT, Calls, any_but, no_code, requests

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.lockdown.calls import Alternatives

SIGNAL_BITS = 7

KVM = (*numbers.KVM, *x86_64_kvm.IOCTLS, *x86_64_kvm_state.IOCTLS)


EVERY_BOARD: dict[str, Alternatives] = {
    # vCPUs, devices of the kernel, taps, the terminal
    "ioctl": requests(
        KVM, numbers.VHOST, numbers.TAP, numbers.FILES, numbers.TERMINAL
    ),
    # disks: the page cache, the kernel's workers, flush; discard: see Calls.of
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
    "mmap": no_code(2), "mprotect": no_code(2), "munmap": ANY, "mremap": ANY, "madvise": ANY,
    "brk": ANY,
    # threads, not processes
    "clone": [[(0, WHOLE_INT, CLONE_THREAD_FLAGS)]],
    "set_robust_list": ANY, "rseq": ANY, "gettid": ANY, "getpid": ANY, "exit": ANY,
    "exit_group": ANY,
    "prctl": [[(0, WHOLE_INT, PR_SET_NAME)]],
    # signals: only to this process, and SIGSYS keeps the filter's handler
    "rt_sigaction": any_but(0, [signal.SIGSYS], SIGNAL_BITS),
    "rt_sigprocmask": ANY, "rt_sigreturn": ANY,
    "tgkill": [[(0, WHOLE_INT, os.getpid())]],
    # random numbers: Python's hashes, MAC addresses
    "getrandom": ANY,
}  # fmt: skip

PCI: dict[str, Alternatives] = {
    "ioctl": requests(
        KVM, numbers.VHOST, numbers.TAP, numbers.VFIO, numbers.FILES, numbers.TERMINAL
    ),
}

CALLS = Calls(
    every_board=EVERY_BOARD,
    pci=PCI,
    # It talks to its client on a socket.
    test_accelerator={"recvfrom": ANY, "sendto": ANY},
    preferred=(
        "ioctl", "io_uring_enter", "preadv2", "epoll_wait", "futex", "write", "writev", "readv",
    ),
    # A filter cannot read clone3's struct; glibc then uses clone.
    declined={"clone3": errno.ENOSYS},
)  # fmt: skip
