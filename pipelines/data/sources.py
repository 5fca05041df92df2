"""Read the rows of a split, and report every bad one with its file and line."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from pipelines.core.errors import DataError
from pipelines.core.paths import ROOT, shown
from pipelines.core.prompt import with_passages
from pipelines.core.records import Example, Message, Record, TrainingRow
from pipelines.core.workload import DataSource
from pipelines.data import formats

MAX_SHOWN = 20
"""Problems printed of one file; the rest are counted."""


RowT = TypeVar("RowT", Example, TrainingRow)


def load_training(source: DataSource) -> list[TrainingRow]:
    """Rows to train on; those of a format have the passages that answer them before the question.

    Raises:
        DataError: the file is absent, or rows are bad; lists them with their lines.
    """
    return _load(source, TrainingRow, _training_row)


def load_eval(source: DataSource) -> list[Example]:
    """Items of an eval set.

    Raises:
        DataError: the file is absent or empty, ids repeat, or targets are missing.
    """
    return _load(source, Example, lambda example: example)


def rows_sha256(rows: Sequence[Record]) -> str:
    """SHA-256 of the rows as canonical JSON Lines; order counts."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.model_dump_json().encode() + b"\n")
    return digest.hexdigest()


def resolve(path: str) -> Path | None:
    """File of a source's `path`; None when it starts with an unset environment variable."""
    if not path.startswith("$"):
        return ROOT / path
    name, _, rest = path[1:].partition("/")
    folder = os.environ.get(name)
    return Path(folder, rest).resolve() if folder else None


def existing(path: str) -> Path:
    """File or folder of a path that no hub can stand in for.

    Raises:
        DataError: it is absent, or its environment variable is not set.
    """
    resolved = resolve(path)
    if resolved is None:
        name, _, rest = path[1:].partition("/")
        raise DataError(f"{path}: ${name} is not set; set it to the folder that holds {rest}")
    if not resolved.exists():
        hint = f" (from {path})" if path.startswith("$") else ""
        raise DataError(f"{shown(resolved)}: no such file{hint}")
    return resolved


def refuse(where: str, problems: Sequence[str]) -> None:
    """Raise a DataError that lists `problems`, if there are any."""
    if problems:
        more = [f"... and {len(problems) - MAX_SHOWN} more"] if len(problems) > MAX_SHOWN else []
        listed = "\n  ".join([*problems[:MAX_SHOWN], *more])
        raise DataError(f"{where}: {len(problems)} problem(s)\n  {listed}")


def _load(
    source: DataSource, row_type: type[RowT], of_example: Callable[[Example], RowT]
) -> list[RowT]:
    path = resolve(source.path)
    where = shown(path) if path else f"hub {source.hub}"
    is_conversation = source.text is None and source.format is None
    rows: list[RowT] = []
    problems: list[str] = []
    seen: dict[str, str] = {}
    for place, raw in _raw_rows(source, path):
        if isinstance(raw, str):
            problems.append(f"{place}: {raw}")
            continue
        try:
            if is_conversation:
                row = row_type.model_validate(raw)
            else:
                row = of_example(Example.model_validate(raw))
        except ValidationError as error:
            for each in error.errors():
                key = ".".join(str(part) for part in each["loc"])
                message = each["msg"].removeprefix("Value error, ")
                problems.append(f"{place}: {key + ': ' if key else ''}{message}")
            continue
        if isinstance(row, Example):
            if not row.target.strip():
                problems.append(f"{place}: target: is empty")
            if not row.messages:
                problems.append(f"{place}: messages: is empty")
            if row.id in seen:
                problems.append(f"{place}: id: {row.id!r} stands already at {seen[row.id]}")
            seen[row.id] = place
        rows.append(row)
    if not rows and not problems:
        problems.append("no rows")
    refuse(where, problems)
    return rows


def _raw_rows(source: DataSource, path: Path | None) -> formats.Rows:
    """Pairs of place (`line 7`) and row: of an example, or of a conversation as it stands there.

    The row is a text where it cannot even be read.
    """
    if source.format is not None and source.split is not None:
        format = formats.load(source.format)
        if source.split not in format.SPLITS:
            have = ", ".join(format.SPLITS)
            raise DataError(f"{source.path}: {source.format} has no split {source.split!r}: {have}")
        yield from format.rows(existing(source.path), source.split)
    elif path is None:
        yield from _hub_rows(source)
    elif path.suffix == ".jsonl":
        for place, raw in formats.json_lines(existing(source.path)):
            if source.text is not None and isinstance(raw, dict):
                yield place, _columns_of(raw, source)
            else:
                yield place, raw
    elif path.suffix == ".csv":
        yield from _csv_rows(source, existing(source.path))
    else:
        raise DataError(f"{shown(path)}: expected .jsonl or .csv, got {path.suffix or 'no suffix'}")


def _columns_of(row: dict[str, Any], source: DataSource) -> dict[str, Any] | str:
    """An example from two keys of a JSON object, or what is wrong with the object."""
    if source.text is None or source.target is None:
        return "a source with `text` needs `target`, too"
    if absent := [key for key in ("id", source.text, source.target) if key not in row]:
        return f"has no key {', '.join(absent)}"
    target = row[source.target]
    if not isinstance(target, str):
        target = json.dumps(target, ensure_ascii=False, separators=(",", ":"))
    return _example(str(row["id"]), str(row[source.text]), target)


def _csv_rows(source: DataSource, path: Path) -> formats.Rows:
    if source.text is None or source.target is None:
        raise DataError(f"{shown(path)}: a CSV source needs `text` and `target` column names")
    reader = csv.DictReader(formats.read_text(path).splitlines(keepends=True))
    missing = {source.text, source.target} - set(reader.fieldnames or [])
    if missing:
        have = ", ".join(reader.fieldnames or [])
        raise DataError(f"{shown(path)}: no column {', '.join(sorted(missing))}; it has: {have}")
    for number, row in enumerate(reader, start=1):
        values = (row[source.text], row[source.target])
        if None in values or None in row:
            yield f"line {reader.line_num}", "has another number of columns than the header"
        else:
            yield f"line {reader.line_num}", _example(f"{path.stem}-{number:05d}", *values)


def _hub_rows(source: DataSource) -> formats.Rows:
    variable = source.path[1:].partition("/")[0]
    if source.hub is None or source.text is None or source.target is None:
        raise DataError(f"{source.path}: ${variable} is not set and the source names no hub set")
    from datasets import load_dataset  # 1.5 s to import, and needed only here

    try:
        loaded: Any = load_dataset(source.hub, split=source.hub_split)
    except Exception as error:  # the library raises a dozen unrelated types when it is offline
        raise DataError(
            f"${variable} is not set and {source.hub} cannot be loaded from the hub: {error}\n"
            f"  set {variable} to the folder that holds {source.path.partition('/')[2]}"
        ) from None
    target = source.hub_target or source.target
    for number, row in enumerate(cast(Iterator[dict[str, Any]], loaded), start=1):
        name = f"{source.hub_split}-{number:05d}"
        yield f"row {number}", _example(name, str(row[source.text]), str(row[target]))


def _example(name: str, text: str, target: str) -> dict[str, Any]:
    return {"id": name, "messages": [{"role": "user", "content": text}], "target": target}


def _training_row(example: Example) -> TrainingRow:
    answer = Message(role="assistant", content=example.target)
    return TrainingRow(id=example.id, messages=(*with_passages(example), answer))
