"""Answers that were given elsewhere, brought as a file: nothing is sent."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipelines.core import json_lines
from pipelines.core.errors import DataError
from pipelines.core.paths import ROOT, shown
from pipelines.core.progress import say
from pipelines.core.records import Example, Response
from pipelines.evaluation import imports
from pipelines.evaluation.imports import RecordedAnswer
from pipelines.evaluation.journal import Journal


class Recording(NamedTuple):
    """What was read of a file."""

    title: str
    """Of its format."""
    answers: dict[str, RecordedAnswer]
    """By item id."""
    other_ids: dict[str, str]
    """Other id of an item -> the one in `answers`; those that two items share are left out."""
    n_scores_left_out: int


def split(path: str) -> tuple[Path, str]:
    """File and variant of `FILE#VARIANT`; a file whose own name has a `#` is found, too."""
    parts = path.split("#")
    for n in range(len(parts), 0, -1):
        if (file := ROOT / "#".join(parts[:n])).is_file():
            return file, "#".join(parts[n:])
    return ROOT / parts[0], "#".join(parts[1:])


def file_sha256(path: str) -> str:
    """Digest of the file and of which answers in it are meant.

    Raises:
        DataError: it cannot be read.
    """
    file, variant = split(path)
    try:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256")
    except OSError as error:
        raise DataError(f"{shown(file)}: recorded answers cannot be read: {error}") from None
    if variant:
        digest.update(b"#" + variant.encode())
    return digest.hexdigest()


def load(path: str) -> Recording:
    """Answers of a file in any of the formats of pipelines/evaluation/imports/.

    Args:
        path: `FILE`, or `FILE#VARIANT` where the file holds answers of several models.

    Raises:
        DataError: the file is absent, empty or of no known format, something in it is broken, an
            id stands twice, or several variants answer the same item and none is chosen.
    """
    file, wanted = split(path)
    format = imports.detect(file)
    variants: dict[str, None] = {}
    first: dict[str, imports.Row] = {}
    others: dict[str, list[str]] = {}
    problems: list[str] = []
    clash = ""
    n_left_out = 0
    for row in format.read(file):
        variants[row.variant] = None
        if wanted and row.variant != wanted:
            continue
        id = row.answer.id
        n_left_out += row.n_left_out
        if (earlier := first.setdefault(id, row)) is not row:
            if earlier.variant != row.variant:
                clash = clash or id
            else:
                problems.append(f"{row.place}: id: {id!r} stands already at {earlier.place}")
        elif row.other_id is not None:
            others.setdefault(row.other_id, []).append(id)
    listed = ", ".join(repr(each) for each in list(variants)[: json_lines.MAX_SHOWN])
    if clash:
        raise DataError(
            f"{shown(file)}: several answers to {clash!r}, from {listed}; choose one of them, as "
            f"in `recorded: {f'{path}#{next(iter(variants))}'!r}`"
        )
    if wanted and not first:
        raise DataError(f"{shown(file)}: no answers of {wanted!r}; it has those of {listed}")
    json_lines.refuse(shown(file), problems if first else ["no answers"])
    return Recording(
        format.TITLE,
        {id: row.answer for id, row in first.items()},
        {other: ids[0] for other, ids in others.items() if len(ids) == 1},
        n_left_out,
    )


def fill(
    journal: Journal, examples: Sequence[Example], digests: Sequence[str], path: str, model: str
) -> None:
    """Put the recorded answers into the journal; an item without one counts as failed.

    Raises:
        DataError: the file is bad, or answers none of the items.
    """
    recording = load(path)
    recorded = recording.answers
    say(f"evaluate: {path}: {recording.title}, {len(recorded)} answers")
    if recording.n_scores_left_out:
        say(f"evaluate: {recording.n_scores_left_out} scores are not in [0, 1] and were left out")
    wanted = {example.id for example in examples}
    if not wanted & recorded.keys():
        recorded = {other: recorded[id] for other, id in recording.other_ids.items()}
    if not wanted & recorded.keys():
        raise DataError(
            f"{path}: answers none of the items; its ids are such as "
            f"{next(iter(recording.answers))!r}, those of the eval set such as "
            f"{examples[0].id!r}"
        )
    if foreign := len(recorded.keys() - wanted):
        say(f"evaluate: {foreign} recorded answers are to items that are not in the eval set")
    for example, digest in zip(examples, digests, strict=True):
        if digest in journal:
            continue
        answer = recorded.get(example.id)
        if answer is None:
            answer = RecordedAnswer(id=example.id, error="no recorded answer")
        journal.add(
            Response(
                example_id=example.id,
                request_sha256=digest,
                text=answer.text,
                error=answer.error,
                outcome=answer.outcome or ("failed" if answer.text is None else "answered"),
                usage=answer.usage,
                model=answer.model or model,
                finish_reason=answer.finish_reason,
                started_at_s=0.0,
                ttft_s=answer.ttft_s,
                latency_s=answer.latency_s,
                mean_logprob=answer.mean_logprob,
                recorded_scores=answer.scores,
            )
        )
