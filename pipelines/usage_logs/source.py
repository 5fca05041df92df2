"""Files of a usage log: which there are, how each lies on disk, and the SQL that reads it."""

# ruff: noqa: S608 - what comes from outside is quoted by `literal` and `identifier`

from __future__ import annotations

import codecs
import io
import json
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, Literal

import duckdb

from pipelines.core.errors import DataError
from pipelines.core.paths import shown
from pipelines.usage_logs import formats
from pipelines.usage_logs.formats import Fields
from pipelines.usage_logs.formats.fields import literal, parsed

Kind = Literal["lines", "list", "documents", "csv", "parquet"]
"""JSON Lines, one JSON list, JSON documents one after the other, or a table."""
MAX_LINE_BYTES = 16 * 1024**2
"""Of one call; the engine keeps some such buffers per thread."""
MAX_DOCUMENT_BYTES = 512 * 1024**2
JSON_READERS: dict[str, str] = {
    "lines": "format = 'newline_delimited', ignore_errors = true, "
    f"maximum_object_size = {MAX_LINE_BYTES}",
    "list": f"format = 'array', maximum_object_size = {MAX_LINE_BYTES}",
    "documents": f"format = 'unstructured', maximum_object_size = {MAX_DOCUMENT_BYTES}",
}
N_SAMPLED = 20
"""Records of a file that its format is known by."""


@dataclass(frozen=True)
class Source:
    """One file."""

    name: str
    """As a person would type it."""
    path: str
    """As the engine opens it: without characters that it takes for patterns."""
    kind: Kind
    format: str


@dataclass(frozen=True)
class Found:
    """The files of a log."""

    sources: tuple[Source, ...]
    skipped: tuple[str, ...]
    """Empty files, and files in folders that are of no known format."""


def find(engine: duckdb.DuckDBPyConnection, paths: Iterable[str | Path], folder: Path) -> Found:
    """Recognise every file under `paths`: files, folders and patterns.

    Args:
        engine: reads the first records.
        paths: what the user named.
        folder: for links to files whose names the engine cannot open as they are.

    Raises:
        DataError: a path is not there or cannot be read, or a file that was named, or every file,
            is of no known format; lists the known ones.
    """
    sources: list[Source] = []
    skipped: list[str] = []
    for number, (path, was_named) in enumerate(_files(paths)):
        name = shown(path)
        if path.stat().st_size == 0:
            skipped.append(name)
            continue
        opened = _openable(path, folder, number)
        try:
            kind, rows = _sample(engine, opened)
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            raise DataError(f"{name}: cannot be read: {first_line(error)}") from None
        found = formats.detect(rows)
        if kind is not None and found is not None:
            sources.append(Source(name, opened, kind, found))
        elif was_named:
            raise DataError(f"{name}: a usage log in no known format; known are {formats.titles()}")
        else:
            skipped.append(name)
    if skipped and not sources:
        raise DataError(
            f"{len(skipped)} file(s), {skipped[0]} the first: usage logs in no known format; known "
            f"are {formats.titles()}"
        )
    return Found(tuple(sources), tuple(skipped))


def _files(paths: Iterable[str | Path]) -> Iterator[tuple[Path, bool]]:
    """Each file once, and whether it was named itself."""
    seen: set[Path] = set()
    for path in map(Path, paths):
        if path.is_dir():
            inside = (each for each in sorted(path.rglob("*")) if each.is_file())
            found = [(each, False) for each in inside if not each.name.startswith((".", "_"))]
        elif path.is_file():
            found = [(path, True)]
        else:
            matches = (Path(each) for each in sorted(glob(str(path), recursive=True)))
            found = [(each, False) for each in matches if each.is_file()]
        if not found:
            raise DataError(f"{shown(path)}: no such file, and no folder or pattern with files")
        for each, was_named in found:
            if (resolved := each.resolve()) not in seen:
                seen.add(resolved)
                yield each, was_named


def _openable(path: Path, folder: Path, number: int) -> str:
    """`path`, or a link without pattern characters, or a copy without a byte order mark."""
    try:
        with path.open("rb") as file:
            if file.read(3) == codecs.BOM_UTF8:
                copy = folder / f"{number}{path.suffix}"
                with copy.open("wb") as target:
                    shutil.copyfileobj(file, target)
                return str(copy)
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read: {error}") from None
    if re.search(r"[*?\[\]{}\\:]", str(path.absolute())) is None:
        return str(path.absolute())
    link = folder / f"{number}{''.join(re.findall(r'[.][A-Za-z0-9]+', path.name)[-2:])}"
    link.symlink_to(path.absolute())
    return str(link)


def _sample(
    engine: duckdb.DuckDBPyConnection, path: str
) -> tuple[Kind | None, list[dict[str, Any]]]:
    """How the file lies on disk, and its first records."""
    suffix = Path(re.sub(r"[.](gz|zst)$", "", path, flags=re.IGNORECASE)).suffix.lower()
    if suffix == ".parquet":
        return "parquet", _table_rows(engine, "parquet", path)
    if suffix not in (".csv", ".tsv"):
        try:
            lines = _json_rows(engine, "lines", path)
        except duckdb.InvalidInputException:  # longer than a line may be: perhaps a document
            lines = []
        if lines and isinstance(lines[0], dict):
            return "lines", _objects(lines)
        for kind in ("list", "documents"):
            try:
                if objects := _objects(_json_rows(engine, kind, path)):
                    return kind, objects
            except duckdb.Error:
                continue
        if objects := _objects(lines):
            return "lines", objects
    try:
        return "csv", _table_rows(engine, "csv", path)
    except duckdb.Error:
        return None, []


def _json_rows(engine: duckdb.DuckDBPyConnection, kind: Kind, path: str) -> list[Any]:
    rows = engine.execute(
        f"SELECT json FROM read_json_objects({literal(path)}, {JSON_READERS[kind]}) "
        f"LIMIT {N_SAMPLED}"
    ).fetchall()
    return [_loaded(row) for (row,) in rows]


def _loaded(row: str | None) -> Any:
    try:
        return None if row is None else json.loads(row)
    except RecursionError:
        return None


def _objects(rows: Sequence[Any]) -> list[dict[str, Any]]:
    return [row for row in rows if isinstance(row, dict)]


def _table_rows(engine: duckdb.DuckDBPyConnection, kind: Kind, path: str) -> list[dict[str, Any]]:
    """First rows of a table; a table without rows gives one without values."""
    columns = _columns(engine, kind, path)
    if len(columns) < 2:
        return []
    texts = ", ".join(_text(name, column_type) for name, column_type in columns.items())
    rows = engine.execute(f"SELECT {texts} FROM {_table(kind, path)} LIMIT {N_SAMPLED}").fetchall()
    named = [dict(zip(columns, map(_decoded, row), strict=True)) for row in rows]
    return named or [dict.fromkeys(columns)]


def _decoded(text: str | None) -> Any:
    if text is not None and text.startswith(("{", "[")):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def records(
    engine: duckdb.DuckDBPyConnection, sources: Sequence[Source], fields: Fields, columns: str
) -> str:
    """SQL that reads `fields` of each record; what is absent or of another type is NULL.

    Args:
        engine: asked for the columns of tables.
        sources: files of one kind; a table stands alone.
        fields: what is read.
        columns: SQL of further columns, beside `filename`.
    """
    kind, path = sources[0].kind, sources[0].path
    if kind in JSON_READERS:
        files = ", ".join(literal(each.path) for each in sources)
        types = ", ".join(
            f"{identifier(key)}: {literal(type_of(each))}" for key, each in fields.items()
        )
        return (
            f"SELECT *, {columns} FROM read_json([{files}], {JSON_READERS[kind]}, "
            f"columns = {{{types}}}, filename = true, hive_partitioning = false)"
        )
    there = _columns(engine, kind, path)
    by_plain_name = {plain(name): name for name in reversed(there)}
    values: list[str] = []
    for key, each in fields.items():
        name = key if key in there else by_plain_name.get(plain(key))
        value = (
            f"CAST(NULL AS {type_of(each)})"
            if name is None
            else _value(_text(name, there[name]), each)
        )
        values.append(f"{value} AS {identifier(key)}")
    return (
        f"SELECT {', '.join(values)}, {literal(path)} AS filename, {columns} "
        f"FROM {_table(kind, path)}"
    )


def lines_of(source: Source, ordinals: Collection[int]) -> dict[int, int]:
    """Ordinal of a record in a JSON Lines file -> its line, both from 1; empty lines are none."""
    import pyarrow  # not above: 0.2 s, and needed only here

    packed = {".gz": "gzip", ".zst": "zstd"}.get(Path(source.path).suffix.lower())
    stream = pyarrow.input_stream(source.path, compression=packed)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    found: dict[int, int] = {}
    ordinal, last = 0, max(ordinals)
    with io.BufferedReader(stream) as lines:  # pyright: ignore[reportUnknownArgumentType]
        for line, text in enumerate(lines, start=1):
            if text.strip(b" \t\r\n"):
                ordinal += 1
                if ordinal in ordinals:
                    found[ordinal] = line
            if ordinal == last:
                break
    return found


def _columns(engine: duckdb.DuckDBPyConnection, kind: Kind, path: str) -> dict[str, str]:
    """Name -> type of a table's columns."""
    described = engine.execute(f"DESCRIBE SELECT * FROM {_table(kind, path)}")
    return {name: column_type for name, column_type, *_ in described.fetchall()}


def _table(kind: Kind, path: str) -> str:
    if kind == "parquet":
        return f"read_parquet({literal(path)}, filename = false, hive_partitioning = false)"
    return (
        f"read_csv({literal(path)}, header = true, all_varchar = true, store_rejects = true, "
        f"hive_partitioning = false)"
    )


def _text(name: str, column_type: str) -> str:
    """A column as text; a nested one as JSON."""
    nested = column_type.startswith(("STRUCT", "MAP", "UNION")) or column_type.endswith("]")
    column = f"to_json({identifier(name)})" if nested else identifier(name)
    return f"CAST({column} AS VARCHAR)"


def _value(text: str, field: Any) -> str:
    return f"TRY_CAST({text} AS {field})" if isinstance(field, str) else parsed(text, field)


def type_of(field: Any) -> str:
    """The DuckDB type of an entry of `Fields`."""
    if isinstance(field, Mapping):
        parts = (f"{identifier(key)} {type_of(each)}" for key, each in field.items())
        return f"STRUCT({', '.join(parts)})"
    return f"{type_of(field[0])}[]" if isinstance(field, list) else field


def plain(name: str) -> str:
    """A column's name without case, spaces and signs."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def identifier(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def first_line(error: Exception) -> str:
    """What the engine says is wrong, without its advice."""
    return str(error).strip().splitlines()[0]
