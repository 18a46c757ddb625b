"""Reading a trace: what counts is what a machine's threads call once the filter is in force."""

from tools.seccomp_report import calls_behind_the_filter

THREAD = "flags=CLONE_VM|CLONE_THREAD|CLONE_SETTLS"
FILTER = "seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC|X, {}) = 0"
TRACE = f"""\
10 openat(AT_FDCWD, "/etc/passwd", O_RDONLY) = 3
10 clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD, tid=0x7f) = 11
10 clone(child_stack=0x7f, {THREAD}) = 12
11 openat(AT_FDCWD, "/dev/null", O_RDWR) = 3
10 seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC_ESRCH, NULL) = -1 EFAULT (Bad address)
10 {FILTER}
11 openat(AT_FDCWD, "/dev/null", O_RDWR) = 4
10 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, -1, 0 <unfinished ...>
12 close(4) = 0
10 <... mmap resumed>) = 0x7f
12 +++ exited with 0 +++
10 close(5) = 0
"""


def test_threads_count_and_the_broker_does_not() -> None:
    assert calls_behind_the_filter(TRACE.splitlines()) == {"mmap": 1, "close": 2}


def test_a_thread_whose_creation_is_told_later_counts_from_its_first_call() -> None:
    trace = (
        f"10 {FILTER}\n"
        f"10 clone(child_stack=0x7f, {THREAD} <unfinished ...>\n"
        "11 socket(AF_UNIX) = 3\n"
        "10 <... clone resumed>, child_tidptr=0x7f) = 11\n"
    )
    assert calls_behind_the_filter(trace.splitlines()) == {"clone": 1, "socket": 1}


def test_processes_around_the_machine_have_no_filter() -> None:
    trace = (
        "10 clone(child_stack=NULL, flags=SIGCHLD) = 11\n"
        "11 clone(child_stack=NULL, flags=SIGCHLD) = 2 /* 12 in strace's PID NS */\n"
        f"12 clone(child_stack=0x7f, {THREAD}) = 3 /* 13 in strace's PID NS */\n"
        f"12 {FILTER}\n"
        '11 openat(AT_FDCWD, "/", O_RDONLY) = 3\n'
        '10 openat(AT_FDCWD, "/", O_RDONLY) = 3\n'
        "13 close(3) = 0\n"
    )
    assert calls_behind_the_filter(trace.splitlines()) == {"close": 1}
