"""Threads have names for those who look at a machine from outside."""

import _thread
from pathlib import Path

from stratovirt.runtime.threads import start_thread
from tests.machine_process import PATIENCE


def test_a_thread_has_its_name_before_it_does_anything() -> None:
    ended = _thread.allocate_lock()
    ended.acquire()
    seen: list[str] = []

    def look(times: int) -> None:
        task = Path(f"/proc/self/task/{_thread.get_native_id()}/comm")
        seen.extend([task.read_text().strip()] * times)
        ended.release()

    start_thread("snapshot", look, 2)
    assert ended.acquire(timeout=PATIENCE)
    assert seen == ["snapshot"] * 2
