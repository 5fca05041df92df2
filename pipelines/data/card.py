"""The data set card of a prepare run: measured figures, and "not stated" where nobody said."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from pipelines.core.paths import shown
from pipelines.core.records import Example, Message, Record, TrainingRow
from pipelines.data.licences import Survey

NOT_STATED = "not stated"
MAX_LISTED = 20
"""Models and files listed; the rest are counted."""
MAX_CELL = 200
"""Characters of a cell: names come out of logs and files."""
LIMITS = (
    "Licences are what the rows, the study and the names of the answering models say; nobody has "
    "checked that the rows were rightly given them, and a model behind a deployment's name is not "
    "recognised.",
    "Terms are summed up in configs/licences/ as of the dates given there: no legal advice.",
    "Whether an answer is right was not measured here, and a refusal in words is an answer.",
    "Copies are found by the questions' characters; the same question in other words is not.",
)


class SourceFile(Record):
    """Where rows were read."""

    name: str
    digest: str | None
    """SHA-256 of the bytes; of a folder, of its files' names and digests. None = not known."""
    n_bytes: int | None


class Step(Record):
    """What one step did to the training rows."""

    name: str
    n_before: int
    n_after: int
    left_out: dict[str, int] = {}
    """Reason -> rows that did not go on."""


class Lengths(Record):
    """Characters of the rows of a split: smallest, middle, 95th percentile, largest."""

    question: tuple[int, int, int, int]
    """All turns before the answer, system prompt included."""
    answer: tuple[int, int, int, int]
    turns: tuple[int, int, int, int]
    """Messages of a row."""


class SplitCard(Record):
    """One split."""

    name: str
    file: str
    n_rows: int
    digest: str
    """SHA-256 of the rows, as the result of the run has it."""
    lengths: Lengths
    first_at: datetime | None = None
    """When the oldest answer was given."""
    last_at: datetime | None = None
    n_undated: int | None = None
    """Rows without a time; None = items of an eval set, which have none."""


class PersonalDataFound(Record):
    """What a search for personal data found in the rows; never the values."""

    n_rows: int
    n_values: dict[str, int]
    """Kind -> values."""
    masked: bool
    names_sought: bool


class Card(Record):
    """What the rows of a prepare run are."""

    title: str
    workload: str
    run_id: str
    sources: tuple[SourceFile, ...]
    eval_sources: tuple[SourceFile, ...]
    steps: tuple[Step, ...]
    splits: tuple[SplitCard, ...]
    licences: Survey
    answered_by: dict[str, int]
    """Model -> training rows, before anything was removed."""
    n_answered_by_unknown: int
    personal_data: PersonalDataFound | None
    """None = nobody looked."""
    split_rule: str
    near_copy: float
    limits: tuple[str, ...] = LIMITS


def files(paths: Iterable[Path]) -> tuple[SourceFile, ...]:
    """Name, digest and size of files; a folder is one entry."""
    return tuple(_file(path) for path in paths)


def split_card(name: str, file: str, rows: Sequence[TrainingRow], sha256: str) -> SplitCard:
    """Measure a split of training rows."""
    sizes = array("q")
    first = last = None
    n_undated = 0
    for row in rows:
        sizes.extend(_sizes(row.messages[:-1], row.messages[-1].content))
        if (at := row.answered_at) is None:
            n_undated += 1
        else:
            first = at if first is None or at < first else first
            last = at if last is None or at > last else last
    return SplitCard(
        name=name,
        file=file,
        n_rows=len(rows),
        digest=sha256,
        lengths=_lengths(sizes),
        first_at=first,
        last_at=last,
        n_undated=n_undated,
    )


def eval_card(file: str, items: Sequence[Example], sha256: str) -> SplitCard:
    """Measure an eval set."""
    sizes = array("q")
    for item in items:
        sizes.extend(_sizes(item.messages, item.target))
    lengths = _lengths(sizes)
    return SplitCard(name="eval", file=file, n_rows=len(items), digest=sha256, lengths=lengths)


def answered_by(rows: Iterable[TrainingRow]) -> tuple[dict[str, int], int]:
    """Model -> rows, the most frequent first, and the rows that name none."""
    counts = Counter(row.answered_by for row in rows)
    unknown = counts.pop(None, 0)
    named = sorted(
        ((str(model), n) for model, n in counts.items()), key=lambda each: (-each[1], each[0])
    )
    return dict(named), unknown


def markdown(card: Card) -> str:
    """The card as a README of a data set."""
    lines = _front_matter(card)
    lines += [
        f"# {_cell(card.title)}",
        "",
        f"Rows prepared for the workload `{card.workload}` in run `{card.run_id}`. "
        "All figures are counted by the program that made the splits.",
        "",
        "## Splits",
        "",
        *_table(
            ("split", "file", "rows", "SHA-256", "answered", "undated rows"),
            [
                (each.name, each.file, each.n_rows, each.digest, _period(each), _undated(each))
                for each in card.splits
            ],
        ),
        "",
        f"{_cell(card.split_rule)}",
        "",
        "## Lengths",
        "",
        "Characters: smallest, median, 95th percentile, largest.",
        "",
        *_table(
            ("split", "question", "answer", "messages of a row"),
            [
                (each.name, *map(_spread, (lengths.question, lengths.answer, lengths.turns)))
                for each in card.splits
                for lengths in (each.lengths,)
            ],
        ),
        "",
        "## Sources",
        "",
        *_table(
            ("of", "source", "bytes", "SHA-256"),
            [*_sources("training", card.sources), *_sources("eval", card.eval_sources)],
        ),
        "",
        "## What was left out",
        "",
        *_table(
            ("step", "rows before", "rows after", "left out"),
            [(each.name, each.n_before, each.n_after, _reasons(each)) for each in card.steps],
        ),
        "",
        f"A copy shares at least {card.near_copy:g} of its character pieces (Jaccard).",
        "",
        "## Licences and terms",
        "",
        *_licences(card.licences),
        "",
        "## Who answered",
        "",
        *_models(card),
        "",
        "## Personal data",
        "",
        _personal(card.personal_data),
        "",
        "## Known limits",
        "",
        *(f"- {_cell(each)}" for each in card.limits),
    ]
    return "\n".join(lines) + "\n"


def _front_matter(card: Card) -> list[str]:
    """What hubs read of a README; `other` unless all rows stand under one licence."""
    survey = card.licences
    rows_under = [each.name for each in survey.standings if each.n_rows]
    alone = len(rows_under) == 1 and survey.n_without == 0 and survey.standings[0].licence
    licence = rows_under[0] if alone and re.fullmatch(r"[a-z0-9.-]+", rows_under[0]) else "other"
    lines = ["---", f"license: {licence}", "configs:", "- config_name: default", "  data_files:"]
    for each in card.splits:
        lines += [f"  - split: {each.name}", f"    path: {each.file}"]
    return [*lines, "---", ""]


def _licences(survey: Survey) -> list[str]:
    rows = [
        (
            each.name,
            each.n_rows,
            each.licence.training if each.licence else "unknown: nobody has looked at it",
            f"{each.licence.clause}: {each.licence.summary}" if each.licence else NOT_STATED,
            f"{each.licence.source}, checked {each.licence.checked_on}"
            if each.licence
            else NOT_STATED,
            f"{each.acknowledged_by}: {each.acknowledged_why}" if each.acknowledged_by else "-",
        )
        for each in survey.standings
        if each.n_rows
    ]
    without = f"Licence {NOT_STATED}: {survey.n_without} of {survey.n_rows} rows read."
    if not rows:
        return [without]
    names = ("licence", "rows read", "training", "what it says", "source", "answered for by")
    return [*_table(names, rows), "", without]


def _models(card: Card) -> list[str]:
    listed = list(card.answered_by.items())
    rows = [(model, n) for model, n in listed[:MAX_LISTED]]
    if len(listed) > MAX_LISTED:
        more = listed[MAX_LISTED:]
        rows.append((f"{len(more)} more", sum(n for _, n in more)))
    if card.n_answered_by_unknown:
        rows.append((NOT_STATED, card.n_answered_by_unknown))
    return _table(("model", "rows read"), rows)


def _personal(found: PersonalDataFound | None) -> str:
    if found is None:
        return f"Not searched for; what is in the rows is {NOT_STATED}."
    kinds = ", ".join(f"{_cell(kind)} {n}" for kind, n in found.n_values.items()) or "none"
    done = "replaced by placeholders" if found.masked else "left as they are"
    names = "" if found.names_sought else " Names and places were not looked for."
    return f"Rows with findings: {found.n_rows}. Values, {done}: {kinds}.{names}"


def _sources(of: str, sources: Sequence[SourceFile]) -> list[tuple[object, ...]]:
    listed: list[tuple[object, ...]] = [
        (of, each.name, _or_not(each.n_bytes), _or_not(each.digest))
        for each in sources[:MAX_LISTED]
    ]
    if len(sources) > MAX_LISTED:
        listed.append((of, f"{len(sources) - MAX_LISTED} more, see card.json", "", ""))
    return listed


def _reasons(step: Step) -> str:
    return "; ".join(f"{n} {reason}" for reason, n in step.left_out.items() if n) or "-"


def _period(split: SplitCard) -> str:
    if split.first_at is None or split.last_at is None:
        return NOT_STATED
    return f"{split.first_at:%Y-%m-%d} to {split.last_at:%Y-%m-%d}"


def _undated(split: SplitCard) -> str:
    return "-" if split.n_undated is None else str(split.n_undated)


def _spread(values: tuple[int, int, int, int]) -> str:
    return ", ".join(f"{each:,}" for each in values)


def _or_not(value: object) -> str:
    return NOT_STATED if value is None else str(value)


def _table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    def line(cells: Iterable[object]) -> str:
        return f"| {' | '.join(_cell(str(each)) for each in cells)} |"

    return [line(names), line("---" for _ in names), *map(line, rows)]


def _cell(text: str) -> str:
    """One line of text that is no markup, whatever it holds."""
    flat = " ".join(text.split())
    cut = flat if len(flat) <= MAX_CELL else flat[:MAX_CELL] + "..."
    cut = cut.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\|\[\]!])", r"\\\1", cut)


def _sizes(asked: Sequence[Message], answer: str) -> tuple[int, int, int]:
    """Characters of the question and of the answer, and turns."""
    return sum(len(turn.content) for turn in asked), len(answer), len(asked) + 1


def _lengths(sizes: array[int]) -> Lengths:
    """Of the `_sizes` of all rows, one after another."""
    question, answer, turns = map(_quantiles, np.array(sizes).reshape(-1, 3).T)
    return Lengths(question=question, answer=answer, turns=turns)


def _quantiles(values: np.ndarray) -> tuple[int, int, int, int]:
    low, middle, high, top = np.quantile(values, (0, 0.5, 0.95, 1), method="higher")
    return int(low), int(middle), int(high), int(top)


def _file(path: Path) -> SourceFile:
    if path.is_dir():
        digest, size = hashlib.sha256(), 0
        for each in sorted(path.rglob("*")):
            if each.is_file():
                sha256, n_bytes = _digest(each)
                digest.update(f"{each.relative_to(path)} {sha256}\n".encode())
                size += n_bytes
        return SourceFile(name=f"{shown(path)}/", digest=digest.hexdigest(), n_bytes=size)
    sha256, n_bytes = _digest(path)
    return SourceFile(name=shown(path), digest=sha256, n_bytes=n_bytes)


def _digest(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size
