"""``make fuzz T=state`` or ``state-q35``: an odd state file gives one line or a sane machine.

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

with atheris.instrument_imports(
    include=["stratovirt.snapshot", "stratovirt.virtio", "stratovirt.pci", "stratovirt.devices"]
):
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
    from stratovirt.machine.x86_64_q35 import Q35
    from stratovirt.memory.address_space import IoRegion, RomRegion
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
for name, size in (("disk", 1 << 20), ("flash", 64 << 10)):
    with open(os.path.join(scratch, name), "wb") as file:
        file.truncate(size)
process = Process()
BOARDS = {
    "microvm": [
        "-device", "virtio-blk-device,drive=d", "-device", "virtio-serial-device",
        "-device", "virtconsole,chardev=c", "-device", "virtio-balloon-device",
        "-device", "virtio-rng-device,rng=r",
    ],
    "q35": [
        "-drive", f"if=pflash,unit=0,file={scratch}/flash",
        "-device", "pcie-root-port,id=p1,bus=pcie.0,addr=1",
        "-device", "virtio-blk-pci,drive=d,bus=p1,addr=0",
        "-device", "virtio-serial-pci,bus=pcie.0,addr=2", "-device", "virtconsole,chardev=c",
        "-device", "virtio-balloon-pci,bus=pcie.0,addr=3",
        "-device", "virtio-rng-pci,rng=r,bus=pcie.0,addr=4",
    ],
}  # fmt: skip
BOARD = sys.argv.pop(1) if sys.argv[1:2] == ["q35"] else "microvm"
config = parse_command_line([
    "-machine", BOARD, "-accel", "test", "-mod-test", "/x", "-m", "256M",
    "-qmp", "unix:/x,server,nowait",
    "-drive", f"id=d,file={scratch}/disk,direct=off",
    "-chardev", f"file,id=c,path={scratch}/console",
    "-object", "rng-random,id=r,filename=/dev/zero", *BOARDS[BOARD],
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

    remove_doorbell = add_doorbell

    def add_msi_route(self, _address: int, _data: int) -> int:
        """Nobody hears the message."""
        return 24

    def change_msi_route(self, _gsi: int, _address: int, _data: int) -> None:
        """Nor another one."""

    def remove_msi_route(self, _gsi: int) -> None:
        """There was none."""

    def attach_irqfd(self, _fd: int, _gsi: int) -> None:
        """Nobody writes."""

    detach_irqfd = attach_irqfd

    def let_others_in(self) -> None:
        """There are none."""


def make_board(template: Any = None) -> Any:
    """A machine with a device of each kind."""
    loop = Loop(_thread.RLock())
    accelerator: Any = FakeAccelerator()
    accelerator.clock = clock = VirtualClock()
    host = DeviceHost(
        process=process, config=config, loop=loop,
        clock=clock, memory=GuestMemory(), iothreads={},
        open_chardev=lambda name: OutputFile(process, loop, config.chardevs[name]),  # type: ignore[arg-type]
        send_event=lambda _name, _content: None,
        access=HostAccess(),
    )  # fmt: skip
    serial: Any = OutputFile(process, loop, serial_options)  # type: ignore[arg-type]
    context = BoardContext(
        config=config, inventory=Inventory(config), cpus=CpuSlots(config, [0]),
        accelerator=accelerator, host=host, closing=ExitStack(), serial=serial,
        guest_reset=lambda: None, guest_power_off=lambda: None, template=template,
    )  # fmt: skip
    return {"microvm": Microvm, "q35": Q35}[BOARD](context)


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
        for space in (board.memory_space, board.port_space):
            for piece in list(space.view):
                touch(piece.region)
        for device in board.devices:
            device.quiesce()
        assert Tree.of(board.states()).to_json()
    finally:
        board.closing.close()


def touch(region: Any) -> None:
    """What a guest reads, and a write that a flash may take for the end of a command."""
    if isinstance(region, RomRegion):
        region.handler.write(0, 1, 0xD0)
    if isinstance(region, IoRegion | RomRegion):
        for offset in range(0, min(region.size, 0x400), 4):
            assert region.handler.read(offset, 4) >= 0


if __name__ == "__main__":
    process.open_log(None, to_stderr=False)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
