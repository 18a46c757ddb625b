"""``make fuzz T=state``: a state file, however odd, gives one clear line or a sane machine.

A sound file is taken apart, some of its values are replaced, and a board is restored from it and
let go on for a moment.
"""

import _thread
import copy
import gc
import io
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from typing import Any

import atheris

with atheris.instrument_imports(include=["stratovirt.snapshot", "stratovirt.virtio"]):
    from stratovirt._native.guest_memory import GuestMemory
    from stratovirt.accel.kvm.x86_64_clock import ClockState
    from stratovirt.accel.kvm.x86_64_state import ChipsState, CpuidEntry, VcpuState
    from stratovirt.chardev.file import OutputFile
    from stratovirt.config.command_line import parse_command_line
    from stratovirt.cpu.slots import CpuSlots
    from stratovirt.devices.device_host import DeviceHost
    from stratovirt.errors import StratovirtError
    from stratovirt.host.access import HostAccess
    from stratovirt.machine.inventory import Inventory
    from stratovirt.machine.part import BoardContext
    from stratovirt.machine.x86_64_microvm import Microvm
    from stratovirt.runtime.clock import VirtualClock
    from stratovirt.runtime.loop import Loop
    from stratovirt.runtime.process import Process
    from stratovirt.snapshot.encoding import decode, sealed
    from stratovirt.snapshot.machine import PATH, MachineState, check_fits, guest_visible
    from stratovirt.snapshot.state import Entry, State
    from stratovirt.snapshot.tree import Tree

MOST_FDS = 4096
VALUES: list[object] = [
    None, True, False, 0, 1, 2, 11, 15, 128, 255, 256, 1024, 0x1_0000, 0x8_0000, (256 << 20) - 8,
    0xFFFF_FFFF, 1 << 63, (1 << 64) - 1, 1 << 64, -1, "", "00", "ff" * 6, "ff" * 5000, "x", [],
    [0] * 5000, {}, {"version": 1}, {"version": 2},
]  # fmt: skip

scratch = tempfile.mkdtemp(prefix="stratovirt-fuzz-")
image = os.path.join(scratch, "disk.img")
with open(image, "wb") as file:
    file.truncate(1 << 20)
process = Process()
config = parse_command_line([
    "-accel", "test", "-mod-test", "/x", "-m", "256M", "-qmp", "unix:/x,server,nowait",
    "-drive", f"id=d,file={image},direct=off", "-device", "virtio-blk-device,drive=d",
    "-device", "virtio-serial-device", "-chardev", f"file,id=c,path={scratch}/console",
    "-device", "virtconsole,chardev=c", "-device", "virtio-balloon-device",
    "-object", "rng-random,id=r,filename=/dev/zero", "-device", "virtio-rng-device,rng=r",
])  # fmt: skip
serial_options = parse_command_line(
    ["-kernel", "k", "-serial", f"file,path={scratch}/serial"]
).serial


class FakeAccelerator:
    """Hears everything and does nothing."""

    def connect(self, *_arguments: object) -> None:
        """There is no vCPU that could look."""

    def set_irq_level(self, _gsi: int, _level: bool) -> None:
        """Nobody waits."""

    def irqfd(self, _gsi: int) -> int:
        """An eventfd that nobody reads."""
        return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def add_doorbell(self, _fd: int, _address: int, _size: int, _value: int | None) -> None:
        """Nobody rings."""


def make_board() -> Microvm:
    """A machine with a device of each kind."""
    loop = Loop(_thread.RLock())
    accelerator: Any = FakeAccelerator()
    host = DeviceHost(
        process=process, config=config, loop=loop,
        clock=VirtualClock(), memory=GuestMemory(), iothreads={},
        open_chardev=lambda name: OutputFile(process, loop, config.chardevs[name]),  # type: ignore[arg-type]
        send_event=lambda _name, _content: None,
        access=HostAccess(),
    )  # fmt: skip
    serial: Any = OutputFile(process, loop, serial_options)  # type: ignore[arg-type]
    context = BoardContext(
        config=config, inventory=Inventory(config), cpus=CpuSlots(config, [0]),
        accelerator=accelerator, host=host, closing=ExitStack(), serial=serial,
        guest_reset=lambda: None, guest_power_off=lambda: None,
    )  # fmt: skip
    return Microvm(context)


class Recorded:
    """A part of KVM: has this state, and takes any."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.state_type = type(state)

    def save(self) -> State:
        """The state."""
        return self._state

    def restore(self, _state: State) -> None:
        """There is no KVM here."""


def accelerator_states() -> list[Entry]:
    """What a machine of one vCPU has beside the board's parts."""
    entry = CpuidEntry(function=0, index=0, flags=0, eax=1, ebx=2, ecx=3, edx=4)
    vcpu = VcpuState(parts={"regs": bytes(144)}, msrs={16: 1}, cpuid=[entry], nested=None)
    return [
        Entry("clock", Recorded(ClockState(clock=1, realtime=1, tsc_khz=1, tsc=[1]))),
        Entry("interrupt-controllers", Recorded(ChipsState(chips={"pit": bytes(112)}))),
        Entry("cpu/0", Recorded(vcpu), "-smp"),
    ]


def sound_state() -> dict[str, object]:
    """What a machine's file holds."""
    board = make_board()
    tree = Tree.of([*accelerator_states(), *board.states()])
    tree.put(PATH, MachineState(options=guest_visible(config), memory_bytes=256 << 20))
    board.closing.close()
    return tree.to_json()


def replace_one(data: atheris.FuzzedDataProvider, node: Any) -> None:
    """Walk down to some value and put another in its place, or drop it."""
    for _ in range(8):
        keys = sorted(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = data.PickValueInList(keys)
        if isinstance(node[key], dict | list) and data.ConsumeIntInRange(0, 4):
            node = node[key]
        elif data.ConsumeIntInRange(0, 9) == 0:
            del node[key]
            return
        else:
            # A copy: what is put in twice must not hold itself.
            node[key] = copy.deepcopy(data.PickValueInList(VALUES))
            return


SOUND = json.dumps(sound_state())
FIRST_FD = os.dup(0)
os.close(FIRST_FD)


def one_input(content: bytes) -> None:
    """Restore from a damaged state."""
    data = atheris.FuzzedDataProvider(content)
    body = json.loads(SOUND)
    for _ in range(data.ConsumeIntInRange(0, 6)):
        replace_one(data, body)
    text = bytearray(sealed(json.dumps(body).encode()))
    if data.ConsumeIntInRange(0, 7) == 0:
        text[data.ConsumeIntInRange(0, len(text) - 1)] ^= 1 << data.ConsumeIntInRange(0, 7)
    try:
        restore(bytes(text))
    except StratovirtError as error:
        assert 0 < len(str(error)) < 1200, str(error)
    gc.collect()
    os.closerange(FIRST_FD, FIRST_FD + MOST_FDS)


def restore(text: bytes) -> None:
    """What a machine does with its -incoming."""
    tree = decode(io.BytesIO(text).read)
    check_fits(tree.take(PATH, MachineState).options, config)
    board = make_board()
    try:
        tree.apply([*accelerator_states(), *board.states()])
        board.restored()
        for device in board.devices:
            device.resume()
        for slot in board.virtio.slots:
            for offset in range(0, 0x200, 4):
                slot.read(offset, 4)
        for device in board.devices:
            device.quiesce()
        assert Tree.of(board.states()).to_json()
    finally:
        board.closing.close()


if __name__ == "__main__":
    process.open_log(None, to_stderr=False)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
