"""Prompts and answers of one workload, for the examples of a study."""

# ruff: noqa: S608 - what comes from outside is quoted by `literal` and `identifier`

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.core.records import Message
from pipelines.core.usage_log import GroupedBy
from pipelines.usage_logs import formats
from pipelines.usage_logs.calls import canonical, keyed, keys
from pipelines.usage_logs.engine import MEMORY_GIB, explained, named, opened, telling
from pipelines.usage_logs.formats.fields import at, literal
from pipelines.usage_logs.source import find

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant",
         "model": "assistant"}  # fmt: skip
ANSWERS = ("choices", "output", "content", "candidates", "message", "parts", "text")
"""Keys under which an answer's text stands, from the outside in."""


def prompts(
    paths: Iterable[str | Path], workload: str, n: int, *, group_by: GroupedBy | None = None
) -> Iterator[tuple[tuple[Message, ...], str]]:
    """Up to `n` calls of a workload whose prompts and answers the log holds, drawn by digest.

    Args:
        paths: as for `read`.
        workload: its name, as `read` gives it with or without `show_prompts`.
        n: how many; the same ones every time.
        group_by: as for `read`.

    Yields:
        The turns that were sent, and the text that came back. Calls with tools, images or several
        answers to choose from are passed over, and so is what has no user's turn.

    Raises:
        DataError: as `read` does.
    """
    n_found = 0
    with opened(MEMORY_GIB) as (engine, folder):
        found = find(engine, paths, folder)
        for source in found.sources:
            shape = formats.load(source.format).SHAPE
            if "messages" not in shape.call:
                continue
            by = telling(group_by)
            with explained(found.sources, MEMORY_GIB):
                calls = keyed(canonical(engine, [source], shape), (), by)
                drawn = engine.execute(
                    f"SELECT prompt, messages, answer FROM (SELECT prompt, messages, answer, "
                    f"{keys((), by)} FROM ({calls})) "
                    f"WHERE {literal(workload)} IN ({named()}, {named(True)}) "
                    "AND reason IS NULL AND messages IS NOT NULL AND answer IS NOT NULL "
                    f"ORDER BY md5(messages), answer LIMIT {4 * n}"
                ).fetchall()
            for system, messages, answer in drawn:
                turns, text = turns_of(system, messages), answer_of(answer)
                if turns and text and n_found < n:
                    n_found += 1
                    yield turns, text


def turns_of(system: str | None, messages: str) -> tuple[Message, ...]:
    """The turns; none of them if one cannot be shown as text."""
    decoded = _decoded(messages)
    if isinstance(decoded, Mapping):
        only = next(iter(decoded.values())) if len(decoded) == 1 else None
        decoded = decoded.get("messages", only)
    if isinstance(decoded, str):
        decoded = [{"role": "user", "content": decoded}]
    if not isinstance(decoded, list) or not all(isinstance(each, Mapping) for each in decoded):
        return ()
    turns: list[Message] = []
    for each in decoded:
        role = ROLES.get(each.get("role", "user"))
        text = _text(_parts(each.get("content", each.get("parts"))))
        if role is None or not text:
            return ()
        turns.append(Message.model_validate({"role": role, "content": text}))
    if not any(turn.role == "user" for turn in turns):
        return ()
    text = _text(_parts(system)) if system else None
    if text and turns[0].role != "system":
        turns.insert(0, Message(role="system", content=text))
    return tuple(turns)


def answer_of(answer: str) -> str | None:
    """The one text in what an API answered; None where there is none, or more than text.

    An answer that is JSON itself, such as a label in an object, is that text.
    """
    value = _decoded(answer)
    if isinstance(value, Mapping) and not value.keys() & {*ANSWERS, "role", "tool_calls"}:
        return answer.strip()
    return _text(value if isinstance(value, str | Mapping) else _parts(answer))


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, list):
        spoken = [
            each
            for each in value
            if at(each, "type") not in ("reasoning", "thinking") and not at(each, "thought")
        ]
        texts = [_text(each) for each in spoken]
        return None if len(texts) != 1 else texts[0]
    if isinstance(value, Mapping) and value.get("type", "text") in (
        "text", "message", "output_text",
    ):  # fmt: skip
        return next((_text(value[key]) for key in ANSWERS if value.get(key)), None)
    return None


def _parts(value: Any) -> Any:
    """What a text holds if it is a JSON list of parts; any other value as it is."""
    decoded = _decoded(value) if isinstance(value, str) else value
    is_parts = isinstance(decoded, list) and all(isinstance(each, Mapping) for each in decoded)
    return decoded if is_parts else value


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
