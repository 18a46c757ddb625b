"""Requests are cut out of the stream wherever the network splits it."""

import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from stratovirt.qmp.framing import REQUEST_LIMIT, Framer, TooLong

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=3)


@given(st.lists(OBJECTS, min_size=1, max_size=4), st.sampled_from(["", "\n", "\r\n"]), st.data())
def test_every_object_comes_out_once_however_it_is_split(
    objects: list[object], separator: str, data: st.DataObject
) -> None:
    stream = "".join(json.dumps(value) + separator for value in objects).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    framer = Framer()
    frames = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        frames += framer.feed(stream[start:end])
    assert [json.loads(frame) for frame in frames if isinstance(frame, bytes)] == objects


def test_a_newline_ends_what_never_became_an_object() -> None:
    framer = Framer()
    assert framer.feed(b'{"a": \nnonsense\n{"b": 1}') == [b'{"a":', b"nonsense", b'{"b": 1}']


@given(st.binary(max_size=200))
@example(b'"\\')
def test_no_bytes_break_the_framer(content: bytes) -> None:
    framer = Framer()
    framer.feed(content)
    framer.feed(b"\n")
    assert framer.feed(b'{"ok": 1}\n')[-1] == b'{"ok": 1}'


def test_an_endless_request_is_dropped_to_its_newline() -> None:
    framer = Framer()
    frames = []
    for _ in range(40):
        frames += framer.feed(b"x" * (REQUEST_LIMIT // 8))
    assert [type(frame) for frame in frames] == [TooLong]
    assert framer.feed(b"tail\n{}") == [b"{}"]


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from([REQUEST_LIMIT - 1, REQUEST_LIMIT, REQUEST_LIMIT + 1]),
    st.sampled_from([b"{}", b'{}\n{"a": 1}', b'\n{"a": 1}']),
    st.lists(st.integers(-5, 5), max_size=3),
)
def test_what_is_too_long_is_so_however_it_is_split(
    size: int, tail: bytes, cuts: list[int]
) -> None:
    """The broker and its machine read in pieces of different sizes, and must see the same."""
    stream = b'{"a": "' + b"x" * (size - 9) + b'"}' + tail
    whole = Framer().feed(stream)
    framer, frames, start = Framer(), [], 0
    for end in [*sorted(REQUEST_LIMIT + cut for cut in cuts), len(stream)]:
        frames += framer.feed(stream[start:end])
        start = end

    def shown(found: list[bytes | TooLong]) -> list[bytes | None]:
        return [None if isinstance(frame, TooLong) else frame for frame in found]

    assert shown(frames) == shown(whole)
    assert isinstance(whole[0], TooLong) == (size > REQUEST_LIMIT)


def test_a_row_of_arrays_is_one_thing_that_is_no_request() -> None:
    row = b"[]," * 1000 + b"[]"
    assert Framer().feed(row + b'\n{"a": {"b": 1}}') == [row, b'{"a": {"b": 1}}']
    assert Framer().feed(b']]{"a": {"b": 1}, "c": 2}') == [b']]{"a": {"b": 1}, "c": 2}']
