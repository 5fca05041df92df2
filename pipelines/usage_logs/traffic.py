"""Training rows from logged calls: where each comes from, and why a call is none."""

# ruff: noqa: S608 - what comes from outside is quoted by `literal` and `identifier`

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import duckdb

from pipelines.core.errors import DataError
from pipelines.core.records import Message, Outcome, TrainingRow
from pipelines.core.workload import LoggedCalls
from pipelines.providers.http import OUTCOMES
from pipelines.usage_logs import formats
from pipelines.usage_logs.calls import FIRST, LAST, canonical, keyed, keys
from pipelines.usage_logs.engine import MEMORY_GIB, explained, named, opened, telling
from pipelines.usage_logs.formats import Fields, Shape
from pipelines.usage_logs.formats.fields import TEXT, first, literal
from pipelines.usage_logs.prompts import answer_of, turns_of
from pipelines.usage_logs.source import Source, find

FAILED = "the call failed"
UNREADABLE = "no readable record"
SILENT = "the log holds no prompt or no answer"
PROMPT = "the prompt is more than text, or does not end with a user's turn"
ANSWER = "the answer is not one text"
TOOL = "the answer calls a tool"
ENDED: Mapping[Outcome, str] = {
    "truncated": "the answer was cut at the token limit",
    "filtered": "a content filter stopped the answer",
    "refused": "the model refused",
}
"""Outcome -> why the call is no row."""
_WHERE_IT_ENDED = ("finish_reason", "stop_reason", "finishReason", "stopReason")
_INSIDE = ("choices", "candidates", "output", "message", "content", "parts", "response")
_TOOL_CALLS = ("tool_calls", "tool_use", "tool_call", "function_call", "functionCall", "toolUse")
_REPLY: Fields = dict.fromkeys(("stop_reason", "status", "incomplete_details"), TEXT)
_REPLIES = ("response", "response.body", "result.message")
_BATCH = 1_000
"""Calls fetched at a time."""


def _ended(*replies: str) -> str:
    """SQL of why an answer ended, where replies say so beside the answer."""
    incomplete = (
        f"CASE WHEN {each}status = 'incomplete' THEN coalesce(TRY(json_extract_string("
        f"{each}incomplete_details, '$.reason')), 'max_output_tokens') END"
        for each in replies
    )
    return first(*(f"{each}stop_reason" for each in replies), *incomplete)


BESIDE: Mapping[str, tuple[Fields, str]] = {
    "requests": (_REPLY, _ended("")),
    "exchanges": (
        {"response": {**_REPLY, "body": _REPLY}, "result": {"message": _REPLY}},
        _ended(*(f"{each}." for each in _REPLIES)),
    ),
}
"""Format -> further fields, and SQL of why the answer ended; others say it in the answer."""


@dataclass(frozen=True)
class Traffic:
    """What the logs hold to learn from."""

    rows: Sequence[TrainingRow]
    left_out: dict[str, int]
    """Reason -> calls."""
    files: tuple[str, ...]

    @property
    def n_calls(self) -> int:
        """All calls that were asked for, those left out included."""
        return len(self.rows) + sum(self.left_out.values())


def rows(
    paths: Iterable[str | Path],
    calls: LoggedCalls = LoggedCalls(),  # noqa: B008 - immutable
    *,
    source: str | None = None,
    keep: Callable[[Iterable[TrainingRow]], Sequence[TrainingRow]] = list,
) -> Traffic:
    """Calls of logs as conversations that end with the logged answer, in the order of the logs.

    Args:
        paths: as for `read`.
        calls: which of them.
        source: what the rows say they come from; None = the file of each.
        keep: takes the rows as they are found, and holds them.

    Raises:
        DataError: as `read` does; or a file is of a format without prompts and answers, or no call
            can be learned from.
    """
    left_out: Counter[str] = Counter()
    with opened(MEMORY_GIB) as (engine, folder):
        with explained((), MEMORY_GIB):
            found = find(engine, paths, folder)
        if silent := [each for each in found.sources if not _has_content(each)]:
            listed = "\n  ".join(f"{each.name}: {_title(each)}" for each in silent)
            raise DataError(
                f"{len(silent)} file(s) of formats without prompts and answers:\n  {listed}\n"
                "  take logs that hold both, or leave these files out"
            )

        def learned() -> Iterator[TrainingRow]:
            for each in found.sources:
                for call in _calls(engine, each, calls):
                    try:
                        row = _row(call, source or each.name)
                    except RecursionError:
                        row = UNREADABLE
                    if isinstance(row, str):
                        left_out[row] += 1
                    else:
                        yield row

        with explained(found.sources, MEMORY_GIB):
            kept = keep(learned())
    traffic = Traffic(
        kept, dict(left_out.most_common()), tuple(each.name for each in found.sources)
    )
    if not kept:
        where = ", ".join(map(str, paths))
        what = f"no call of workload {calls.workload!r}" if calls.workload else "no call"
        reasons = "".join(f"\n  {n}: {reason}" for reason, n in traffic.left_out.items())
        raise DataError(f"{where}: {what} can be learned from, of {traffic.n_calls}{reasons}")
    return traffic


def _title(source: Source) -> str:
    return formats.load(source.format).TITLE


def _has_content(source: Source) -> bool:
    return {"messages", "answer"} <= formats.load(source.format).SHAPE.call.keys()


def _calls(
    engine: duckdb.DuckDBPyConnection, source: Source, calls: LoggedCalls
) -> Iterator[tuple[Any, ...]]:
    """Columns that `_row` reads, of each call in a file."""
    by = telling(calls.by)
    sql = keyed(canonical(engine, [source], _telling_why(source)), (), by)
    only = ""
    if calls.workload is not None:
        only = f"WHERE {literal(calls.workload)} IN ({named()}, {named(True)})"
    found = engine.execute(
        f"SELECT ts, model, request_id, failed, prompt, messages, answer FROM (SELECT "
        f"CASE WHEN ts BETWEEN {FIRST} AND {LAST} THEN ts END AS ts, request_id, failed, prompt, "
        f"messages, answer, {keys((), by)} FROM ({sql})) {only}"
    )
    while batch := found.fetchmany(_BATCH):
        yield from batch


def _telling_why(source: Source) -> Shape:
    """The format's shape, with `answer` an object of the answer and of why it ended."""
    format = formats.load(source.format)
    shape: Shape = getattr(format, "CONTENT", format.SHAPE)
    more, ended = BESIDE.get(source.format, ({}, "NULL"))
    answer = f"to_json({{'ended': {ended}, 'answer': {shape.call['answer']}}})"
    return replace(shape, fields=_merged(shape.fields, more), call={**shape.call, "answer": answer})


def _merged(fields: Fields, more: Fields) -> dict[str, Any]:
    merged = dict(fields)
    for key, each in more.items():
        there = merged.get(key)
        if isinstance(there, Mapping) and isinstance(each, Mapping):
            each = _merged(there, each)
        merged[key] = each
    return merged


def _row(call: tuple[Any, ...], source: str) -> TrainingRow | str:
    """The call as a row, or why it is none."""
    ts, model, request_id, failed, prompt, messages, told = call
    said: dict[str, str | None] = json.loads(told)
    answer = said["answer"]
    if failed:
        return FAILED
    if all(each is None for each in (model, ts, request_id, messages, answer)):
        return UNREADABLE
    if not messages or not answer:
        return SILENT
    for reason in (said["ended"], *_reasons(_decoded(answer))):
        if reason in _TOOL_CALLS:
            return TOOL
        if why := ENDED.get(OUTCOMES.get(reason or "", "answered")):
            return why
    turns, text = turns_of(prompt, messages), answer_of(answer)
    if not turns or turns[-1].role != "user":
        return PROMPT
    if not text:
        return ANSWER
    assert isinstance(ts, datetime | None)
    return TrainingRow(
        messages=(*turns, Message(role="assistant", content=text)),
        answered_by=model or None,
        answered_at=None if ts is None else ts.replace(tzinfo=UTC),
        source=source,
        request_id=request_id,
    )


def _reasons(value: Any) -> Iterator[str]:
    """Why an API's answer ended, wherever it says so."""
    if isinstance(value, list):
        for each in cast(list[Any], value):
            yield from _reasons(each)
    elif isinstance(value, dict):
        said = cast(dict[str, Any], value)
        yield from (each for key in _WHERE_IT_ENDED if isinstance(each := said.get(key), str))
        yield from (key for key in _TOOL_CALLS if said.get(key))
        kind = said.get("type")
        if kind == "refusal" or said.get("refusal"):
            yield "refusal"
        if kind in _TOOL_CALLS:
            yield str(kind)
        if said.get("status") == "incomplete":
            yield "max_output_tokens"
        for key in _INSIDE:
            if key in said:
                yield from _reasons(said[key])


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
