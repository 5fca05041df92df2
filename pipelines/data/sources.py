"""Read the rows of a split, and report every bad one with its file and line."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pipelines.core import row_file
from pipelines.core.errors import DataError
from pipelines.core.paths import ROOT, shown
from pipelines.core.prompt import with_passages
from pipelines.core.records import Example, Message, Record, TrainingRow
from pipelines.core.workload import DataSource
from pipelines.data import formats

MAX_SHOWN = 20
"""Problems printed of one file; the rest are counted."""
PROVENANCE = ("group", "licence", "answered_by", "answered_at")
"""Of a training row; taken from columns of these names, beside `text` and `target`."""

RowT = TypeVar("RowT", Example, TrainingRow)


def load_training(source: DataSource) -> Sequence[TrainingRow]:
    """Rows to train on; those of a format have the passages that answer them before the question.

    Raises:
        DataError: the file is absent, or rows are bad; lists them with their lines.
    """
    return kept(_load(source, TrainingRow, _training_row), source)


def kept(rows: Iterable[TrainingRow], source: DataSource) -> Sequence[TrainingRow]:
    """The rows in a temporary file, with the source's licence and model where they state none.

    Raises:
        DataError: a row cannot be written.
    """
    told = {"licence": source.licence, "answered_by": source.answered_by}

    def stated(row: TrainingRow) -> TrainingRow:
        more = {key: v for key, v in told.items() if v and getattr(row, key) is None}
        return row.model_copy(update=more) if more else row

    return row_file.spooled(map(stated, rows))


def load_eval(source: DataSource) -> list[Example]:
    """Items of an eval set.

    Raises:
        DataError: the file is absent or empty, ids repeat, or targets are missing.
    """
    return list(_load(source, Example, lambda example, _: example))


def rows_sha256(rows: Sequence[Record]) -> str:
    """SHA-256 of the rows as canonical JSON Lines; order counts."""
    digest = hashlib.sha256()
    for line in row_file.lines(rows):
        digest.update(line)
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


def _load(
    source: DataSource,
    row_type: type[RowT],
    of_example: Callable[[Example, dict[str, Any]], RowT],
) -> Iterator[RowT]:
    """The rows, as long as all are good.

    Raises:
        DataError: after the last row, if any is bad.
    """
    if source.calls is not None or source.is_tracked:
        raise DataError(f"{source.path}: logged calls are read for `prepare.train` only")
    path = resolve(source.path)
    is_conversation = source.text is None and source.format is None
    n_rows = n_problems = 0
    listed: list[str] = []
    seen: dict[str, str] = {}
    for place, raw in _raw_rows(source, path, row_type):
        row, problems = None, []
        try:
            if isinstance(raw, str):
                problems = [raw]
            elif is_conversation:
                row = row_type.model_validate(raw)
            else:
                keys = PROVENANCE if source.format is None else ()
                about = {key: raw.pop(key) for key in keys if key in raw}
                row = of_example(Example.model_validate(raw), about)
        except ValidationError as error:
            problems = [_said(each) for each in error.errors()]
        if isinstance(row, Example):
            problems += _problems(row, seen)
            seen[row.id] = place
        n_problems += len(problems)
        listed += [f"{place}: {each}" for each in problems[: MAX_SHOWN - len(listed)]]
        if row is not None and not n_problems:
            n_rows += 1
            yield row
    if not n_rows and not n_problems:
        n_problems, listed = 1, ["no rows"]
    if n_problems:
        more = [f"... and {n_problems - MAX_SHOWN} more"] if n_problems > MAX_SHOWN else []
        where = shown(path) if path else f"hub {source.hub}"
        raise DataError(f"{where}: {n_problems} problem(s)\n  " + "\n  ".join([*listed, *more]))


def _said(problem: ErrorDetails) -> str:
    """What pydantic found, without the input."""
    key = ".".join(str(part) for part in problem["loc"])
    return f"{key + ': ' if key else ''}{problem['msg'].removeprefix('Value error, ')}"


def _problems(item: Example, seen: Mapping[str, str]) -> list[str]:
    """What is wrong with an item, given the places of those before it."""
    problems: list[str] = []
    if not item.target.strip():
        problems.append("target: is empty")
    if not item.messages:
        problems.append("messages: is empty")
    if item.id in seen:
        problems.append(f"id: {item.id!r} stands already at {seen[item.id]}")
    return problems


def _raw_rows(source: DataSource, path: Path | None, row_type: type[Record]) -> formats.Rows:
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
    elif path.suffix == ".parquet":
        yield from _parquet_rows(source, existing(source.path), row_type)
    else:
        raise DataError(
            f"{shown(path)}: expected .jsonl, .csv or .parquet, got {path.suffix or 'no suffix'}"
        )


def _columns_of(row: dict[str, Any], source: DataSource) -> dict[str, Any] | str:
    """An example from two keys of a JSON object, or what is wrong with the object."""
    if source.text is None or source.target is None:
        return "a source with `text` needs `target`, too"
    if absent := [key for key in ("id", source.text, source.target) if key not in row]:
        return f"has no key {', '.join(absent)}"
    target = row[source.target]
    if not isinstance(target, str):
        target = json.dumps(target, ensure_ascii=False, separators=(",", ":"))
    return _example(str(row["id"]), str(row[source.text]), target, row)


def _csv_rows(source: DataSource, path: Path) -> formats.Rows:
    if source.text is None or source.target is None:
        raise DataError(f"{shown(path)}: a CSV source needs `text` and `target` column names")
    reader = csv.DictReader(formats.text_lines(path))
    try:
        missing = {source.text, source.target} - set(reader.fieldnames or [])
        if missing:
            have = ", ".join(reader.fieldnames or [])
            raise DataError(
                f"{shown(path)}: no column {', '.join(sorted(missing))}; it has: {have}"
            )
        for number, row in enumerate(reader, start=1):
            values = (row[source.text], row[source.target])
            if None in values or None in row:
                yield f"line {reader.line_num}", "has another number of columns than the header"
            else:
                name = f"{path.stem}-{number:05d}"
                yield f"line {reader.line_num}", _example(name, *values, row)
    except csv.Error as error:
        raise DataError(f"{shown(path)}: line {reader.line_num}: no CSV: {error}") from None


def _parquet_rows(source: DataSource, path: Path, row_type: type[Record]) -> formats.Rows:
    from pyarrow import ArrowException, parquet  # not above: 0.2 s

    try:
        file: Any = parquet.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise DataError(f"{shown(path)}: not a Parquet file: {error}") from None
    columns: list[str] = file.schema_arrow.names
    needed = ["messages"] if source.text is None else [source.text, source.target or "target"]
    if missing := [name for name in needed if name not in columns]:
        raise DataError(
            f"{shown(path)}: no column {', '.join(missing)}; it has: {', '.join(columns)}"
        )
    known = [name for name in columns if name in {*needed, *row_type.model_fields, *PROVENANCE}]
    number = 0
    for batch in file.iter_batches(columns=known):
        for raw in batch.to_pylist():
            number += 1
            row = _without_nulls(raw)
            if source.text is None:
                yield f"row {number}", row
            elif absent := [name for name in needed if name not in row]:
                yield f"row {number}", f"{', '.join(absent)} is null"
            else:
                text, target = (str(row[name]) for name in needed)
                name = str(row.get("id", f"{path.stem}-{number:05d}"))
                yield f"row {number}", _example(name, text, target, row)


def _without_nulls(value: Any) -> Any:
    """Cells that are null are absent; a column has them in every row."""
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


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
        yield f"row {number}", _example(name, str(row[source.text]), str(row[target]), row)


def _example(name: str, text: str, target: str, row: Mapping[str, Any]) -> dict[str, Any]:
    about = {key: str(row[key]) for key in PROVENANCE if row.get(key)}
    turns = [{"role": "user", "content": text}]
    return {"id": name, "messages": turns, "target": target, **about}


def _training_row(example: Example, about: dict[str, Any]) -> TrainingRow:
    answer = Message(role="assistant", content=example.target)
    return TrainingRow.model_validate(
        {
            "id": example.id,
            "messages": (*with_passages(example), answer),
            "metadata": example.metadata,
            "group": example.group,
            **about,
        }
    )
