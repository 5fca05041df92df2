"""SQL of one canonical row per call: what it belongs to, what is summed, and what is wrong."""

# ruff: noqa: S608 - what comes from outside is quoted by `literal` and `identifier`

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import get_args

import duckdb

from pipelines.core.usage_log import GroupedBy
from pipelines.usage_logs.formats import BILL, CALL, Shape
from pipelines.usage_logs.formats.fields import literal
from pipelines.usage_logs.source import Source, records

PROMPT_CHARACTERS = 200
"""Of a system prompt; calls that share them are one workload."""
MAX_TOKENS = 1_000_000_000
"""Of one call; more are a broken counter."""
TIERS = {
    "standard": (
        "", "default", "standard", "auto", "standard_only", "on_demand", "on-demand", "ondemand",
        "traffic_type_unspecified",
    ),
    "batch": ("batch",),
    "flex": ("flex", "flex_discount", "on_demand_flex"),
    "priority": ("priority", "priority_on_demand", "on_demand_priority"),
}  # fmt: skip
"""Ours -> what logs call it. Capacity paid by the hour has no price per token: it is unknown."""
_TIER_CASES = " ".join(
    f"WHEN {literal(name)} THEN {literal(tier)}" for tier, all_ in TIERS.items() for name in all_
)
SESSION = "SET TimeZone = 'UTC'; SET enable_progress_bar = false;"
"""Of every connection."""
SETUP = f"""
{SESSION}
CREATE MACRO zoned(t) AS coalesce(
    TRY_CAST(TRY_CAST(t AS TIMESTAMPTZ) AS TIMESTAMP),
    make_timestamp(TRY_CAST(TRY_CAST(t AS DOUBLE) * list_extract(
        [NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1e6, NULL, NULL, 1e3, NULL, NULL, 1,
        NULL, NULL, 1e-3], length(split_part(t, '.', 1))) AS BIGINT)));
CREATE MACRO moment(t) AS
    CASE WHEN t LIKE '%Z' AND NOT contains(t, ' ') THEN TRY_CAST(t AS TIMESTAMP)
    ELSE zoned(t) END;
CREATE MACRO tier_of(t) AS CASE lower(t) {_TIER_CASES} END;
"""
"""Times are ISO 8601, those without an offset in UTC, or epochs in seconds to nanoseconds. Those
that end in Z are read without a look at time zones, which is faster; after a space, NZ is one. No
expression stands twice in what is rarely needed: the engine would compute it for every row."""
KEYS = (
    "hour", "workload", "grouped_by", "provider", "model", "tier", "region", "context_over",
    "is_sum", "timed", "reason",
)  # fmt: skip
"""What calls are grouped by; `hour` counts from the epoch, `reason` says why a row is bad."""
GROUPED = ("code", "workload", "provider", "model", "tier", "region")
"""What `KEYS` are made from."""
SUMMED = (
    "n_calls", "input", "cached", "write_5m", "write_1h", "output", "reasoning", "usd",
)  # fmt: skip
"""What is added up over the calls of a group."""
SUMS = {
    **{name: name for name in SUMMED},
    "n_failed": "CASE WHEN code // 32 % 2 = 1 THEN n_calls ELSE 0 END",
    "n_without_usage": "CASE WHEN code // 16 % 2 = 1 THEN n_calls ELSE 0 END",
}
"""What is known of a call, or of a group of calls with one `code`."""
FIRST, LAST = "TIMESTAMP '2015-01-01'", "TIMESTAMP '2100-01-01'"
PROBLEMS = {
    "model IS NULL AND ts IS NULL AND input IS NULL AND output IS NULL":
        "no JSON object, or one without model, time and tokens",
    "coalesce(model, '') = ''": "no model",
    f"coalesce(ts NOT BETWEEN {FIRST} AND {LAST}, true)":
        "no timestamp, or one that cannot be read",
    "least(input, cached, write_5m, write_1h, output, reasoning, n_calls) < 0": "a negative count",
    "input IS NULL AND output IS NOT NULL": "output tokens without input tokens",
    f"NOT is_sum AND greatest(input, output) > {MAX_TOKENS}":
        f"an impossible count: more than {MAX_TOKENS:,} tokens in one call",
    "cached + write_5m + write_1h > input":
        "an impossible count: cached and written tokens exceed the input",
    "reasoning > output": "an impossible count: reasoning tokens exceed the output",
    "upper(currency) <> 'USD'": "a currency other than USD",
}  # fmt: skip
"""What is wrong with a row -> what is said of it; the first that holds."""
UNKNOWN_TIER = "an unknown service tier, or capacity paid by the hour"
_ORDINARY = f"""model <> '' AND ts BETWEEN {FIRST} AND {LAST} AND cached >= 0 AND write_5m >= 0
    AND write_1h >= 0 AND reasoning >= 0 AND n_calls >= 0 AND reasoning <= output
    AND cached + write_5m + write_1h <= input AND currency IS NULL
    AND input <= {MAX_TOKENS} AND output <= {MAX_TOKENS} AND timed AND NOT failed AND NOT is_sum"""
"""Holds for nearly every call, and is found out faster than which of `PROBLEMS` does not."""
BILL_REASON = """CASE
    WHEN ts IS NULL THEN 'no timestamp, or one that cannot be read'
    WHEN usd IS NULL THEN 'no amount, or one that cannot be read'
    WHEN upper(currency) <> 'USD' THEN 'a currency other than USD' END"""
DEFAULTS = {
    "n_calls": "1", "failed": "false", "is_sum": "false", "timed": "true", "tier": "''",
    "cached": "0", "write_5m": "0", "write_1h": "0", "reasoning": "0",
    "provider": "''", "region": "''", "project": "''", "description": "''",
}  # fmt: skip
"""Of what a format does not state, or a row."""
WHOLE_ROWS = ("lines", "csv", "parquet")
"""Kinds of files in which a call's place is that of its record."""
NAMED: tuple[str, ...] = get_args(GroupedBy)
"""What a workload's name may be taken from, the most telling first; every call has a model."""
NO_LINE = "CAST(NULL AS BIGINT) AS line"
"""Column of rows that are not numbered."""


def canonical(
    engine: duckdb.DuckDBPyConnection,
    sources: Sequence[Source],
    shape: Shape,
    *,
    numbered: bool = False,
    recorded: str | None = None,
    same: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """SQL of the canonical columns of files of one kind and one format, `filename` and `line`.

    Args:
        engine: asked for the columns of tables.
        sources: the files; a single one where `numbered`.
        shape: of their format.
        numbered: `line` is the ordinal of the record, or of the row where one document holds
            many; otherwise NULL, which is faster.
        recorded: SQL that reads the records; None = `source.records`.
        same: columns that are the same in every row, as SQL: the engine then has less to compute.
    """
    by_record = numbered and sources[0].kind in WHOLE_ROWS
    ordinal = "row_number() OVER () AS line"
    recorded = recorded or records(engine, sources, shape.fields, ordinal if by_record else NO_LINE)
    rows = f"SELECT * REPLACE ({ordinal}) FROM rows" if numbered and not by_record else "FROM rows"
    stated, types = (shape.call, CALL) if shape.call else (shape.bill, BILL)
    values = ", ".join(
        f"{same.get(name, f'TRY_CAST({_known(name, stated)} AS {column_type})')} AS {name}"
        for name, column_type in types.items()
    )
    return (
        f"WITH records AS ({recorded}), rows AS ({shape.rows}) "
        f"SELECT {values}, filename, line FROM ({rows}) WHERE {shape.keep}"
    )


def constant(engine: duckdb.DuckDBPyConnection, shape: Shape, lacking: str) -> dict[str, str]:
    """Canonical columns that are the same in every row of a file, as SQL.

    Args:
        engine: asked which columns can be told from what the file lacks.
        shape: of the file's format.
        lacking: SQL of one row with the fields of `shape` that the file does not hold, and only
            those.
    """
    found: dict[str, str] = {}
    for name, column_type in CALL.items():
        value = f"TRY_CAST({_known(name, shape.call)} AS {column_type})"
        with contextlib.suppress(duckdb.BinderException):
            row = engine.execute(f"SELECT CAST({value} AS VARCHAR) FROM ({lacking})").fetchone()
            text = row[0] if row else None
            found[name] = f"CAST({'NULL' if text is None else literal(text)} AS {column_type})"
    return found


def _known(name: str, stated: Mapping[str, str]) -> str:
    default = DEFAULTS.get(name)
    if name not in stated:
        return default or "NULL"
    return f"coalesce({stated[name]}, {default})" if default else stated[name]


def keyed(
    calls: str,
    thresholds: Sequence[int],
    by: Sequence[str],
    same: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """SQL that adds `workload` to canonical calls, and `code`: all keys that are small numbers.

    Few columns to group by are what makes the reading fast, and so is asking first whether a row
    is ordinary as nearly every one is, and naming the groups rather than the rows where one column
    has the names.

    Args:
        calls: SQL of `canonical`.
        thresholds: input tokens above which some price is another, the largest first.
        by: what a workload's name is taken from: the first of these that a row states.
        same: as in `canonical`.
    """
    workload, told_by = by[0], "0"
    if not _one_name(by):
        names = {each: f"left(prompt, {PROMPT_CHARACTERS})" if each == "prompt" else each
                 for each in by}  # fmt: skip
        workload = _cases({f"{each} <> ''": name for each, name in names.items()}, "NULL")
        told_by = _cases({f"{each} <> ''": n for n, each in enumerate(names)})
    length = "coalesce(length, CASE WHEN is_sum THEN input // nullif(n_calls, 0) ELSE input END)"
    over = _cases({f"{length} > {each}": n for n, each in enumerate(thresholds, start=1)})
    wrong = _cases({each: n for n, each in enumerate(PROBLEMS, start=1)})
    per_hour = 8 * (len(thresholds) + 1) * 256
    short = min(thresholds, default=MAX_TOKENS)
    code = f"""CASE WHEN {_ORDINARY} AND coalesce(length, input) <= {short}
        THEN epoch_us(ts) // 3600000000 * {per_hour} + {told_by} * {per_hour // 8} + 64
        ELSE ((CASE WHEN ts BETWEEN {FIRST} AND {LAST}
                THEN datediff('hour', TIMESTAMP '1970-01-01', ts) ELSE 0 END * 8 + {told_by})
                * {len(thresholds) + 1} + {over}) * 256
            + CASE WHEN is_sum THEN 128 ELSE 0 END + CASE WHEN timed THEN 64 ELSE 0 END
            + CASE WHEN failed THEN 32 ELSE 0 END + CASE WHEN input IS NULL THEN 16 ELSE 0 END
            + {wrong} END"""
    # The engine sees a constant only where it is written out.
    code = re.sub(r"\w+", lambda word: same.get(word[0], word[0]), code)
    return f"SELECT *, {workload} AS workload, {code} AS code FROM ({calls})"


def keys(thresholds: Sequence[int], by: Sequence[str]) -> str:
    """SELECT list of `KEYS` from what `keyed` makes."""
    n = len(thresholds) + 1
    workload = "workload"
    told_by = _cases(
        {f"code // {256 * n} % 8 = {k}": literal(each) for k, each in enumerate(by)}, "NULL"
    )
    if _one_name(by):
        workload = _cases({"workload <> ''": "workload", "model <> ''": "model"}, "NULL")
        told_by = _cases({"workload <> ''": literal(by[0])}, literal(by[-1]))
    over = _cases({f"code // 256 % {n} = {k}": each for k, each in enumerate(thresholds, start=1)})
    problems = [literal(each) for each in PROBLEMS.values()]
    wrong = _cases({f"code % 16 = {k}": each for k, each in enumerate(problems, start=1)}, "NULL")
    return f"""CAST(code // {2048 * n} AS INTEGER) AS hour, {workload} AS workload,
        {told_by} AS grouped_by, provider, model, tier_of(tier) AS tier, region,
        {over} AS context_over, code // 128 % 2 = 1 AS is_sum, code // 64 % 2 = 1 AS timed,
        CASE WHEN code % 16 > 0 THEN {wrong}
            WHEN tier_of(tier) IS NULL THEN {literal(UNKNOWN_TIER)} END AS reason"""


def _one_name(by: Sequence[str]) -> bool:
    """Whether one column has the workload's name, and the model where that is empty."""
    return len(by) < 3 and by[0] != "prompt"


def _cases(cases: Mapping[str, object], otherwise: str = "0") -> str:
    whens = " ".join(f"WHEN {condition} THEN {value}" for condition, value in cases.items())
    return f"CASE {whens} ELSE {otherwise} END" if whens else otherwise
