"""``make fuzz T=broker``: whatever clients and a taken-over machine say, nothing unnamed opens."""

import json
import os
import sys
from typing import Any

import atheris

with atheris.instrument_imports(include=["stratovirt.host", "stratovirt.qmp.framing"]):
    from stratovirt.config.vm_config import VmConfig
    from stratovirt.errors import StratovirtError
    from stratovirt.host import broker as module
    from stratovirt.host import grants, wire
    from stratovirt.host.broker import Broker
    from stratovirt.host.grants import Witness
    from stratovirt.host.request import Request
    from stratovirt.runtime.process import Process

NAMES = ("", "/dev/null", "/nonexistent", "tap0", "0000:1a:00.3", "host:1", "file:/nonexistent/x",
         "/nonexistent/x")  # fmt: skip
QUESTIONS = ("open", "commit", "discard", "?")
KINDS = {
    "image": ("path", "readonly", "direct", "source"),
    "tap": ("name", "queues", "source"),
    "vhost-net": (),
    "vfio": ("host", "source", "known", "has_container"),
    "unix": ("path",),
    "tcp": ("host", "port"),
    "snapshot": ("place", "memory_bytes"),
    "?": ("path", "nonsense"),
}
COMMANDS = (
    "blockdev-add", "netdev_add", "chardev-add", "chardev-remove", "device_add", "migrate", "quit",
)  # fmt: skip

ours, theirs = wire.pair()
news, _ = wire.pair()
broker = Broker(Process(), VmConfig(), ours, news, os.pidfd_open(os.getpid()))
witness = Witness(broker._grants)
named: list[tuple[object, ...]] = []
"""The grants when the machine asks."""


def note(request: Request[Any]) -> "module.Answer":
    """Every granted request comes here instead of being opened."""
    assert request.grant in named, request.grant
    assert request.decode(request.fields | lists(request)).fields == request.fields
    raise StratovirtError("no")


def lists(request: Request[Any]) -> dict[str, object]:
    """The tuples among the fields, as JSON has them."""
    return {k: list(v) for k, v in request.fields.items() if isinstance(v, tuple)}


broker._opened = note  # type: ignore[method-assign]


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
        once = [request for waiting in witness._waiting.values() for request in waiting.once]
        named[:] = [request.grant for request in (*once, *broker._grants._chardevs.values())]
        question = data.PickValueInList(list(QUESTIONS))
        details: dict[str, Any] = {}
        if question == "open" or data.ConsumeBool():
            kind = data.PickValueInList(list(KINDS))
            keys = [key for key in KINDS[kind] if data.ConsumeIntInRange(0, 9)]
            fields = {key: value(data, 1) for key in keys} if keys else value(data, 1)
            details = {"kind": kind, "fields": fields}
        try:
            answer = broker._answer(question, details)
        except (StratovirtError, TypeError, ValueError, KeyError):
            # As the broker itself answers them.
            continue
        expected = {"unnamed": True} if question == "open" else {}
        assert answer == (expected, []), (question, details)


if __name__ == "__main__":
    assert set(module._ANSWERS) - set(QUESTIONS) == {
        "monitors", "serve", "seal", "leave", "module", "answered",
    }  # fmt: skip
    assert set(COMMANDS) - {"quit"} == set(grants.NAMING)

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
