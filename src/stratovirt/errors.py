"""The root of this project's exceptions, and how their texts are shown."""

from __future__ import annotations

LONGEST_LINE = 1000
"""Characters shown of one text; of a longer one its beginning and its end."""


class StratovirtError(Exception):
    """Something a user can understand and act on; the text is one line."""


def one_line(text: str) -> str:
    """`text` as one line that a terminal can show, whatever the names and values in it contain."""
    text = " ".join(text.split())
    if not text.isprintable():
        text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    if len(text) > LONGEST_LINE:
        text = f"{text[: LONGEST_LINE // 2]}...{text[-LONGEST_LINE // 2 :]}"
    return text
