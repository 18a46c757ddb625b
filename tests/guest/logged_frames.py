"""The log of written pages while a network back end, whoever it is, writes to a guest's RAM.

A back end sets bits in the log's file; those of pages that the guest itself wrote come there only
when a measurement ends.  So what is in the file before is of the back end.
"""

import os
import re
import socket
import struct
import time
from pathlib import Path

from tests.machine_process import MachineProcess, QmpClient, wait_until

PAGE = 4096
FRAMES = 8
"""Few: the guest zeroes memory of packets when it uses it again."""
SECONDS = 4
"""How long is measured; the frames take a part of it."""
ETHERTYPE = 0x88B5
"""One for experiments: a guest drops such frames without a copy."""
COPIED = 256
"""More than the guest's driver copies of any frame, for its headers."""


class LoggedRam:
    """RAM and log of a machine with mem-share=on whose RAM is in one piece from address 0 on."""

    def __init__(self, machine: MachineProcess) -> None:
        folder = Path(f"/proc/{machine.process.pid}/fd")
        names = {os.readlink(fd): fd for fd in folder.iterdir()}
        self._ram, self._log = (
            next(path for name, path in names.items() if wanted in name)
            for wanted in ("stratovirt-ram", "stratovirt-log")
        )

    def logged(self) -> set[int]:
        """The pages in the log, by number."""
        found = enumerate(self._log.read_bytes())
        return {8 * at + bit for at, byte in found if byte for bit in range(8) if byte >> bit & 1}

    def frames(self, key: bytes, pages: set[int]) -> dict[int, set[int]]:
        """By number, the frames of which something is in these pages, each with its pages."""
        found: dict[int, set[int]] = {}
        pattern = re.compile(re.escape(key) + b"(..)", re.DOTALL)
        with self._ram.open("rb", buffering=0) as ram:
            for page in pages:
                content = os.pread(ram.fileno(), PAGE, page * PAGE)
                for number in {*pattern.findall(content)} if key in content else ():
                    found.setdefault(int.from_bytes(number, "big"), set()).add(page)
        return found

    def used(self) -> set[int]:
        """The pages that have ever been written, by number."""
        pages: set[int] = set()
        with self._ram.open("rb", buffering=0) as ram:
            size, end = os.fstat(ram.fileno()).st_size, 0
            while end < size:
                try:
                    start = os.lseek(ram.fileno(), end, os.SEEK_DATA)
                except OSError:
                    break
                end = os.lseek(ram.fileno(), start, os.SEEK_HOLE)
                pages |= set(range(start // PAGE, end // PAGE))
        return pages


def send_frames(interface: str, mac: str) -> bytes:
    """Send FRAMES frames to a card; the key that they and nothing else have in them."""
    key = os.urandom(14)
    head = bytes.fromhex(mac.replace(":", "")) + b"\x02\0\0\0\0\1" + struct.pack(">H", ETHERTYPE)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((interface, 0))
        for number in range(FRAMES):
            raw.send(head + bytes(COPIED) + 50 * (key + struct.pack(">H", number)))
            time.sleep(0.01)
    return key


def check_that_it_logs(machine: MachineProcess, qmp: QmpClient, interface: str, mac: str) -> None:
    """What the back end of the card writes is in the log while a dirty rate is measured."""
    ram = LoggedRam(machine)

    def is_measured() -> bool:
        return bool(qmp.cmd("query-dirty-rate")["status"] == "measured")

    qmp.cmd("calc-dirty-rate", **{"calc-time": SECONDS, "mode": "dirty-bitmap"})
    key = send_frames(interface, mac)
    logged: set[int] = set()
    while not ram.frames(key, logged) and not is_measured():
        logged = ram.logged()
    time.sleep(0.5)
    logged |= ram.logged()
    assert not is_measured()
    found = ram.frames(key, ram.used())
    assert found, f"no frame is in memory; {len(logged)} pages are in the log"
    for number, pages in found.items():
        assert pages <= logged, f"frame {number} is in {pages}, the log has {pages & logged}"
    wait_until(is_measured, "the dirty rate is measured")
    # It logs no more; a peer that was told so a moment ago may set a last bit.
    time.sleep(0.2)
    before = ram.logged()
    key = send_frames(interface, mac)
    wait_until(lambda: bool(ram.frames(key, ram.used())), "frames arrive")
    assert ram.logged() == before
