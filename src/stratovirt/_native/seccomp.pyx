"""A seccomp(2) filter for all threads of this process, and the line that names what it refused.

libseccomp makes the filter's program from the list.  A call that is not on the list raises SIGSYS
in the thread that made it; the handler writes one line and dies of the same signal.
"""

from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free
from libc.string cimport memset
from posix.unistd cimport write

from stratovirt._native.kernel cimport os_error_of

cdef extern from "seccomp.h" nogil:
    ctypedef void *scmp_filter_ctx
    struct scmp_arg_cmp:
        unsigned int arg
        int op
        uint64_t datum_a
        uint64_t datum_b
    uint32_t SCMP_ACT_TRAP, SCMP_ACT_ALLOW
    uint32_t SCMP_ACT_ERRNO(int number)
    int SCMP_CMP_MASKED_EQ
    int SCMP_FLTATR_CTL_TSYNC, SCMP_FLTATR_CTL_OPTIMIZE
    int __NR_SCMP_ERROR
    scmp_filter_ctx seccomp_init(uint32_t action)
    void seccomp_release(scmp_filter_ctx context)
    int seccomp_attr_set(scmp_filter_ctx context, int attribute, uint32_t value)
    int seccomp_syscall_resolve_name(const char *name)
    char *seccomp_syscall_resolve_num_arch(uint32_t arch, int number)
    uint32_t seccomp_arch_native()
    int seccomp_rule_add_array(scmp_filter_ctx context, uint32_t action, int number,
                               unsigned int count, const scmp_arg_cmp *conditions)
    int seccomp_syscall_priority(scmp_filter_ctx context, int number, unsigned char priority)
    int seccomp_load(scmp_filter_ctx context)

cdef extern from "signal.h" nogil:
    ctypedef struct siginfo_t:
        int si_syscall
    ctypedef struct sigset_t:
        pass
    cdef struct c_sigaction "sigaction":
        void (*sa_sigaction)(int, siginfo_t *, void *) noexcept nogil
        sigset_t sa_mask
        int sa_flags
    int sigaction(int number, const c_sigaction *new, c_sigaction *old)
    int SIGSYS, SA_SIGINFO

cdef extern from "unistd.h" nogil:
    long syscall(long number, ...)
    void _exit(int status)

cdef extern from "sys/syscall.h":
    long SYS_seccomp

cdef extern from "sys/prctl.h":
    int c_PR_SET_NAME "PR_SET_NAME"

cdef extern from "sched.h":
    int CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_SIGHAND, CLONE_THREAD, CLONE_SYSVSEM
    int CLONE_SETTLS, CLONE_PARENT_SETTID, CLONE_CHILD_CLEARTID

PR_SET_NAME = c_PR_SET_NAME
CLONE_THREAD_FLAGS = (
    CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM
    | CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID
)
"""The flags of clone(2) that pthread_create(3) passes."""

cdef extern from "malloc.h":
    int mallopt(int parameter, int value)
    int M_ARENA_MAX

cdef enum:
    MOST_CONDITIONS = 6    # arguments of a system call
    ARENAS = 4             # heaps that all threads share

cdef int log_fd = -1


cdef void _refused(int _number, siginfo_t *info, void *_context) noexcept nogil:
    cdef char line[160]
    cdef int length
    # It allocates; but no call that malloc makes with its lock held is refused.
    cdef char *name = seccomp_syscall_resolve_num_arch(seccomp_arch_native(), info.si_syscall)
    length = snprintf(line, sizeof(line),
                      "stratovirt: seccomp: the system call %s (%d) is not allowed here\n",
                      <const char *>"unknown" if name == NULL else name, info.si_syscall)
    if length > <int>sizeof(line) - 1:
        length = sizeof(line) - 1
    write(2, line, length)
    if log_fd >= 0 and log_fd != 2:
        write(log_fd, line, length)
    # Not on the list either: with SIGSYS blocked, as it is here, the kernel ends the process.
    syscall(SYS_seccomp, -1, 0, NULL)
    _exit(159)


cdef int _check(int result, str what) except -1:
    if result < 0:
        raise os_error_of(-result, what)
    return 0


cdef int _number_of(str name) except? -1:
    cdef int number = seccomp_syscall_resolve_name(name.encode())
    if number == __NR_SCMP_ERROR:
        raise ValueError(f"there is no system call {name}")
    return number


cdef class Filter:
    """An allow-list in the making; `install` puts it in force.  Raises OSError, ValueError."""

    cdef scmp_filter_ctx _context

    def __cinit__(self):
        self._context = seccomp_init(SCMP_ACT_TRAP)
        if self._context == NULL:
            raise MemoryError()
        _check(seccomp_attr_set(self._context, SCMP_FLTATR_CTL_TSYNC, 1), "TSYNC")
        # A binary tree: the list is long, and most calls are few.
        _check(seccomp_attr_set(self._context, SCMP_FLTATR_CTL_OPTIMIZE, 2), "OPTIMIZE")

    def __dealloc__(self):
        if self._context != NULL:
            seccomp_release(self._context)

    def allow(self, str name not None, conditions=()):
        """Let `name` be called when all conditions hold; several such are alternatives.

        A condition is (argument, mask, value): the argument's bits under the mask are `value`.
        """
        cdef scmp_arg_cmp array[MOST_CONDITIONS]
        cdef unsigned int count = 0
        for argument, mask, value in conditions:
            array[count].arg = argument
            array[count].op = SCMP_CMP_MASKED_EQ
            array[count].datum_a = mask
            array[count].datum_b = value
            count += 1
        _check(seccomp_rule_add_array(self._context, SCMP_ACT_ALLOW, _number_of(name), count,
                                      array), name)

    def decline(self, str name not None, int error):
        """Let `name` fail with `error`: its caller knows another way."""
        _check(seccomp_rule_add_array(self._context, SCMP_ACT_ERRNO(error), _number_of(name), 0,
                                      NULL), name)

    def prefer(self, str name not None):
        """Look for `name` first: it is called most."""
        _check(seccomp_syscall_priority(self._context, _number_of(name), 255), name)

    def install(self, int log_descriptor):
        """Put the filter in force, in all threads and for good."""
        global log_fd
        cdef c_sigaction action
        memset(&action, 0, sizeof(action))
        action.sa_sigaction = _refused
        action.sa_flags = SA_SIGINFO
        log_fd = log_descriptor
        # Left alone, malloc counts the host's CPUs in /sys once there are many threads.
        mallopt(M_ARENA_MAX, ARENAS)
        if sigaction(SIGSYS, &action, NULL) != 0:
            raise os_error_of(errno, "sigaction")
        _check(seccomp_load(self._context), "seccomp")
