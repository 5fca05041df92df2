"""Names from logs, made harmless for the place where they are shown."""

from __future__ import annotations

import re

LABEL = 40
"""Characters of a name in a chart or a terminal."""


def plain(text: str) -> str:
    """On one line, without anything that a terminal obeys or that turns the reading direction."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def short(text: str, length: int = LABEL) -> str:
    """`plain`, and cut to so many characters."""
    cut = text if len(text) <= length else f"{text[: length - 1]}\N{HORIZONTAL ELLIPSIS}"
    return plain(cut)


def markdown(text: str) -> str:
    """`plain`, without anything that Markdown or HTML obeys."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~&$])", r"\\\1", plain(text))


def spreadsheet(text: str) -> str:
    """`plain`, and no formula where the file is opened as a spreadsheet."""
    return f"'{plain(text)}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else plain(text)
