"""Long files whose records are all alike are read with only the fields that they have.

Fields that a format knows and a file does not hold cost as much as those that it holds. What a
file holds is taken from its first records; the engine stops at the first record with another key
or another type, and then the file is read with every field after all.
"""

# ruff: noqa: S608 - what comes from outside is quoted by `literal` and `identifier`

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from pipelines.usage_logs.formats import Fields
from pipelines.usage_logs.formats.fields import literal
from pipelines.usage_logs.source import MAX_LINE_BYTES, Source, identifier, records, type_of

N_SAMPLED = 2048
"""First records, from which the fields are taken."""
N_COMPARED = 50
"""First records that must be the same in both readings."""
AS_TEXT = ("varchar", "bigint", "boolean", "uuid")
"""Detected types that are turned back into the text they were read from."""


@dataclass(frozen=True)
class Alike:
    """How a file is read whose records are all alike."""

    records: str
    """SQL as of `source.records`; fails at a record that is not like the first ones."""
    lacking: str
    """SQL of one row with the fields that the file does not hold, all NULL, and only those."""


class _NotAlikeError(Exception):
    """A field would be read as something else than its format says."""


def alike(
    engine: duckdb.DuckDBPyConnection,
    source: Source,
    fields: Fields,
    columns: str,
    compared: set[tuple[str, str, str]],
) -> Alike | None:
    """How to read a file with only what its records hold.

    Args:
        engine: asked what the file holds.
        source: one file of JSON Lines.
        fields: what its format knows.
        columns: SQL of further columns, beside `filename`.
        compared: formats and types of files whose first records were read in both ways and found
            the same; added to. UUIDs may be spelled otherwise in each file.

    Returns:
        None where this would not read the first records as `source.records` does.
    """
    reader = (
        f"read_json({literal(source.path)}, format = 'newline_delimited', "
        f"sample_size = {N_SAMPLED}, timestampformat = 'never', dateformat = 'never', "
        f"maximum_object_size = {MAX_LINE_BYTES})"
    )
    try:
        table = engine.sql(f"FROM {reader}")
        there = dict(zip(table.columns, table.types, strict=True))
        values = ", ".join(
            f"{_fitted(identifier(key), there.get(key), each)} AS {identifier(key)}"
            for key, each in fields.items()
        )
        # Where a column is not asked for, the engine lets keys pass that are no columns.
        first = identifier(next(iter(there)))
        nothing = " AND ".join(f"{identifier(key)} IS NULL" for key in there)
        found = (
            f"SELECT {values}, {literal(source.path)} AS filename, {columns} "
            f"FROM {reader} WHERE CASE WHEN {first} IS NOT NULL THEN true "
            f"WHEN {nothing} THEN error('nothing in it') ELSE true END"
        )
        types = (source.format, str(table.types), str(table.columns))
        if types not in compared or "UUID" in types[1]:
            every = records(engine, [source], fields, columns)
            if _first(engine, found) != _first(engine, every):
                return None
            compared.add(types)
    except duckdb.OutOfMemoryException:
        raise
    except (_NotAlikeError, duckdb.Error):
        return None
    absent = ", ".join(
        f"{null} AS {identifier(key)}"
        for key, each in fields.items()
        if (null := _lacking(there.get(key), each))
    )
    return Alike(records=found, lacking=f"SELECT {absent or 'NULL'}")


def _first(engine: duckdb.DuckDBPyConnection, query: str) -> list[Any]:
    return engine.execute(
        f"SELECT * EXCLUDE (filename) FROM ({query}) LIMIT {N_COMPARED}"
    ).fetchall()


def _fitted(value: str, found: Any, field: Any) -> str:
    """SQL of a value of the type `found`, as an entry of `Fields`."""
    if found is None:
        return f"CAST(NULL AS {type_of(field)})"
    if isinstance(field, Mapping):
        if found.id != "struct":
            raise _NotAlikeError
        inner = dict(found.children)
        parts = (
            f"{identifier(key)} := {_fitted(f'{value}.{identifier(key)}', inner.get(key), each)}"
            for key, each in field.items()
        )
        return f"struct_pack({', '.join(parts)})"
    if str(found) == type_of(field):
        return value
    if field == "VARCHAR" and found.id in AS_TEXT:
        return f"CAST({value} AS VARCHAR)"
    if field == "DOUBLE" and found.id == "bigint":
        return f"CAST({value} AS DOUBLE)"
    raise _NotAlikeError


def _lacking(found: Any, field: Any) -> str | None:
    """SQL of an entry of `Fields` without the parts that are there; None where all are."""
    if found is None:
        return f"CAST(NULL AS {type_of(field)})"
    if not isinstance(field, Mapping):
        return None
    inner = dict(found.children)
    parts = ", ".join(
        f"{identifier(key)} := {null}"
        for key, each in field.items()
        if (null := _lacking(inner.get(key), each))
    )
    return f"struct_pack({parts})" if parts else None
