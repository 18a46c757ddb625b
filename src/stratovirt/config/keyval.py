"""Splitting of option values as QEMU users write them: ``first,key=value,flag``."""

from stratovirt.config.errors import ConfigError

SHOWN = 160
"""Most characters of a user's text that a message repeats."""


def shown(text: str) -> str:
    """`text` as a message repeats it: long ones are cut, an empty one is visible."""
    if not text:
        return "''"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def split(option: str, text: str) -> list[tuple[str | None, str]]:
    """Split `text` into (key, value) pairs; a word without ``=`` has the key None.

    A doubled comma is a literal comma, and one at the end is left out, as QEMU does (the
    guidebook's section 2.10 writes ``unit=1,``).  Raises ConfigError for another empty piece or
    an empty key.
    """
    if not text:
        raise ConfigError(f"{option} '': is empty; write key=value,key=value")
    pairs: list[tuple[str | None, str]] = []
    pieces = _pieces(text)
    if len(pieces) > 1 and not pieces[-1]:
        pieces.pop()
    for piece in pieces:
        key, equals, value = piece.partition("=")
        if not piece or (equals and not key):
            raise ConfigError(f"{option} {shown(text)}: empty property; write key=value,key=value")
        pairs.append((key, value) if equals else (None, piece))
    return pairs


def _pieces(text: str) -> list[str]:
    pieces: list[str] = []
    current = ""
    rest = text
    while True:
        head, comma, tail = rest.partition(",")
        current += head
        if comma and tail.startswith(","):
            current += ","
            rest = tail[1:]
            continue
        pieces.append(current)
        current = ""
        if not comma:
            return pieces
        rest = tail
