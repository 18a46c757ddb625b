"""Calls of Linux that Python has no names for: mounts, namespaces, capabilities."""

from libc.errno cimport EINVAL, errno
from libc.stdint cimport uint32_t

import os

cdef extern from "sys/mount.h" nogil:
    int c_mount "mount"(const char *source, const char *target, const char *kind,
                        unsigned long flags, const void *options)
    int c_umount2 "umount2"(const char *target, int flags)
    unsigned long c_MS_BIND "MS_BIND", c_MS_REC "MS_REC", c_MS_PRIVATE "MS_PRIVATE"
    unsigned long c_MS_RDONLY "MS_RDONLY", c_MS_REMOUNT "MS_REMOUNT", c_MS_NOSUID "MS_NOSUID"
    unsigned long c_MS_NODEV "MS_NODEV", c_MS_NOEXEC "MS_NOEXEC"
    int c_MNT_DETACH "MNT_DETACH"

cdef extern from "sched.h" nogil:
    int c_unshare "unshare"(int flags)
    int c_setns "setns"(int fd, int kind)
    int CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWIPC, CLONE_NEWUTS
    int c_CLONE_NEWNET "CLONE_NEWNET"

cdef extern from "unistd.h" nogil:
    long syscall(long number, ...)

cdef extern from "sys/syscall.h":
    long SYS_pivot_root, SYS_capset

cdef extern from "sys/prctl.h" nogil:
    int prctl(int option, unsigned long two, unsigned long three, unsigned long four,
              unsigned long five)
    int PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP, PR_SET_KEEPCAPS
    int PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE

cdef extern from "linux/capability.h":
    cdef struct __user_cap_header_struct:
        uint32_t version
        int pid
    cdef struct __user_cap_data_struct:
        uint32_t effective
        uint32_t permitted
        uint32_t inheritable
    uint32_t _LINUX_CAPABILITY_VERSION_3
    int CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID, CAP_KILL
    int CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_LINUX_IMMUTABLE, CAP_NET_BIND_SERVICE
    int CAP_NET_BROADCAST, CAP_NET_ADMIN, CAP_NET_RAW, CAP_IPC_LOCK, CAP_IPC_OWNER
    int CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_SYS_CHROOT, CAP_SYS_PTRACE, CAP_SYS_PACCT
    int CAP_SYS_ADMIN, CAP_SYS_BOOT, CAP_SYS_NICE, CAP_SYS_RESOURCE, CAP_SYS_TIME
    int CAP_SYS_TTY_CONFIG, CAP_MKNOD, CAP_LEASE, CAP_AUDIT_WRITE, CAP_AUDIT_CONTROL, CAP_SETFCAP
    int CAP_MAC_OVERRIDE, CAP_MAC_ADMIN, CAP_SYSLOG, CAP_WAKE_ALARM, CAP_BLOCK_SUSPEND
    int CAP_AUDIT_READ, CAP_PERFMON, CAP_BPF, CAP_CHECKPOINT_RESTORE, CAP_LAST_CAP

MS_BIND, MS_REC, MS_PRIVATE, MS_RDONLY = c_MS_BIND, c_MS_REC, c_MS_PRIVATE, c_MS_RDONLY
MS_REMOUNT, MS_NOSUID, MS_NODEV, MS_NOEXEC = c_MS_REMOUNT, c_MS_NOSUID, c_MS_NODEV, c_MS_NOEXEC
CLONE_NEWNET = c_CLONE_NEWNET

CAPABILITIES = {
    "CAP_CHOWN": CAP_CHOWN, "CAP_DAC_OVERRIDE": CAP_DAC_OVERRIDE,
    "CAP_DAC_READ_SEARCH": CAP_DAC_READ_SEARCH, "CAP_FOWNER": CAP_FOWNER,
    "CAP_FSETID": CAP_FSETID, "CAP_KILL": CAP_KILL, "CAP_SETGID": CAP_SETGID,
    "CAP_SETUID": CAP_SETUID, "CAP_SETPCAP": CAP_SETPCAP,
    "CAP_LINUX_IMMUTABLE": CAP_LINUX_IMMUTABLE, "CAP_NET_BIND_SERVICE": CAP_NET_BIND_SERVICE,
    "CAP_NET_BROADCAST": CAP_NET_BROADCAST, "CAP_NET_ADMIN": CAP_NET_ADMIN,
    "CAP_NET_RAW": CAP_NET_RAW, "CAP_IPC_LOCK": CAP_IPC_LOCK, "CAP_IPC_OWNER": CAP_IPC_OWNER,
    "CAP_SYS_MODULE": CAP_SYS_MODULE, "CAP_SYS_RAWIO": CAP_SYS_RAWIO,
    "CAP_SYS_CHROOT": CAP_SYS_CHROOT, "CAP_SYS_PTRACE": CAP_SYS_PTRACE,
    "CAP_SYS_PACCT": CAP_SYS_PACCT, "CAP_SYS_ADMIN": CAP_SYS_ADMIN, "CAP_SYS_BOOT": CAP_SYS_BOOT,
    "CAP_SYS_NICE": CAP_SYS_NICE, "CAP_SYS_RESOURCE": CAP_SYS_RESOURCE,
    "CAP_SYS_TIME": CAP_SYS_TIME, "CAP_SYS_TTY_CONFIG": CAP_SYS_TTY_CONFIG,
    "CAP_MKNOD": CAP_MKNOD, "CAP_LEASE": CAP_LEASE, "CAP_AUDIT_WRITE": CAP_AUDIT_WRITE,
    "CAP_AUDIT_CONTROL": CAP_AUDIT_CONTROL, "CAP_SETFCAP": CAP_SETFCAP,
    "CAP_MAC_OVERRIDE": CAP_MAC_OVERRIDE, "CAP_MAC_ADMIN": CAP_MAC_ADMIN,
    "CAP_SYSLOG": CAP_SYSLOG, "CAP_WAKE_ALARM": CAP_WAKE_ALARM,
    "CAP_BLOCK_SUSPEND": CAP_BLOCK_SUSPEND, "CAP_AUDIT_READ": CAP_AUDIT_READ,
    "CAP_PERFMON": CAP_PERFMON, "CAP_BPF": CAP_BPF,
    "CAP_CHECKPOINT_RESTORE": CAP_CHECKPOINT_RESTORE,
}
"""Numbers of capabilities(7), from the kernel's headers."""


cdef _check(long result, str what):
    if result != 0:
        raise OSError(errno, os.strerror(errno), what)


def mount(str source not None, str target not None, str kind not None, unsigned long flags,
          str options=""):
    """mount(2); raises OSError."""
    cdef bytes text = options.encode()
    _check(c_mount(os.fsencode(source), os.fsencode(target), kind.encode(), flags,
                   <const char *>text), target)


def unshare_processes():
    """New PID (for children), IPC and UTS namespaces; raises OSError."""
    _check(c_unshare(CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS), "unshare")


def unshare_mounts():
    """A new mount namespace; raises OSError."""
    _check(c_unshare(CLONE_NEWNS), "unshare")


def join(int fd, int kind):
    """Enter the namespace of `kind` that `fd` is; raises OSError."""
    _check(c_setns(fd, kind), "setns")


def pivot_into(str folder not None):
    """Make `folder`, a mount point, the root; nothing is left of the old one. Raises OSError."""
    os.chdir(folder)
    # Stacked on itself, the old root is under the new one and needs no folder there.
    _check(syscall(SYS_pivot_root, b".", b"."), "pivot_root")
    _check(c_umount2(b".", c_MNT_DETACH), "umount2")
    os.chdir("/")


def die_with_parent(int number):
    """Get signal `number` when the parent dies; 0: no longer."""
    _check(prctl(PR_SET_PDEATHSIG, number, 0, 0, 0), "PR_SET_PDEATHSIG")


def become(int uid, int gid, capabilities):
    """Be that user, with these capabilities (numbers) and no way to any other; raises OSError."""
    cdef __user_cap_header_struct header
    cdef __user_cap_data_struct data[2]
    cdef uint32_t masks[2]
    masks[0] = masks[1] = 0
    for number in capabilities:
        masks[number // 32] |= <uint32_t>1 << number % 32
    for number in range(CAP_LAST_CAP + 1):
        # A kernel older than the headers does not know the last of them.
        if number not in capabilities and prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0 \
                and errno != EINVAL:
            _check(-1, "PR_CAPBSET_DROP")
    _check(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), "PR_SET_KEEPCAPS")
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    header.version = _LINUX_CAPABILITY_VERSION_3
    header.pid = 0
    for half in range(2):
        data[half].effective = data[half].permitted = data[half].inheritable = masks[half]
    _check(syscall(SYS_capset, &header, data), "capset")
    for number in capabilities:
        # Without it exec would drop what a user that is not root has.
        _check(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0), "PR_CAP_AMBIENT")
    _check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")
