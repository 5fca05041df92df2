"""Human labels on answers: what judges are measured against."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import Field

from pipelines.core import json_lines
from pipelines.core.errors import DataError
from pipelines.core.paths import ROOT, shown
from pipelines.core.records import Example, Record

CONSTRUCTION = "construction"
"""`labelled_by` of answers that were made right or wrong on purpose: no human looked at them."""


class Label(Record):
    """What is known of one answer."""

    id: str
    """Of the item that it answers."""
    metric: str
    answer: str
    label: float = Field(ge=0, le=1)
    labelled_by: str
    """Who: a person's name or role, or `construction`."""
    candidate: str | None = None
    """Who gave the answer, where that is known."""
    how: str = ""
    """Of a constructed answer: what was done to it."""


def load(path: str, items: Mapping[str, Example], metrics: Iterable[str]) -> list[Label]:
    """Labels of a workload.

    Args:
        path: JSON Lines.
        items: the eval set, by id.
        metrics: the judged ones.

    Raises:
        DataError: the file is absent or bad, or labels an unknown item or metric.
    """
    file = ROOT / path
    rows = json_lines.read(file, Label)
    known, problems = set(metrics), list[str]()
    for place, label in rows:
        if label.id not in items:
            problems.append(f"{place}: {label.id!r} is no item of the eval set")
        if label.metric not in known:
            judged = ", ".join(sorted(known)) or "none is"
            problems.append(f"{place}: {label.metric!r} is no judged metric ({judged})")
    json_lines.refuse(shown(file), problems)
    return [label for _, label in rows]


def sha256(path: str) -> str:
    """Digest of the file."""
    try:
        return hashlib.sha256((ROOT / path).read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{shown(Path(ROOT / path))}: labels cannot be read: {error}") from None


def of_answers(
    labels: Sequence[Label], metric: str, answers: Mapping[str, str]
) -> dict[str, float]:
    """Example id -> mean label, for answers that are labelled word for word.

    Args:
        labels: of the workload; constructed ones are left out.
        metric: the judged one.
        answers: example id -> a candidate's answer; an id may have a sample's suffix (`ID#0`).
    """
    found: dict[tuple[str, str], list[float]] = {}
    for label in labels:
        if label.metric == metric and label.labelled_by != CONSTRUCTION:
            found.setdefault((label.id, label.answer.strip()), []).append(label.label)
    return {
        name: sum(values) / len(values)
        for name, answer in answers.items()
        if (values := found.get((name.partition("#")[0], answer.strip())))
    }
