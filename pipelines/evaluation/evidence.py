"""What finished evaluations say of the candidates, item by item: the evidence of a verdict."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pipelines.core.candidate import Rent
from pipelines.core.evidence import Corrected, Evidence, Floats
from pipelines.core.records import Example, Response, Score
from pipelines.core.results import RESPONSES, SCORES, EvaluateResult
from pipelines.core.study import Study
from pipelines.economics import own_draws, own_measured
from pipelines.economics.draws import N_DRAWS
from pipelines.economics.token_cost import usd_of_response
from pipelines.evaluation.confidence import Confidences, confidences
from pipelines.statistics.guards import rare_errors
from pipelines.statistics.judge_correction import corrected_difference, corrected_mean
from pipelines.tracking import store


@dataclass(frozen=True)
class Answered:
    """One candidate's rows, by item."""

    responses: dict[str, Response]
    values: dict[str, dict[str, float | None]]
    """Metric -> item -> score."""
    human: dict[str, float | None] = field(default_factory=dict[str, float | None])
    """Item -> human label of what the quality metric judges."""


def answered(result: EvaluateResult) -> Answered:
    """The rows of a finished evaluation.

    Raises:
        MissingRunError: its artifacts are gone.
    """
    values: dict[str, dict[str, float | None]] = {}
    human: dict[str, float | None] = {}
    for line in _lines(result, SCORES):
        score = Score.model_validate_json(line)
        values.setdefault(score.metric, {})[score.example_id] = score.value
        if score.metric == result.quality_metric:
            human[score.example_id] = score.human
    rows = map(Response.model_validate_json, _lines(result, RESPONSES))
    return Answered({row.example_id: row for row in rows}, values, human)


def evidence(
    study: Study,
    results: Mapping[str, EvaluateResult],
    rows: Mapping[str, Answered],
    items: Sequence[Example],
    *,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> Evidence:
    """Scores, dollars and seconds of all candidates of a study.

    Dollars of a rented candidate are those of its calls; of an owned one its share of the month's
    bill, which is the same for every item and is drawn from the ranges of all that it depends on.

    Args:
        study: the study.
        results: of every candidate.
        rows: of the same.
        items: of the eval set, in their order.
        n_draws: of the dollars of owning.
        seed: of these draws.
    """
    names = tuple(results)
    ids = [item.id for item in items]
    incumbent = study.incumbent
    groups = {item.id: item.group for item in items if item.group is not None}
    traffic = study.workload.traffic
    volume = own_draws.drawn_volume(traffic.volume, n_draws, seed)
    drawn = {
        name: own_draws.usd_per_task(
            own, volume, candidate=name, machine=result.hardware.name, seed=seed
        )
        for name, result in results.items()
        if result.hardware is not None
        and (own := own_measured.owning(study.workload, result)) is not None
    }
    quality = study.workload.quality
    stops = {name: result.looks for name, result in results.items() if result.looks is not None}
    sure = {
        name: found
        for name in names
        if (found := _confidence(study, results[name], rows[name])) is not None
    }
    return Evidence(
        candidates=names,
        ids=tuple(ids),
        scores=_table(ids, [rows[name].values.get(quality, {}) for name in names]),
        usd=_table(ids, [_usd(study, name, results[name], rows[name]) for name in names]),
        latency_s=_table(
            ids,
            [
                {i: row.latency_s for i, row in rows[name].responses.items() if row.error is None}
                for name in names
            ],
        ),
        confidence=_table(ids, [sure[name].by_id if name in sure else {} for name in names])
        if sure
        else None,
        confidence_usd={name: found.usd_per_task for name, found in sure.items()},
        groups=_numbered(ids, groups) if groups else None,
        slices=_slices(items, study.workload.slice_by),
        kinds={name: results[name].kind for name in names},
        usd_draws=drawn,
        corrected={
            name: found
            for name in names
            if (
                found := _corrected(rows[name], rows[incumbent], quality, groups, name == incumbent)
            )
        },
        n_asked={name: each.items_asked for name, each in stops.items()},
        levels={name: each.level for name, each in stops.items() if each.level is not None},
        out={
            name: why
            for name in names
            if (why := _why_out(study, name, results[name], rows[name], groups))
        },
    )


def confidence_from(study: Study, rows: Answered) -> str:
    """What tells how sure a candidate was of its answers, in words; empty = nothing does."""
    found = _confidences(study, rows)
    return found.source if found else ""


class _Confidence(NamedTuple):
    by_id: Mapping[str, float]
    usd_per_task: float
    """Of knowing it, beside the answer."""


def _confidence(study: Study, result: EvaluateResult, rows: Answered) -> _Confidence | None:
    """How sure a candidate was of each answer; None where nothing tells, or for unknown dollars."""
    found, usd = _confidences(study, rows), result.cost.usd_per_task
    if found is None or usd is None:
        return None
    extra = (found.n_calls - 1) * float(usd)
    if found.metric is not None:
        if result.judge_usd is None:
            return None
        extra += float(result.judge_usd) / result.n_total
    return _Confidence(found.by_id, extra)


def _confidences(study: Study, rows: Answered) -> Confidences | None:
    return confidences(
        rows.responses.values(),
        rows.values,
        study.workload.metrics,
        study.workload.quality,
        study.evaluate.n_samples,
    )


def _usd(
    study: Study, name: str, result: EvaluateResult, rows: Answered
) -> Mapping[str, float | None]:
    """Item -> dollars of its answer; what failed calls cost is spread over the answers."""
    mean = result.cost.usd_per_task
    answers = [row for row in rows.responses.values() if row.text is not None]
    if mean is None or not answers:
        return {}
    candidate = study.candidates[name]
    if not isinstance(candidate, Rent) or result.token_price is None:
        return {row.example_id: float(mean) for row in answers}
    usd = [float(usd_of_response(result.token_price, row, candidate.terms)) for row in answers]
    paid = sum(usd)
    spread = float(mean) * len(usd) / paid if paid else 1.0
    return {row.example_id: spread * each for row, each in zip(answers, usd, strict=True)}


def _corrected(
    ours: Answered,
    theirs: Answered,
    metric: str,
    groups: Mapping[str, str],
    is_incumbent: bool,
) -> Corrected | None:
    """What human labels make of a judged quality; None where too few were labelled."""
    if not any(label is not None for label in ours.human.values()):
        return None
    values = ours.values.get(metric, {})
    mean = corrected_mean(values, ours.human, groups)
    if mean.corrected is None or not mean.error:
        return None
    gap = None
    if not is_incumbent:
        gap = corrected_difference(
            (values, theirs.values.get(metric, {})), (ours.human, theirs.human), groups
        )
    known = gap is not None and gap.corrected is not None and gap.error
    return Corrected(
        quality=mean.corrected.mean,
        quality_error=mean.error,
        difference=gap.corrected.mean if known and gap and gap.corrected else None,
        difference_error=gap.error or 0.0 if known and gap else 0.0,
        n_groups=gap.n_groups if known and gap else 0,
        skew=gap.skew if known and gap else 0.0,
    )


def _why_out(
    study: Study,
    name: str,
    result: EvaluateResult,
    rows: Answered,
    groups: Mapping[str, str],
) -> str:
    """The first requirement that these figures alone show to be missed; empty = none."""
    need, quality = study.workload.requirements, result.metrics[result.quality_metric]
    if (other := study.candidates[name].control_of) is not None:
        return f"it is only a control of {other}"
    if (looks := result.looks) is not None and looks.stopped == "futile":
        return (
            f"asked no further after {looks.items_asked:,} of {looks.items_planned:,} items: it "
            "could hardly be shown any more to be good enough"
        )
    if quality is not None and quality.low < need.min_quality:
        return f"quality may be as low as {quality.low:.1%} (limit {need.min_quality:.1%})"
    failed = result.outcomes.get("failed", 0) / result.n_total
    if failed > need.max_error_share:
        return f"{failed:.1%} of the calls failed (limit {need.max_error_share:.1%})"
    slow = result.latency_p95_s is not None and result.latency_p95_s > need.max_latency_p95_s
    if slow and name == study.incumbent:  # of the others the rule asks for a bound
        return f"p95 latency {result.latency_p95_s:.2f} s (limit {need.max_latency_p95_s:g} s)"
    if result.cost.usd_per_month is None and name != study.incumbent:
        return f"its cost is unknown: {result.cost.unknown_because or 'it was not measured'}"
    for metric, limit in need.max_failure_rates.items():
        scored = {i: v for i, v in rows.values.get(metric, {}).items() if v is not None}
        if not scored:
            return f"not one answer has a score of {metric}, which has a limit"
        units = {groups.get(i, f"item {i}") for i in scored}
        hit = {groups.get(i, f"item {i}") for i, value in scored.items() if value < 1}
        found = rare_errors(len(hit), len(units))
        if found.high > limit:
            return (
                f"{metric} may fail in {found.high:.2%} of the cases ({found.n_seen} of {found.n} "
                f"seen; limit {limit:.2%})"
            )
    return ""


def _slices(items: Sequence[Example], keys: Sequence[str]) -> dict[str, np.ndarray]:
    """`key=value` -> the items that have it."""
    found: dict[str, np.ndarray] = {}
    for key in keys:
        for k, item in enumerate(items):
            if (value := item.metadata.get(key)) is not None:
                text = value if isinstance(value, str) else json.dumps(value)
                found.setdefault(f"{key}={text}", np.zeros(len(items), dtype=bool))[k] = True
    return dict(sorted(found.items()))


def _numbered(ids: Sequence[str], groups: Mapping[str, str]) -> np.ndarray:
    """Group of each item; an item without one is a group of its own."""
    numbers: dict[tuple[bool, str], int] = {}
    keys = [(i in groups, groups.get(i, i)) for i in ids]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _table(ids: Sequence[str], columns: Sequence[Mapping[str, float | None]]) -> Floats:
    """(items, candidates); NaN = not known."""
    return np.array([[column.get(i) for column in columns] for i in ids], dtype=np.float64).reshape(
        len(ids), len(columns)
    )


def _lines(result: EvaluateResult, artifact: str) -> list[str]:
    text = store.artifact(result.run_id, artifact).read_text(encoding="utf-8")
    return [line for line in text.split("\n") if line]
