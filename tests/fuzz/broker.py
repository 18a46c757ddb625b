"""``make fuzz T=broker``: whatever clients and a taken-over machine say, nothing unnamed opens."""

import json
import os
import sys

import atheris

with atheris.instrument_imports(include=["stratovirt.host", "stratovirt.qmp.framing"]):
    from stratovirt.config.vm_config import VmConfig
    from stratovirt.errors import StratovirtError
    from stratovirt.host import broker as module
    from stratovirt.host import grants, wire
    from stratovirt.host.broker import Broker
    from stratovirt.host.grants import Witness

NAMES = ("", "/dev/null", "/nonexistent", "tap0", "0000:1a:00.3", "host:1", "file:/nonexistent/x")
QUESTIONS = ("image", "tap", "vhost-net", "vfio", "unix", "tcp", "draft", "commit", "discard", "?")
KEYS = ("path", "name", "host", "port", "place", "source", "readonly", "direct", "queues", "known",
        "has_container", "memory_bytes")  # fmt: skip
COMMANDS = (
    "blockdev-add", "netdev_add", "chardev-add", "chardev-remove", "device_add", "migrate", "quit",
)  # fmt: skip

ours, theirs = wire.pair()
news, _ = wire.pair()
broker = Broker(VmConfig(), ours, news, os.pidfd_open(os.getpid()))
witness = Witness(broker._grants)
asked: list[tuple[object, ...]] = []


def note(kind: str, *what: object) -> None:
    """Every question comes here before anything is opened; none is let through."""
    asked.append((kind, *what))
    broker._grants.take(kind, *what)
    raise StratovirtError("no")


broker._require = note  # type: ignore[method-assign]


def value(data: atheris.FuzzedDataProvider, depth: int) -> object:
    """Something JSON can say."""
    kind = data.ConsumeIntInRange(0, 7)
    if kind <= 2:
        return data.PickValueInList(list(NAMES))
    if kind == 3 and depth:
        keys = ("file", "filename", "ifname", "backend", "data", "addr", "path", "uri", "host")
        return {data.PickValueInList(list(keys)): value(data, depth - 1) for _ in range(2)}
    if kind == 4:
        return [data.ConsumeIntInRange(-1, 1 << 40)]
    if kind == 5:
        return data.ConsumeBool()
    return data.ConsumeUnicodeNoSurrogates(8)


def one_input(content: bytes) -> None:
    """Some of what a client sends, some of what the machine asks."""
    data = atheris.FuzzedDataProvider(content)
    for _ in range(data.ConsumeIntInRange(1, 6)):
        if data.ConsumeBool():
            request = {"execute": data.PickValueInList(list(COMMANDS)), "arguments": value(data, 5)}
            text = json.dumps(request).encode()
            at = data.ConsumeIntInRange(0, len(text))
            witness.read(text[:at] + data.ConsumeBytes(data.ConsumeIntInRange(0, 3)) + text[at:])
            assert len(witness._waiting) <= grants.MOST_WAITING
            if data.ConsumeBool():
                witness.answered(data.ConsumeIntInRange(0, 20), accepted=data.ConsumeBool())
            continue
        asked.clear()
        keys = data.ConsumeIntInRange(0, 6)
        details = {data.PickValueInList(list(KEYS)): value(data, 1) for _ in range(keys)}
        question = data.PickValueInList(list(QUESTIONS))
        try:
            broker._answer(question, details)
        except (StratovirtError, TypeError, ValueError, KeyError):
            # As the broker itself answers them.
            continue
        assert question in ("commit", "discard") and not asked, (question, details)


if __name__ == "__main__":
    assert set(module._ANSWERS) - set(QUESTIONS) == {
        "monitors", "serve", "seal", "leave", "module", "answered",
    }  # fmt: skip

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
