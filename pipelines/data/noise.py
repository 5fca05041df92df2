"""Find training rows whose answer is probably wrong: votes, form, refusals, unlikely labels."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipelines import metrics
from pipelines.core.errors import ScoringError, Unparseable
from pipelines.core.records import Example, TrainingRow
from pipelines.core.row_file import spooled, taken
from pipelines.core.workload import MetricSpec
from pipelines.data.near_copies import leaders
from pipelines.data.splits import normalise

CLEAR = 2 / 3
"""Share of the votes from which a majority is clear enough to be written into other rows."""
MIN_NEAR_VOTES = 3
"""Votes that a majority among near-copies needs; they may differ for a reason."""
MIN_ROWS = 5
"""Rows that an answer needs to count as a label."""
PENALTY = 2.0
"""Of the ridge regression: strong, so that a few wrong labels do not sway their neighbours."""
LEVEL = 10.0
"""Prior variance of a label's level: each may be as frequent as it is."""
SHARPNESS = 2.0
"""What a standard deviation of a score counts for, in nats."""
ROUNDS = 4
BLOCK = 4_000
"""Rows of which each is predicted from all others; the work grows with its square."""
REFUSAL = re.compile(
    r"\W*(?:(?:i'?m|i am) (?:\w+ )?sorry\W+(?:but )?|unfortunately\W+|sorry\W+(?:but )?)?"
    r"(?:as an? (?:ai|artificial|large language|language model)\b"
    r"|i(?: can(?:no|')t| can not| won't| will not|(?: am|'m) (?:not able|unable) to)"
    r" (?:\w+ ){0,2}?(?:help|assist|comply|fulfil|provide|answer|generate|respond|discuss)\b)",
    re.IGNORECASE,
)
"""How models begin when they decline; `we cannot refund` is an answer, and no refusal."""

Reason = Literal["form", "refusal", "outvoted", "tie", "label"]
"""Why an answer is probably wrong.

form: a JSON metric of the workload cannot read it · refusal: it declines, though no eval item
wants that · outvoted: most answers to the same request are others · tie: as many say one thing as
another · label: rows like it have another one.
"""


@dataclass(frozen=True)
class Finding:
    """One row that is better not learned as it is."""

    row: int
    """Its place among the rows."""
    reason: Reason
    answer: str | None = None
    """What is probably right, where that is clear."""


def find(
    rows: Sequence[TrainingRow],
    items: Sequence[Example],
    specs: Mapping[str, MetricSpec],
    near_copy: float,
) -> list[Finding]:
    """At most one finding a row, in the order of the rows.

    Args:
        rows: as read, repetitions included: they are the votes.
        items: the eval set; where its targets decline, declining is right.
        specs: the workload's metrics.
        near_copy: Jaccard similarity from which two requests are near-copies.
    """
    answers = _answers(rows)
    found: dict[int, Finding] = {}
    for step in (
        _unreadable(rows, specs),
        _refusals(answers, items),
        _outvoted(rows, answers, near_copy, found),
        _unlikely(rows, answers, found),
    ):
        for each in step:
            found.setdefault(each.row, each)
    return [found[place] for place in sorted(found)]


def clean(
    rows: Sequence[TrainingRow], findings: Sequence[Finding], *, relabel: bool
) -> tuple[Sequence[TrainingRow], dict[str, int]]:
    """The rows without those found, and what was done, such as `label: relabel` -> rows.

    Args:
        rows: those that were looked at.
        findings: about them.
        relabel: whether a clear answer is written in place of the wrong one.
    """
    answers: dict[int, str] = {}
    kept = np.ones(len(rows), bool)
    done: Counter[str] = Counter()
    for each in findings:
        if relabel and each.answer is not None:
            answers[each.row] = each.answer
            done[f"{each.reason}: relabel"] += 1
        else:
            kept[each.row] = False
            done[f"{each.reason}: drop"] += 1
    places = np.flatnonzero(kept)
    left = taken(rows, places)
    if answers:
        left = spooled(
            _relabelled(row, answers.get(place)) for place, row in zip(places, left, strict=True)
        )
    return left, dict(sorted(done.items()))


def _relabelled(row: TrainingRow, answer: str | None) -> TrainingRow:
    """The row with another answer; None = its own."""
    if answer is None:
        return row
    last = row.messages[-1].model_copy(update={"content": answer})
    return row.model_copy(update={"messages": (*row.messages[:-1], last)})


def _answers(rows: Sequence[TrainingRow]) -> list[str]:
    """What each row answers; equal ones are one text in memory."""
    texts: dict[str, str] = {}
    stripped = (row.messages[-1].content.strip() for row in rows)
    return [texts.setdefault(each, each) for each in stripped]


def _unreadable(rows: Sequence[TrainingRow], specs: Mapping[str, MetricSpec]) -> Iterator[Finding]:
    forms = [
        (metrics.load(spec.metric), spec.params)
        for spec in specs.values()
        if spec.metric.startswith("json_") and not spec.judges
    ]
    for place, row in enumerate(rows if forms else ()):
        answer = row.messages[-1].content
        example = Example(id=f"row {place}", messages=row.messages[:-1], target=answer)
        for score, params in forms:
            try:
                score(example, answer, **params)
            except Unparseable:
                yield Finding(place, "form")
            except ScoringError as error:
                if example.id in str(error):  # else it is about the parameters
                    yield Finding(place, "form")


def _refusals(answers: Sequence[str], items: Sequence[Example]) -> Iterator[Finding]:
    if not any(_declines(item.target) for item in items):
        for place, answer in enumerate(answers):
            if _declines(answer):
                yield Finding(place, "refusal")


def _declines(answer: str) -> bool:
    return REFUSAL.match(answer.replace("\u2019", "'")) is not None


def _outvoted(
    rows: Sequence[TrainingRow],
    answers: Sequence[str],
    near_copy: float,
    found: Mapping[int, Finding],
) -> Iterator[Finding]:
    """Votes of the same request, and of near-copies where the answers are labels."""
    same: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        if place not in found:
            same[normalise(row.messages[:-1])].append(place)
    for places in same.values():
        (top, votes), *others = Counter(answers[place] for place in places).most_common()
        if not others:
            continue
        if 2 * votes <= len(places):
            yield from (Finding(place, "tie") for place in places)
        else:
            clear = top if votes >= CLEAR * len(places) else None
            for place in places:
                if answers[place] != top:
                    yield Finding(place, "outvoted", clear)
    if not _labels(answers, found):
        return
    near: dict[int, list[int]] = defaultdict(list)
    for places, leader in zip(same.values(), leaders([*same], near_copy), strict=True):
        near[int(leader)] += places
    for places in near.values():
        (top, votes), *others = Counter(answers[place] for place in places).most_common()
        if others and votes >= max(MIN_NEAR_VOTES, CLEAR * len(places)):
            for place in places:
                if answers[place] != top:
                    yield Finding(place, "outvoted", top)


def _labels(answers: Sequence[str], found: Mapping[int, Finding]) -> list[str]:
    """The answers that repeat, if most rows have one of two or more such answers."""
    counts = Counter(answer for place, answer in enumerate(answers) if place not in found)
    labels = sorted(label for label, n in counts.items() if n >= MIN_ROWS)
    covered = sum(counts[label] for label in labels)
    return labels if len(labels) > 1 and 2 * covered > counts.total() else []


def _unlikely(
    rows: Sequence[TrainingRow], answers: Sequence[str], found: Mapping[int, Finding]
) -> Iterator[Finding]:
    """Labels that another one beats, given what the rows that are alike say.

    The scores are leave-one-out predictions of a ridge regression on TF-IDF: no row has a say in
    its own, and all cost one matrix inversion. Confident learning (Northcutt et al. 2021) tells how
    many labels are wrong; the rest is expectation maximisation: the scores are learned again from
    what the labels probably are.
    """
    labels = _labels(answers, found)
    class_of = {label: k for k, label in enumerate(labels)}
    places = [p for p, answer in enumerate(answers) if p not in found and answer in class_of]
    if not places:
        return
    given = np.array([class_of[answers[p]] for p in places])
    shuffled = np.random.default_rng(0).permutation(len(places))
    for block in np.array_split(shuffled, -(-len(places) // BLOCK)):
        texts = [_asked(rows[places[k]]) for k in block]
        likely = _likeliest(texts, given[block], len(labels))
        for k, label in zip(block, likely, strict=True):
            if label != given[k]:
                yield Finding(places[k], "label", labels[label])


def _asked(row: TrainingRow) -> str:
    return "\n".join(m.content for m in row.messages if m.role == "user")


def _likeliest(texts: Sequence[str], given: np.ndarray, n_labels: int) -> np.ndarray:
    """The likeliest label of each text; Int[Array, "texts"]."""
    from scipy.linalg import inv
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    vectors: Any = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
    ).fit_transform(texts)
    kernel = (vectors @ vectors.T).toarray().astype(np.float32) + np.float32(LEVEL)
    kernel[np.diag_indices_from(kernel)] += PENALTY
    inverse: np.ndarray = inv(kernel, overwrite_a=True, assume_a="pos")
    weights = np.diag(inverse)[:, None]
    own = np.eye(n_labels, dtype=np.float32)[given]
    probable = own
    scores = probable - (inverse @ probable) / weights
    wrong = float(np.clip(_confidently_wrong(scores, given).mean(), 0.01, 1 - 1 / n_labels))
    prior = np.where(own > 0, 1 - wrong, wrong / (n_labels - 1))
    for _ in range(ROUNDS):
        spread = scores.std(axis=0) + 1e-9
        nats = SHARPNESS * (scores - scores.mean(axis=0)) / spread
        probable = prior * np.exp(nats - nats.max(axis=1, keepdims=True))
        probable /= probable.sum(axis=1, keepdims=True)
        scores = probable - (inverse @ probable) / weights
    return probable.argmax(axis=1)


def _confidently_wrong(scores: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Whether a row's own label is below its usual score and another above; Bool[Array, "rows"]."""
    own = scores[np.arange(len(given)), given]
    n_labels = scores.shape[1]
    n_rows = np.maximum(np.bincount(given, minlength=n_labels), 1)
    usual = np.bincount(given, own, n_labels) / n_rows
    return (own < usual[given]) & (scores >= usual).any(axis=1)
