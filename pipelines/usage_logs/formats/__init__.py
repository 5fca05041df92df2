"""How usage logs look. To add a format, add one file here.

`formats/acme.py` with `TITLE`, `detects(row)` and `SHAPE` makes files of that format readable. The
file name is the registration; at most one format may say that a row is its own, and the last
resort, `flat`, is asked when none does. `CONTENT`, another shape, is for calls that are billed
elsewhere and yet hold a prompt and an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from pipelines.core.plugins import Folder

FOLDER = Folder(__name__, "format of usage logs", parts=("fields", "telemetry"))
names = FOLDER.names
LAST_RESORT = "flat"
"""Asked when no other format knows a row."""

Fields = Mapping[str, Any]
"""Key of a JSON object -> DuckDB type, nested `Fields`, or a list of one of them."""

CALL = {
    "ts": "TIMESTAMP",
    "timed": "BOOLEAN",
    "provider": "VARCHAR",
    "model": "VARCHAR",
    "tag": "VARCHAR",
    "project": "VARCHAR",
    "key": "VARCHAR",
    "prompt": "VARCHAR",
    "tier": "VARCHAR",
    "region": "VARCHAR",
    "n_calls": "BIGINT",
    "failed": "BOOLEAN",
    "input": "BIGINT",
    "length": "BIGINT",
    "cached": "BIGINT",
    "write_5m": "BIGINT",
    "write_1h": "BIGINT",
    "output": "BIGINT",
    "reasoning": "BIGINT",
    "request_id": "VARCHAR",
    "usd": "DECIMAL(28, 12)",
    "currency": "VARCHAR",
    "is_sum": "BOOLEAN",
    "messages": "VARCHAR",
    "answer": "VARCHAR",
}
"""Canonical columns of a call, or of a sum over calls.

`input` has all tokens of the prompt, `output` all that was generated; `length` is that of the
longest prompt, where a sum states it; `prompt` is the system prompt; `timed` is false where only
the day is known; `messages` and `answer` are JSON or text.
"""
BILL = {
    "ts": "TIMESTAMP",
    "provider": "VARCHAR",
    "project": "VARCHAR",
    "description": "VARCHAR",
    "usd": "DECIMAL(28, 12)",
    "currency": "VARCHAR",
    "request_id": "VARCHAR",
}
"""Canonical columns of a line of a cost report."""


@dataclass(frozen=True)
class Shape:
    """What is read of a file, and the SQL that makes canonical rows of it."""

    fields: Fields
    """What is read of each record; what a record lacks is NULL."""
    call: Mapping[str, str] = field(default_factory=dict[str, str])
    """Column of `CALL` -> SQL expression over `rows`; absent = unknown."""
    bill: Mapping[str, str] = field(default_factory=dict[str, str])
    """Column of `BILL` -> SQL expression; a format has calls or bills."""
    rows: str = "SELECT * FROM records"
    """From records to rows; must carry the columns `filename` and `line` through."""
    keep: str = "true"
    """Which rows are calls; must be true for a row of which nothing could be read."""


class Format(Protocol):
    """What a file in this package looks like."""

    TITLE: str
    SHAPE: Shape

    def detects(self, row: Mapping[str, Any]) -> bool:
        """True when `row`, one of a file's first, is of this format."""
        ...


def load(name: str) -> Format:
    """Import `pipelines.usage_logs.formats.<name>`."""
    return cast(Format, FOLDER.load(name))


def detect(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Name of the format of a file that begins with `rows`; None = unknown."""
    formats = {name: load(name) for name in sorted(names(), key=lambda name: name == LAST_RESORT)}
    for row in rows:
        for name, each in formats.items():
            if each.detects(row):
                return name
    return None


def titles() -> str:
    """All known formats, for a message."""
    return ", ".join(load(name).TITLE for name in names())
