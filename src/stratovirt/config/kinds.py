"""Kinds of values: how each is read from text and from JSON, and what it allows.

A kind raises ValueError with the allowed values in words ("on or off"); the option that holds it
adds its own name and the offending value.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Generic, TypeVar

    T = TypeVar("T")

    class KindOf(Generic[T]):
        """Typing face of Kind."""
else:

    class KindOf:
        """Runtime face of Kind: no generics, so that start-up does not import typing."""

        def __class_getitem__(cls, _item: object) -> type:
            return cls


class Kind(KindOf["T"]):
    """The parser of one value. `allowed` completes the sentence "must be ..."."""

    allowed = "a value"
    json_type = "str"
    """Name of the type in QMP introspection."""

    def parse(self, text: str) -> T:
        """The value of `text`; raises ValueError when it is not allowed."""
        raise ValueError(f"{self.allowed}, not {text}")

    def from_json(self, value: object) -> T:
        """The value of a JSON `value`; by default what its text would mean."""
        if isinstance(value, str):
            return self.parse(value)
        raise ValueError(self.allowed)


class Text(Kind["str"]):
    """Any text that is not empty."""

    def __init__(self, allowed: str = "a text that is not empty", longest: int = 4096) -> None:
        self.allowed = allowed
        self._longest = longest

    def parse(self, text: str) -> str:
        """The text itself."""
        if not text:
            raise ValueError(self.allowed)
        if "\0" in text:
            # As the kernel reads names, the rest would be lost.
            raise ValueError(f"{self.allowed}, without NUL characters")
        if len(text) > self._longest:
            raise ValueError(f"at most {self._longest} characters")
        return text


class Identifier(Kind["str"]):
    """The name of a device, drive, chardev...: letters, digits and ``-._``, a letter first."""

    allowed = "a name of letters, digits, '-', '.' and '_' that starts with a letter"
    longest = 128

    def parse(self, text: str) -> str:
        """The identifier itself."""
        plain = text.replace("-", "").replace(".", "").replace("_", "")
        sound = text[:1].isalpha() and text.isascii() and (plain.isalnum())
        if not sound:
            raise ValueError(self.allowed)
        if len(text) > self.longest:
            raise ValueError(f"at most {self.longest} characters")
        return text


class Reference(Identifier):
    """The id of something that another option defines.

    `flag` says which option; unless `shared`, one user at a time may have it.
    """

    def __init__(self, flag: str, *, shared: bool = False) -> None:
        self.flag = flag
        self.shared = shared


class PathName(Text):
    """A path in the host's file system."""

    def __init__(self, longest: int = 4095, *, absolute: bool = False) -> None:
        super().__init__("an absolute path" if absolute else "a path", longest)
        self._absolute = absolute

    def parse(self, text: str) -> str:
        """The path as written."""
        if self._absolute and not text.startswith("/"):
            raise ValueError(self.allowed)
        text = super().parse(text)
        if len(os.fsencode(text)) > self._longest:
            raise ValueError(f"at most {self._longest} bytes")
        return text


SOCKET_PATH_LONGEST = 107
"""sun_path of unix(7) is 108 bytes with its final NUL."""


NUMBER_LONGEST = 40
"""Longest number read, in characters: no value needs more, and int() slows down with the square."""


def _whole_number(text: str, allowed: str) -> int:
    """A decimal or 0x hexadecimal number without sign; raises ValueError(allowed)."""
    plain = text.isascii() and text[:1].isdigit() and "_" not in text and not text[-1:].isspace()
    if not plain or len(text) > NUMBER_LONGEST:
        raise ValueError(allowed)
    try:
        return int(text, 16 if text[:2] in ("0x", "0X") else 10)
    except ValueError:
        raise ValueError(allowed) from None


class Integer(Kind["int"]):
    """A number in decimal or 0x hexadecimal, between two limits."""

    json_type = "int"

    def __init__(self, lowest: int, highest: int) -> None:
        self.lowest, self.highest = lowest, highest
        self.allowed = f"a number from {lowest} to {highest}"

    def _checked(self, value: int) -> int:
        if not self.lowest <= value <= self.highest:
            raise ValueError(self.allowed)
        return value

    def parse(self, text: str) -> int:
        """The number; a sign or a fraction is refused."""
        return self._checked(_whole_number(text, self.allowed))

    def from_json(self, value: object) -> int:
        """A JSON number, or a text holding one."""
        if isinstance(value, int) and not isinstance(value, bool):
            return self._checked(value)
        return super().from_json(value)


class PowerOfTwo(Integer):
    """A power of two between two others."""

    def __init__(self, lowest: int, highest: int) -> None:
        super().__init__(lowest, highest)
        self.allowed = f"a power of two from {lowest} to {highest}"

    def _checked(self, value: int) -> int:
        if value & (value - 1):
            raise ValueError(self.allowed)
        return super()._checked(value)


UNITS = {"": 0, "B": 0, "K": 10, "M": 20, "G": 30, "T": 40}


class Size(Kind["int"]):
    """A size in bytes, written with K, M, G or T; `unit` is meant when none is written.

    It is rounded up to a multiple of `grain`.
    """

    json_type = "size"

    def __init__(self, lowest: int, highest: int, unit: str = "M", grain: int = 1) -> None:
        self.lowest, self.highest = lowest, highest
        self._unit, self._grain = unit, grain
        self.allowed = f"a size from {size_text(lowest)} to {size_text(highest)}"

    def parse(self, text: str) -> int:
        """The size in bytes."""
        digits = text.rstrip("bBkKmMgGtT")
        suffix = text[len(digits) :].upper() or self._unit
        if len(suffix) == 2 and suffix[1] == "B":
            suffix = suffix[0]
        if text[:2] in ("0x", "0X"):
            # A hexadecimal number takes no unit: its B would be a digit.
            return self._checked(_whole_number(text, self.allowed) << UNITS[self._unit])
        if suffix not in UNITS:
            raise ValueError(self.allowed)
        return self._checked(_whole_number(digits, self.allowed) << UNITS[suffix])

    def _checked(self, value: int) -> int:
        if not self.lowest <= value <= self.highest:
            raise ValueError(self.allowed)
        return -(-value // self._grain) * self._grain

    def from_json(self, value: object) -> int:
        """A JSON number of bytes, or a text with a unit."""
        if isinstance(value, int) and not isinstance(value, bool):
            return self._checked(value)
        return super().from_json(value)


def size_text(size_bytes: int) -> str:
    """A size in the largest unit that holds it whole: ``256M``."""
    for unit in "TGMK":
        if size_bytes and size_bytes % (1 << UNITS[unit]) == 0:
            return f"{size_bytes >> UNITS[unit]}{unit}"
    return f"{size_bytes}B"


class OnOff(Kind["bool"]):
    """A switch."""

    allowed = "on or off"
    json_type = "bool"
    _words = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}

    def parse(self, text: str) -> bool:
        """on, true and yes are True; off, false and no are False."""
        if text not in self._words:
            raise ValueError(self.allowed)
        return self._words[text]

    def from_json(self, value: object) -> bool:
        """A JSON boolean, or one of the words."""
        return value if isinstance(value, bool) else super().from_json(value)


class Only(OnOff):
    """A switch that managers send and that has one place here."""

    def __init__(self, place: bool) -> None:
        self._place = place
        self.allowed = "on" if place else "off"

    def from_json(self, value: object) -> bool:
        """The place."""
        if super().from_json(value) is not self._place:
            raise ValueError(self.allowed)
        return self._place

    def parse(self, text: str) -> bool:
        """The place."""
        if self._words.get(text) is not self._place:
            raise ValueError(self.allowed)
        return self._place


class NoRom(Kind["str"]):
    """The option ROM of a device, which none has."""

    allowed = "empty: devices have no option ROM"

    def parse(self, text: str) -> str:
        """The empty text; raises ValueError for any other."""
        if text:
            raise ValueError(self.allowed)
        return text


class Choice(Kind["str"]):
    """One of a few words."""

    json_type = "enum"

    def __init__(self, *words: str) -> None:
        self.words = words
        self.allowed = one_of(words)

    def parse(self, text: str) -> str:
        """The word itself."""
        if text not in self.words:
            raise ValueError(self.allowed)
        return text


def one_of(words: Sequence[str]) -> str:
    """``a``, ``a or b``, ``a, b or c``."""
    return _joined(words, "or")


def all_of(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return _joined(words, "and")


def _joined(words: Sequence[str], last: str) -> str:
    if len(words) == 1:
        return words[0]
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


class NumberSet(Kind["tuple[int, ...]"]):
    """Numbers and ranges joined by colons: ``0-1:4-5``."""

    def __init__(self, highest: int) -> None:
        self._highest = highest
        self.allowed = f"numbers and ranges from 0 to {highest} such as 0-1:4"

    def parse(self, text: str) -> tuple[int, ...]:
        """The numbers, sorted; none may be named twice."""
        found: list[int] = []
        for piece in text.split(":"):
            first, dash, last = piece.partition("-")
            low = _whole_number(first, self.allowed)
            high = _whole_number(last, self.allowed) if dash else low
            if not low <= high <= self._highest:
                raise ValueError(self.allowed)
            found += range(low, high + 1)
        if len(set(found)) != len(found):
            raise ValueError("numbers that are named once each")
        return tuple(sorted(found))

    def from_json(self, value: object) -> tuple[int, ...]:
        """A JSON number, or a text as on the command line."""
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        return super().from_json(value)


class DescriptorList(Kind["tuple[str, ...]"]):
    """Open file descriptors, by number or by the names that getfd gave: ``5:6``."""

    allowed = "file descriptors joined by ':'"

    def parse(self, text: str) -> tuple[str, ...]:
        """The descriptors as written."""
        pieces = tuple(text.split(":"))
        if not all(piece and piece.isprintable() for piece in pieces):
            raise ValueError(self.allowed)
        if len(set(pieces)) != len(pieces):
            raise ValueError("file descriptors that are named once each")
        return pieces


class Uuid(Kind["bytes"]):
    """A UUID: 16 bytes in the order they are written."""

    allowed = "a UUID such as 12345678-9abc-def0-1234-56789abcdef0"
    lengths = [8, 4, 4, 4, 12]

    def parse(self, text: str) -> bytes:
        """Its bytes."""
        if [len(part) for part in text.split("-")] != self.lengths:
            raise ValueError(self.allowed)
        try:
            return bytes.fromhex(text.replace("-", ""))
        except ValueError:
            raise ValueError(self.allowed) from None
