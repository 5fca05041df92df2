"""What the candidates answered, item by item: the worst ones, and how good they are by slice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from pipelines.core.decision import Decision
from pipelines.core.records import Estimate, Example, Record, Response
from pipelines.core.study import Study
from pipelines.reports.names import plain, short
from pipelines.statistics.intervals import estimate

N_WORST = 6
LONGEST = 700
"""Characters of a question or an answer; the artifacts hold all of it."""


class Answer(Record):
    """What one candidate answered."""

    text: str | None
    """None = it gave none: see `error`."""
    error: str = ""
    score: float | None
    """None = not scored."""


class Compared(Record):
    """One item with the answers of all candidates, harmless to show."""

    id: str
    question: str
    target: str
    answers: dict[str, Answer]


class Slice(Record):
    """A part of the items."""

    name: str
    n: int
    quality: dict[str, Estimate | None]
    """Candidate -> its mean there."""
    worse: tuple[str, ...]
    """Candidates that are shown to be worse there than the guard allows."""


class Answers(Record):
    """What the report shows of single items."""

    subject: str
    """Whose worst answers they are."""
    worst: tuple[Compared, ...]
    slices: tuple[Slice, ...]


def gather(
    study: Study,
    decision: Decision,
    items: Sequence[Example],
    responses: Mapping[str, Mapping[str, Response]],
    values: Mapping[str, Mapping[str, float | None]],
) -> Answers:
    """The worst answers of who matters most, and every slice.

    Who matters most: the chosen candidate; where it is the incumbent or nobody, the first open
    question, else the candidate with the best quality. The worst answers are those that lose most
    against the incumbent's; then those with the lowest score.

    Args:
        study: gives the slices' keys.
        decision: says who was chosen.
        items: of the eval set, in its order.
        responses: candidate -> item -> what it answered.
        values: candidate -> item -> its score in the quality metric.
    """
    subject = _subject(decision)
    ours, theirs = values[subject], values[decision.incumbent]
    lost = {
        item.id: (score - (theirs.get(item.id) or 0.0), score)
        for item in items
        if (score := ours.get(item.id)) is not None and score < 1
    }
    known = {item.id: item for item in items}
    worst = sorted(lost, key=lambda id: lost[id])[:N_WORST]
    return Answers(
        subject=subject,
        worst=tuple(_compared(known[id], responses, values) for id in worst),
        slices=_slices(study, decision, items, values),
    )


def cut(text: str) -> str:
    """Text of a model on its own lines: nothing that a terminal or a reader's eye obeys."""
    lines = "\n".join(plain(line) for line in text[: LONGEST + 1].splitlines())
    return lines if len(text) <= LONGEST else f"{lines[:LONGEST]}\N{HORIZONTAL ELLIPSIS}"


def _subject(decision: Decision) -> str:
    if decision.chosen not in (None, decision.incumbent):
        return decision.chosen
    if decision.open_questions:
        return decision.open_questions[0]
    others = {
        name: row.quality.mean
        for name, row in decision.candidates.items()
        if name != decision.incumbent and row.quality and not row.control_of
    }
    return max(others, key=lambda name: others[name]) if others else decision.incumbent


def _compared(
    item: Example,
    responses: Mapping[str, Mapping[str, Response]],
    values: Mapping[str, Mapping[str, float | None]],
) -> Compared:
    answers: dict[str, Answer] = {}
    for name, rows in responses.items():
        row = rows.get(item.id)
        answers[name] = Answer(
            text=None if row is None or row.text is None else cut(row.text),
            error="not asked" if row is None else cut(row.error or ""),
            score=values[name].get(item.id),
        )
    asked = [message.content for message in item.messages if message.role != "system"]
    return Compared(
        id=short(item.id, 80),
        question=cut("\n".join(asked)),
        target=cut(item.target),
        answers=answers,
    )


def _slices(
    study: Study,
    decision: Decision,
    items: Sequence[Example],
    values: Mapping[str, Mapping[str, float | None]],
) -> tuple[Slice, ...]:
    groups = {item.id: item.group for item in items if item.group is not None}
    parts: dict[str, list[str]] = {}
    for key in study.workload.slice_by:
        for item in items:
            if (value := item.metadata.get(key)) is not None:
                text = value if isinstance(value, str) else json.dumps(value)
                parts.setdefault(f"{key}={text}", []).append(item.id)
    return tuple(
        Slice(
            name=short(part, 80),
            n=len(ids),
            quality={
                name: estimate({id: scores.get(id) for id in ids}, groups)
                for name, scores in values.items()
            },
            worse=tuple(n for n, row in decision.candidates.items() if part in row.slices),
        )
        for part, ids in sorted(parts.items())
    )
