"""Answers that were given elsewhere, brought as a file: nothing is sent."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from pipelines.core.errors import DataError
from pipelines.core.paths import ROOT, shown
from pipelines.core.progress import say
from pipelines.core.records import Example, Outcome, Record, Response, Usage
from pipelines.evaluation.journal import Journal


class RecordedAnswer(Record):
    """One line of the file; what is not known is left out, and stays unknown."""

    id: str
    """Of the item; with `evaluate.n_samples`, `ID#0`, `ID#1` and so on."""
    text: str | None = None
    error: str | None = None
    """Why there is no text."""
    outcome: Outcome | None = None
    """None = `answered` with a text, `failed` without."""
    usage: Usage | None = None
    """Without it the candidate has no cost, and cannot be chosen."""
    model: str | None = None
    finish_reason: str | None = None
    latency_s: float | None = None
    """Without it the candidate has no latency, and cannot be chosen."""
    ttft_s: float | None = None


def file_sha256(path: str) -> str:
    """Digest of the file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return hashlib.sha256((ROOT / path).read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{shown(ROOT / path)}: recorded answers cannot be read: {error}") from None


def load(path: str) -> dict[str, RecordedAnswer]:
    """Item id -> answer.

    Raises:
        DataError: the file is absent or empty, a line is bad, or an id stands twice.
    """
    file = ROOT / path
    problems: list[str] = []
    answers: dict[str, RecordedAnswer] = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{shown(file)}: recorded answers cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            answer = RecordedAnswer.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            problems.append(f"line {number}: {where + ': ' if where else ''}{first['msg']}")
            continue
        if (answer.text is None) == (answer.error is None):
            problems.append(f"line {number}: needs either text or error")
        if answer.id in answers:
            problems.append(f"line {number}: id: {answer.id!r} stands already above")
        answers[answer.id] = answer
    if not answers and not problems:
        problems.append("no answers")
    if problems:
        listed = "\n  ".join(problems[:20])
        raise DataError(f"{shown(file)}: {len(problems)} problem(s)\n  {listed}")
    return answers


def fill(
    journal: Journal, examples: Sequence[Example], digests: Sequence[str], path: str, model: str
) -> None:
    """Put the recorded answers into the journal; an item without one counts as failed.

    Raises:
        DataError: the file is bad, or answers none of the items.
    """
    recorded = load(path)
    wanted = {example.id for example in examples}
    if not wanted & recorded.keys():
        raise DataError(
            f"{shown(Path(ROOT / path))}: answers none of the items; its ids are such as "
            f"{next(iter(recorded))!r}, those of the eval set such as {next(iter(wanted))!r}"
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
            )
        )
