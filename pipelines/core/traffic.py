"""When requests come: weights by hour of the week, or the times of real ones."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Self, cast

from pydantic import BeforeValidator, Field, model_validator

from pipelines.core.paths import ROOT, shown
from pipelines.core.records import Record

HOURS_PER_WEEK = 168
MINUTE_S = 60
YEAR_S = 366 * 86400
Row = dict[str | None, Any]
"""The csv module puts what stands beyond the last column under None."""


class Profile(Record):
    """Traffic by the hour of the week."""

    name: str
    description: str
    weights: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...]
    """Requests of each hour from Monday 0:00 on, in any unit."""
    source: str

    @model_validator(mode="after")
    def _is_a_week(self) -> Self:
        if len(self.weights) != HOURS_PER_WEEK or not any(self.weights):
            raise ValueError(
                f"weights: a week has {HOURS_PER_WEEK} hours and some traffic; "
                f"got {len(self.weights)}"
            )
        return self


def load_profile(name: str) -> Any:
    """The content of configs/traffic/NAME.yaml, not yet validated.

    Raises:
        ValueError: there is no such file, or it cannot be read.
    """
    from pipelines.core.config import CONFIGS, read_yaml  # it imports this file
    from pipelines.core.errors import ConfigError

    try:
        return read_yaml(CONFIGS / "traffic" / f"{name}.yaml")
    except ConfigError as error:
        raise ValueError(str(error)) from None


NamedProfile = Annotated[
    Profile, BeforeValidator(lambda value: load_profile(value) if isinstance(value, str) else value)
]
"""A profile, or its name in configs/traffic/."""


class Timestamps(Record):
    """A file with the times of real requests; its path alone will do."""

    path: str
    """CSV with a header, or JSON Lines. One that begins with `$NAME/` starts in the folder which
    that environment variable names."""
    column: str = "timestamp"
    """Holds ISO 8601 (UTC where it has no offset) or Unix seconds; letters in either case."""
    sha256_of_file: str
    """Filled in when the study is read, so that other times are another study."""

    @model_validator(mode="before")
    @classmethod
    def _digest(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"path": value}
        if isinstance(value, dict):
            fields = cast(dict[str, Any], value)
            if isinstance(path := fields.get("path"), str):
                digest = hashlib.sha256(_existing(path).read_bytes()).hexdigest()
                return {**fields, "sha256_of_file": digest}
            return fields
        return value


def times_s(timestamps: Timestamps) -> tuple[float, ...]:
    """Unix seconds of the requests, in order.

    Raises:
        ValueError: a row has no time, or there are not two times; says the line.
    """
    return _times_s(timestamps.path, timestamps.column, timestamps.sha256_of_file)


def counts(times: Sequence[float], window_s: float) -> tuple[int, ...]:
    """Requests in each window from the first one on; the last window may be cut short.

    Args:
        times: Unix seconds, in order.
        window_s: length of a window.
    """
    found = [0] * (int((times[-1] - times[0]) // window_s) + 1)
    for time in times:
        found[int((time - times[0]) // window_s)] += 1
    return tuple(found)


def _existing(path: str) -> Path:
    if not path.startswith("$"):
        found = ROOT / path
    else:
        name, _, rest = path[1:].partition("/")
        if not (folder := os.environ.get(name)):
            raise ValueError(f"{path}: ${name} is not set; set it to the folder that holds {rest}")
        found = Path(folder, rest)
    if not found.is_file():
        raise ValueError(f"{shown(found)}: no such file")
    return found


@lru_cache(maxsize=8)
def _times_s(path: str, column: str, _digest: str) -> tuple[float, ...]:
    file = _existing(path)
    with file.open(encoding="utf-8-sig", newline="") as lines:
        rows = _json_rows(lines, path) if file.suffix == ".jsonl" else _csv_rows(lines)
        try:
            times = sorted(_seconds(row, column, f"{path}:{line}") for line, row in rows)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: cannot be read: {error}") from None
    if len(times) < 2 or times[0] == times[-1]:
        raise ValueError(f"{path}: needs requests at two different times, has {len(times)} rows")
    if times[-1] - times[0] > YEAR_S:
        raise ValueError(f"{path}: the times span more than a year; are they in seconds?")
    return tuple(times)


def _csv_rows(lines: Iterable[str]) -> Iterator[tuple[int, Row]]:
    reader = csv.DictReader(lines)
    for row in reader:
        yield reader.line_num, cast(Row, row)


def _json_rows(lines: Iterable[str], path: str) -> Iterator[tuple[int, Row]]:
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{line}: not JSON: {error.msg}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{line}: not an object")
        yield line, cast(Row, row)


def _seconds(row: Row, column: str, where: str) -> float:
    values = [v for k, v in row.items() if k and k.lower() == column.lower()]
    if not values:
        known = ", ".join(str(key)[:40] for key in row)
        raise ValueError(f"{where}: no column {column!r}; it has {known}")
    text = str(values[0]).strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            time = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"{where}: {text[:40]!r} is not a time") from None
        seconds = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(seconds):
        raise ValueError(f"{where}: {text[:40]!r} is not a time")
    return seconds
