"""A request's bytes are read once for all, within bounds."""

import time

import pytest

from stratovirt.qmp.errors import QmpError
from stratovirt.qmp.framing import REQUEST_LIMIT
from stratovirt.qmp.request import MOST_NESTED, MOST_VALUES, command_of, decode


def request_with(value: bytes) -> bytes:
    return b'{"execute": "query-status", "id": ' + value + b"}"


TOO_MUCH = {
    "a tower of arrays": request_with(b"[" * 100_000 + b"]" * 100_000),
    "a tower that never ends": request_with(b"[" * 100_000),
    "a row of arrays": request_with(b"[" + b"[]," * 100_000 + b"[]]"),
    "a row of numbers": request_with(b"[" + b"0," * 500_000 + b"0]"),
    "a row of members": request_with(b'{"a": 0' + b',"b":0' * 100_000 + b"}"),
}


@pytest.mark.parametrize("content", TOO_MUCH.values(), ids=TOO_MUCH)
def test_what_holds_too_many_values_is_refused_before_it_is_read(content: bytes) -> None:
    with pytest.raises(QmpError, match=r"^a request has more than (500|10000) "):
        decode(content)


def test_as_many_values_as_are_allowed_are_read() -> None:
    arrays = b"[" + b",".join([b"[]"] * (MOST_NESTED - 2)) + b"]"
    numbers = b"[" + b",".join([b"0"] * (MOST_VALUES - 10)) + b"]"
    assert len(decode(request_with(arrays))["id"]) == MOST_NESTED - 2  # type: ignore[arg-type]
    assert len(decode(request_with(numbers))["id"]) == MOST_VALUES - 10  # type: ignore[arg-type]


def test_what_stands_in_a_string_is_no_value() -> None:
    text = '[{,\\\\\\"' * 5000
    assert decode(request_with(f'"{text}"'.encode()))["id"] == '[{,\\"' * 5000


def test_no_bytes_take_the_parser_long() -> None:
    for content in (b'"' + b'\\"' * (REQUEST_LIMIT // 2), b'"' * REQUEST_LIMIT):
        started = time.process_time()
        with pytest.raises(QmpError, match=r"^JSON parse error"):
            decode(content)
        assert time.process_time() - started < 2


def test_a_request_is_utf_8_and_nothing_else() -> None:
    with pytest.raises(QmpError, match=r"^JSON parse error"):
        decode('{"execute": "quit"}'.encode("utf-16-le"))


def test_escapes_make_no_other_command() -> None:
    assert command_of(decode(rb'{"execut\u0065": "\u006digrate"}')) == ("migrate", {})
