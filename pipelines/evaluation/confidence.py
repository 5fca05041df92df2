"""How sure a candidate was of its answers, for cascades: found in them, no further call is made."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from pipelines import metrics
from pipelines.core.errors import ScoringError, Unparseable
from pipelines.core.records import Example, Message, Response
from pipelines.core.workload import MetricSpec
from pipelines.evaluation.asked import item_of

MIN_KNOWN = 0.5
"""Share of the answers that a source must know; what it does not know is always escalated."""
UNREADABLE = (
    ScoringError, Unparseable, TypeError, ValueError, AttributeError, LookupError, ArithmeticError,
    RecursionError,
)  # fmt: skip
"""What a metric may raise where an answer stands in for the target."""


class Confidences(NamedTuple):
    """How sure a candidate was of each answer, and how that is known."""

    by_id: dict[str, float]
    """Example id, as in its `Score` -> confidence, higher = surer, on the source's own scale. An
    answer that is not here has none; what was refused, filtered or failed never has."""
    source: str
    """For people, such as "the mean log-probability of an answer's tokens"."""
    n_calls: int = 1
    """Calls of the candidate that one task takes with this source; the study has made them."""
    metric: str | None = None
    """The judged metric that it is: each task then pays its judges, too."""


def confidences(
    responses: Iterable[Response],
    scores: Mapping[str, Mapping[str, float | None]],
    specs: Mapping[str, MetricSpec],
    quality: str,
    n_samples: int = 1,
) -> Confidences | None:
    """The best source there is: token probabilities, else agreement, else a judge.

    The order is fixed, and never the one that fits the scores best. None of them has seen the
    target: a judge that is shown the reference or the incumbent's answer is no source. A source
    that knows less than half of the answers, or says the same of all of them, is none either.

    Args:
        responses: one candidate's.
        scores: metric -> example id -> value, of the same candidate; None = not scored.
        specs: the workload's metrics, by name.
        quality: the metric that is decided on; agreement reads answers as it does.
        n_samples: how often each item was asked.

    Returns:
        None when there is no source.
    """
    answers: dict[str, str] = {}
    likely: dict[str, float] = {}
    for response in responses:
        if response.text is None or response.outcome not in ("answered", "truncated"):
            continue
        answers[response.example_id] = response.text
        if response.mean_logprob is not None:
            likely[response.example_id] = response.mean_logprob
    found = Confidences(likely, "the mean log-probability of an answer's tokens")
    if _tells(found, answers):
        return found
    found = _agreement(answers, n_samples, quality, specs[quality])
    if _tells(found, answers):
        return found
    names = [name for name, spec in specs.items() if name != quality and _is_blind(spec)]
    for name in names:
        values = scores.get(name, {}).items()
        judged = {i: value for i, value in values if value is not None and i in answers}
        found = Confidences(judged, f"what its judges say of {name}", metric=name)
        if _tells(found, answers):
            return found
    return None


def _tells(found: Confidences, answers: Mapping[str, str]) -> bool:
    known = found.by_id
    return len(known) >= MIN_KNOWN * len(answers) and len(set(known.values())) > 1


def _is_blind(spec: MetricSpec) -> bool:
    """Its judges see what is there in operation, too: question, answer and passages.

    A way of judging that is not known here may look at more, and is no source.
    """
    match spec.metric if spec.judges else "":
        case "rubric":
            return spec.params.get("reference", True) is False
        case "ragas":
            by_passages = ("faithfulness", "response_groundedness")
            return spec.params.get("metric", by_passages[0]) in by_passages
        case _:
            return False


def _agreement(
    answers: Mapping[str, str], n_samples: int, quality: str, spec: MetricSpec
) -> Confidences:
    """Of each answer: the mean agreement of the item's other answers with it, in [0, 1]."""
    items: dict[str, list[str]] = {}
    for example_id in answers:
        items.setdefault(item_of(example_id, n_samples), []).append(example_id)
    same, how = _same_text, "compared as texts"
    by_metric = _grading(spec)
    if by_metric is not None and any(by_metric(text, text) for text in answers.values()):
        same, how = by_metric, f"compared as {quality} does"
    by_id = {
        mine: statistics.fmean(
            same(answers[mine], answers[other]) for other in ids if other != mine
        )
        for ids in items.values()
        if len(ids) > 1
        for mine in ids
    }
    source = f"the agreement of {n_samples} answers to the same item, {how}"
    return Confidences(by_id, source, n_calls=n_samples)


def _same_text(mine: str, other: str) -> float:
    return float(mine.strip() == other.strip())


def _grading(spec: MetricSpec) -> Callable[[str, str], float] | None:
    """The metric, with another answer for the target and nothing else of the item.

    None where it does not compare with the target, or runs what it grades.
    """
    if spec.judges or spec.metric == metrics.RECORDED_SCORE or metrics.workers(spec.metric) > 1:
        return None
    if not getattr(metrics.FOLDER.load(spec.metric), "NEEDS_TARGET", True):
        return None
    score = metrics.load(spec.metric)
    question = (Message(role="user", content=""),)

    def graded(mine: str, other: str) -> float:
        try:
            found = score(Example(id="", messages=question, target=other), mine, **spec.params)
        except UNREADABLE:
            return 0.0
        return found.value if isinstance(found, metrics.Weighted) else found

    return graded
