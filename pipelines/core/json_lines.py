"""Read JSON Lines into records, and report every bad line at once."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from pipelines.core.errors import DataError
from pipelines.core.paths import shown

MAX_SHOWN = 20
"""Problems printed of one file; the rest are counted."""
MAX_LINE_BYTES = 16 * 1024**2
"""Of a line; a longer one is no record, and reading it would fill the memory."""

RecordT = TypeVar("RecordT", bound=BaseModel)


def read(path: Path, record_type: type[RecordT]) -> list[tuple[str, RecordT]]:
    """Pairs of place (`line 7`) and record; blank lines are passed over.

    Raises:
        DataError: the file cannot be read, a line is too long, or lines are bad; lists them with
            their numbers.
    """
    records: list[tuple[str, RecordT]] = []
    problems: list[str] = []
    try:
        with path.open("rb") as file:
            lines = iter(lambda: file.readline(MAX_LINE_BYTES + 1), b"")
            for number, line in enumerate(lines, start=1):
                if len(line) > MAX_LINE_BYTES:
                    problems.append(f"line {number}: longer than {MAX_LINE_BYTES:,} bytes")
                    break
                raw = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if not raw.strip():
                    continue
                try:
                    records.append((f"line {number}", record_type.model_validate_json(raw)))
                except ValidationError as error:
                    problems.append(f"line {number}: {first_problem(error)}")
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read: {error}") from None
    refuse(shown(path), problems)
    return records


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong with a record, with its key; the input is not repeated."""
    first = error.errors(include_input=False, include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    return f"{key + ': ' if key else ''}{first['msg'].removeprefix('Value error, ')}"


def refuse(where: str, problems: Sequence[str]) -> None:
    """Raise a DataError that lists `problems`, if there are any."""
    if problems:
        more = [f"... and {len(problems) - MAX_SHOWN} more"] if len(problems) > MAX_SHOWN else []
        listed = "\n  ".join([*problems[:MAX_SHOWN], *more])
        raise DataError(f"{where}: {len(problems)} problem(s)\n  {listed}")
