"""Kinds of values: how each is read from text and from JSON, and what it allows.

A kind raises ValueError with the allowed values in words ("on or off"); the option that holds it
adds its own name and the offending value.
"""

from __future__ import annotations

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
    """How one value is read. `allowed` completes the sentence "must be ..."."""

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


class PathName(Text):
    """A path in the host's file system."""

    json_type = "str"

    def __init__(self, longest: int = 4095) -> None:
        super().__init__("a path", longest)

    def parse(self, text: str) -> str:
        """The path as written."""
        if "\0" in text:
            raise ValueError("a path without NUL characters")
        return super().parse(text)


SOCKET_PATH_LONGEST = 107
"""sun_path of unix(7) is 108 bytes with its final NUL."""


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
        if not text.isascii() or not text[:1].isdigit() or "_" in text:
            raise ValueError(self.allowed)
        try:
            value = int(text, 16 if text[:2] in ("0x", "0X") else 10)
        except ValueError:
            raise ValueError(self.allowed) from None
        return self._checked(value)

    def from_json(self, value: object) -> int:
        """A JSON number, or a text holding one."""
        if isinstance(value, int) and not isinstance(value, bool):
            return self._checked(value)
        return super().from_json(value)


UNITS = {"": 0, "B": 0, "K": 10, "M": 20, "G": 30, "T": 40}


class Size(Kind["int"]):
    """A size in bytes, written with K, M, G or T; `unit` is meant when none is written."""

    json_type = "size"

    def __init__(self, lowest: int, highest: int, unit: str = "M") -> None:
        self.lowest, self.highest = lowest, highest
        self._unit = unit
        self.allowed = f"a size from {size_text(lowest)} to {size_text(highest)}"

    def parse(self, text: str) -> int:
        """The size in bytes."""
        digits = text.rstrip("bBkKmMgGtT")
        suffix = text[len(digits) :].upper() or self._unit
        if len(suffix) == 2 and suffix[1] == "B":
            suffix = suffix[0]
        if not digits.isascii() or not digits.isdigit() or suffix not in UNITS:
            raise ValueError(self.allowed)
        return self._checked(int(digits) << UNITS[suffix])

    def _checked(self, value: int) -> int:
        if not self.lowest <= value <= self.highest:
            raise ValueError(self.allowed)
        return value

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


class Choice(Kind["str"]):
    """One of a few words."""

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
    if len(words) == 1:
        return words[0]
    return f"{', '.join(words[:-1])} or {words[-1]}"
