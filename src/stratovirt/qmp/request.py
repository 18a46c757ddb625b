"""Parses requests, in the machine that serves them and, identically, in its broker.

A request's number of values is limited as well as its bytes: a parsed value takes many times its
bytes in the request.
"""

from __future__ import annotations

import json
import re

from stratovirt.qmp.errors import QmpError

MOST_NESTED = 500
"""Most arrays and objects in a request: the parser recurses, and this bounds its stack."""
MOST_VALUES = 10_000
"""Most values in a request, more than any command takes."""

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


def decode(line: bytes) -> dict[str, object]:
    """Parse a request into its members; raises QmpError."""
    bare = _STRING.sub(b"", line)
    nested = bare.count(b"[") + bare.count(b"{")
    if nested > MOST_NESTED:
        raise QmpError(f"a request has more than {MOST_NESTED} arrays and objects")
    if nested + bare.count(b",") > MOST_VALUES:
        raise QmpError(f"a request has more than {MOST_VALUES} values")
    try:
        # Decoded as UTF-8: given bytes, the parser would also accept UTF-16.
        request = json.loads(line.decode(), parse_float=_finite, parse_constant=_finite)
        # A lone surrogate is valid JSON but cannot be encoded as UTF-8, so no name can have it.
        json.dumps(request, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise QmpError(f"JSON parse error: {error}") from None
    if not isinstance(request, dict):
        raise QmpError("a request must be a JSON object")
    return request


def command_of(request: dict[str, object]) -> tuple[str, dict[str, object]]:
    """The command's name and its unchecked arguments; raises QmpError."""
    name = request.get("execute")
    arguments = request.get("arguments", {})
    unknown = set(request) - {"execute", "arguments", "id"}
    if unknown:
        raise QmpError(f"unexpected member '{min(unknown)[:80]}' in a request")
    if not isinstance(name, str):
        raise QmpError("a request needs the member 'execute', a string")
    if not isinstance(arguments, dict):
        raise QmpError("'arguments' must be an object")
    return name, arguments


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise ValueError(f"{text[:80]} is no number that JSON can say")
    return number
