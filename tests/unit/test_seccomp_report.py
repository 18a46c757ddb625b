"""Reading a trace: what counts is what a machine's threads call once the filter is in force."""

from tools.seccomp_report import calls_behind_the_filter

TRACE = """\
10 openat(AT_FDCWD, "/etc/passwd", O_RDONLY) = 3
10 clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD, tid=0x7f) = 11
11 openat(AT_FDCWD, "/dev/null", O_RDWR) = 3
10 seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC_ESRCH, NULL) = -1 EFAULT (Bad address)
10 seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC|SECCOMP_FILTER_FLAG_X, {}) = 0
11 openat(AT_FDCWD, "/dev/null", O_RDWR) = 4
10 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, -1, 0 <unfinished ...>
12 close(4) = 0
10 <... mmap resumed>) = 0x7f
12 +++ exited with 0 +++
10 close(5) = 0
"""


def test_threads_count_and_the_broker_does_not() -> None:
    assert calls_behind_the_filter(TRACE.splitlines()) == {"mmap": 1, "close": 2}


def test_a_fork_whose_result_comes_later_is_known_too() -> None:
    trace = (
        "10 clone(child_stack=NULL, flags=SIGCHLD <unfinished ...>\n"
        "10 <... clone resumed>, child_tidptr=0x7f) = 11\n"
        "10 seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC|X, {}) = 0\n"
        "11 socket(AF_UNIX) = 3\n"
    )
    assert calls_behind_the_filter(trace.splitlines()) == {}
