"""How a file of scores lies on disk: its rows by way of DuckDB, and where a row stands."""

# ruff: noqa: S608 - the SQL holds our own names of columns, numbers, and paths that are quoted

from __future__ import annotations

import codecs
import csv
import io
import shutil
import tempfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from pipelines.core.errors import DataError
from pipelines.core.evidence import Floats
from pipelines.core.paths import shown
from pipelines.data.score_columns import KNOWN, NEEDED, NUMBERS, TEXTS, ignored, quoted, value

MEMORY = "1GiB"
"""What the engine may use before it writes to its temporary folder."""
MAX_HEADER_BYTES = 128 * 1024
MAX_SHOWN = 5
"""Rows listed of what is wrong; the rest are counted."""
MAX_REJECTED = 1_000
"""Lines counted that are no rows of a CSV file."""
N_SAMPLED = 1_000
"""Lines of a JSON Lines file whose keys are looked at."""
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
FORMATS = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}

Rows = NDArray[np.int64]
"""Numbers of rows, from 0, or one number for each row."""


@dataclass(frozen=True)
class Texts:
    """A column of texts, each of them held once."""

    codes: Rows
    """Row -> place in `values`; -1 = empty."""
    values: list[str]
    """In the order of their first appearance."""


@dataclass(frozen=True)
class ScoreFile:
    """One file, open for reading."""

    engine: duckdb.DuckDBPyConnection
    path: Path
    source: str
    """SQL of its rows."""
    columns: tuple[str, ...]
    """Those of `KNOWN` that are read."""
    ignored: list[str]
    """Columns that are not read, in words."""
    format: str
    separator: str = ","
    """Of a CSV file."""

    @property
    def name(self) -> str:
        """As a person would type it."""
        return shown(self.path)

    def read(self) -> tuple[dict[str, Texts], dict[str, Floats]]:
        """All rows: texts, and numbers with NaN for empty and inf for what is no finite number.

        Raises:
            DataError: there are none, or a line is no row.
        """
        values = ", ".join(f'{value(name)} AS "{name}"' for name in self.columns)
        table: Any = self.engine.sql(f"SELECT {values} FROM {self.source}").to_arrow_table()
        if self.format == "csv":
            self._refuse_ragged()
        if not len(table):
            raise DataError(f"{self.name}: has no rows; it needs one per item and candidate")
        texts: dict[str, Texts] = {}
        for name in TEXTS:
            if name in self.columns:
                column = table[name].dictionary_encode().combine_chunks()
                codes = column.indices.fill_null(-1).to_numpy().astype(np.int64)
                texts[name] = Texts(codes, column.dictionary.to_pylist())
        return texts, {name: table[name].to_numpy() for name in NUMBERS if name in self.columns}

    def _refuse_ragged(self) -> None:
        rejected = self.engine.execute(
            "SELECT DISTINCT line, lower(CAST(error_type AS VARCHAR)) FROM reject_errors "
            "ORDER BY ALL"
        ).fetchall()
        if rejected:
            listed = "".join(
                f"\n  line {line}: {what.replace('unquoted value', 'a quote that does not fit')}"
                for line, what in rejected[:MAX_SHOWN]
            )
            raise DataError(
                f"{self.name}: {len(rejected):,} line(s) that are no row; each needs as many values"
                f" as the header, in UTF-8, with quotes around those that hold a separator{listed}"
            )

    def bad(
        self, what: str, rows: Rows, says: Iterable[str], before: Rows | None = None
    ) -> DataError:
        """An error that lists the first of `rows` with their places.

        Args:
            what: is wrong, and what to do.
            rows: those that it holds for, ascending.
            says: what stands in each of them.
            before: the earlier row that each of them contradicts.
        """
        first = rows[:MAX_SHOWN].tolist()
        earlier = [] if before is None else before[:MAX_SHOWN].tolist()
        places = self._places([*first, *earlier])
        lines = [f"{places[row]}: {text}" for row, text in zip(first, says, strict=False)]
        if earlier:
            pairs = zip(lines, earlier, strict=True)
            lines = [f"{line} at {places[row]}" for line, row in pairs]
        if len(rows) > len(first):
            lines.append(f"... and {len(rows) - len(first):,} more")
        return DataError("\n  ".join([f"{self.name}: {what}", *lines]))

    def _places(self, rows: list[int]) -> dict[int, str]:
        """Row -> `line 7` of a text file, `row 6` of Parquet or after a value of 128 KiB."""
        places = {row: f"row {row + 1}" for row in rows}
        if self.format != "parquet":
            with _unpacked(self.path) as file, suppress(csv.Error):
                starts = self._starts(file)
                for row, line in zip(range(max(rows) + 1), starts, strict=False):
                    if row in places:
                        places[row] = f"line {line}"
        return places

    def _starts(self, file: io.BufferedReader) -> Iterator[int]:
        """The line that each row starts at, from 1."""
        if self.format == "json":
            yield from (number for number, line in enumerate(file, start=1) if line.strip())
            return
        text = io.TextIOWrapper(file, "latin-1", newline="")  # its bytes, whatever they mean
        reader = csv.reader(text, delimiter=self.separator)
        start = 1
        for values in reader:
            if values and start > 1:  # line 1 is the header
                yield start
            start = reader.line_num + 1

    def raw(self, name: str, rows: Rows) -> list[str]:
        """What stands in a column in the first of `rows`, word for word."""
        wanted = ", ".join(map(str, rows[:MAX_SHOWN].tolist()))
        found = self.engine.execute(
            f'SELECT value FROM (SELECT row_number() OVER () - 1 AS place, CAST("{name}" AS '
            f"VARCHAR) AS value FROM {self.source}) WHERE place IN ({wanted}) ORDER BY place"
        )
        return [text for (text,) in found.fetchall()]


@contextmanager
def opened(path: Path) -> Generator[ScoreFile]:
    """A CSV, TSV, JSON Lines or Parquet file, read without anything from the network.

    Raises:
        DataError: it is not there, empty, of no known kind, lacks a column, or cannot be read.
    """
    name = shown(path)
    compression = COMPRESSIONS.get(path.suffix.lower(), "none")
    suffix = path.suffix if compression == "none" else Path(path.stem).suffix
    format = FORMATS.get(suffix.lower())
    if format is None or (format == "parquet" and compression != "none"):
        raise DataError(
            f"{name}: of no known kind; expected .csv, .tsv, .jsonl or .parquet, the texts also as "
            ".gz or .zst"
        )
    if not path.is_file():
        raise DataError(f"{name}: {'is a folder; name one' if path.is_dir() else 'no such'} file")
    if path.stat().st_size == 0:
        raise DataError(f"{name}: is empty; it needs the columns {', '.join(NEEDED)}, and rows")
    with tempfile.TemporaryDirectory(prefix="freehold-") as folder:
        link = Path(folder, "scores")  # its own name may hold what the engine takes for a pattern
        config: dict[str, Any] = {
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "memory_limit": MEMORY,
            "temp_directory": f"{folder}/spill",
        }
        with duckdb.connect(config=config) as engine:
            try:
                engine.execute("SET enable_progress_bar = false")
                link.symlink_to(path.absolute())
                if format == "parquet":
                    yield _parquet(engine, path, link)
                elif format == "csv":
                    yield _csv(engine, path, link, compression)
                else:
                    yield _json_lines(engine, path, link, compression)
            except (duckdb.Error, OSError) as error:
                what = str(error).strip().splitlines()[0].replace(str(link), name)
                raise DataError(
                    f"{name}: cannot be read: {quoted(what, 300)}; write it anew, with no other "
                    "columns than are needed"
                ) from None


def _csv(engine: duckdb.DuckDBPyConnection, path: Path, link: Path, compression: str) -> ScoreFile:
    with _unpacked(path) as file:
        header = file.readline(MAX_HEADER_BYTES)
    try:
        text = header.decode("utf-8-sig")
        separator = max(",;\t", key=text.count)
        names = [each.strip() for each in next(csv.reader([text], delimiter=separator), [])]
    except (UnicodeDecodeError, csv.Error):
        raise DataError(
            f"{shown(path)}: line 1 is no header in UTF-8; write the file anew as UTF-8, its first "
            "line the names of the columns"
        ) from None
    others = ignored(shown(path), names)
    columns = [name if name in KNOWN else f"c{number}" for number, name in enumerate(names)]
    source = (
        f"read_csv({_literal(link)}, columns = {_texts(columns)}, delim = '{separator}', "
        "quote = '\"', escape = '\"', header = true, auto_detect = false, store_rejects = true, "
        f"rejects_limit = {MAX_REJECTED}, compression = '{compression}')"
    )
    known = tuple(name for name in names if name in KNOWN)
    return ScoreFile(engine, path, source, known, others, "csv", separator)


def _json_lines(
    engine: duckdb.DuckDBPyConnection, path: Path, link: Path, compression: str
) -> ScoreFile:
    with _unpacked(path) as file:
        if file.peek(3).startswith(codecs.BOM_UTF8):  # which the engine takes for a broken object
            file.read(3)
            link, compression = link.with_suffix(".plain"), "none"
            with link.open("wb") as copy:
                shutil.copyfileobj(file, copy)
    rest = f"format = 'newline_delimited', ignore_errors = true, compression = '{compression}')"
    sampled = engine.execute(
        f"SELECT json_keys(json) FROM read_json_objects({_literal(link)}, {rest} LIMIT {N_SAMPLED}"
    )
    names = list(dict.fromkeys(name for (keys,) in sampled.fetchall() for name in keys or ()))
    if not names:
        raise DataError(
            f"{shown(path)}: no JSON object in its first lines; write one object per line, with "
            f"{', '.join(NEEDED)}"
        )
    source = f"read_json({_literal(link)}, columns = {_texts(KNOWN)}, {rest}"
    return ScoreFile(engine, path, source, KNOWN, ignored(shown(path), names), "json")


def _parquet(engine: duckdb.DuckDBPyConnection, path: Path, link: Path) -> ScoreFile:
    source = f"read_parquet({_literal(link)}, filename = false, hive_partitioning = false)"
    names = [row[0] for row in engine.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()]
    known = tuple(name for name in names if name in KNOWN)
    return ScoreFile(engine, path, source, known, ignored(shown(path), names), "parquet")


def _unpacked(path: Path) -> io.BufferedReader:
    """What a text file holds."""
    import pyarrow  # not above: 0.2 s, and needed only here

    packed = COMPRESSIONS.get(path.suffix.lower())
    return io.BufferedReader(pyarrow.input_stream(str(path), compression=packed))  # pyright: ignore


def _texts(columns: Iterable[str]) -> str:
    """SQL of columns that are read as texts."""
    return "{" + ", ".join(f"\"{name}\": 'VARCHAR'" for name in columns) + "}"


def _literal(path: Path) -> str:
    """`path` as an SQL string."""
    return "'" + str(path).replace("'", "''") + "'"
