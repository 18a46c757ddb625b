"""``make fuzz T=qmp``: no bytes on a monitor get anything but JSON answers, or end it."""

import json
import os
import sys

import atheris

with atheris.instrument_imports(include=["stratovirt.monitor", "stratovirt.config"]):
    from stratovirt._native.rate_limit import RateLimit
    from stratovirt.chardev.backend import Chardev
    from stratovirt.config.command_line import parse_command_line
    from stratovirt.monitor import commands  # noqa: F401
    from stratovirt.monitor.open import open_session
    from stratovirt.monitor.registry import COMMANDS
    from stratovirt.monitor.schema_listing import arguments_struct
    from stratovirt.runtime.process import Process
    from stratovirt.vm import Vm

NAMES = sorted(COMMANDS)
TAKEN = [arguments_struct(command.arguments, name) for name, command in COMMANDS.items()]
KEYS = sorted({key for struct in TAKEN for key in struct.members})
VALUES: list[object] = [
    "a", "*", "/", "/machine", "type", "virtio-blk-device", "info version", "0x10", "",
    0, 1, -1, 1 << 70, True, None, 1.5, [], {}, [1], {"a": 1},
]  # fmt: skip


class Wire(Chardev):
    """A chardev whose peer is this fuzz target."""

    sent = b""

    @property
    def is_connected(self) -> bool:
        """Always."""
        return True

    def write(self, content: bytes) -> None:
        """Keep what the session says."""
        self.sent += content

    def disconnect(self) -> None:
        """Stay."""


def request(data: atheris.FuzzedDataProvider) -> bytes:
    """One line: well-formed with odd arguments, or any bytes."""
    if data.ConsumeIntInRange(0, 3) == 0:
        return bytes(data.ConsumeBytes(40))
    arguments = {
        data.PickValueInList(KEYS): data.PickValueInList(VALUES)
        for _ in range(data.ConsumeIntInRange(0, 3))
    }
    message: dict[str, object] = {"execute": data.PickValueInList(NAMES)}
    if arguments:
        message["arguments"] = arguments
    if data.ConsumeBool():
        message["id"] = data.PickValueInList(VALUES)
    return json.dumps(message).encode()


config = parse_command_line(["-machine", "none"])
vm = Vm(Process(), config, lambda vm, chardev, pretty: open_session(vm, chardev, pretty=pretty))
wire = Wire(vm.loop, "wire")
session = open_session(vm, wire)
session._limit = RateLimit(1 << 40, 1, 1 << 40)
session._connected()
os.environ["STRATOVIRT_LOG_LEVEL"] = "error"
vm.process.open_log(None, to_stderr=False)


def one_input(content: bytes) -> None:
    """Send a few requests and read the answers."""
    data = atheris.FuzzedDataProvider(content)
    wire.sent = b""
    for _ in range(data.ConsumeIntInRange(1, 5)):
        wire.on_input(request(data) + b"\n")
    for line in wire.sent.splitlines():
        reply = json.loads(line)
        assert set(reply) & {"return", "error", "QMP", "event"}, line
    vm.loop._calls.clear()
    os.eventfd_write(vm.loop._wakeup, 1)
    os.eventfd_read(vm.loop._wakeup)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
