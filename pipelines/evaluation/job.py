"""One candidate's evaluation: what it depends on, and where its answers are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pipelines.core.candidate import Candidate, Own, Rent
from pipelines.core.prices import PriceBook, TokenPrice
from pipelines.core.records import Example, Record
from pipelines.core.results import BenchmarkResult, FinetuneResult, PrepareResult
from pipelines.core.study import Study
from pipelines.data.labels import Label
from pipelines.evaluation import asked, looks
from pipelines.evaluation.budget import Budget
from pipelines.judging import needs_rival
from pipelines.tracking import store
from pipelines.tracking.store import Stage
from pipelines.training.base_identity import identity

RowT = TypeVar("RowT", bound=Record)


@dataclass(frozen=True)
class Work:
    """What all candidates of one evaluation share."""

    study: Study
    prices: PriceBook
    prepared: PrepareResult
    tuned: FinetuneResult | None
    examples: Sequence[Example]
    labels: Sequence[Label]
    budget: Budget
    vllm: Callable[[], str]
    """Starts the server of the own candidates, or finds it running; gives its URL."""
    rivals: Callable[[], Mapping[str, str | None]]
    """Example id -> the incumbent's answer."""
    standard: Callable[[], Mapping[str, float | None]]
    """Example id -> the incumbent's score on the quality metric."""
    loads: Mapping[str, BenchmarkResult] = field(default_factory=dict[str, BenchmarkResult])
    """Finished load tests."""


@dataclass(frozen=True)
class Job:
    """One candidate to be evaluated."""

    work: Work
    name: str
    stage: Stage

    @property
    def study(self) -> Study:
        """The candidate's."""
        return self.work.study

    @property
    def candidate(self) -> Candidate:
        """What the study says of it."""
        return self.study.candidates[self.name]

    @property
    def price(self) -> TokenPrice | None:
        """Per token; None when owned."""
        candidate = self.candidate
        return (
            self.work.prices.token_price(candidate.price) if isinstance(candidate, Rent) else None
        )

    @property
    def tuned(self) -> FinetuneResult | None:
        """The adapter; None for a candidate that does not use it."""
        candidate = self.candidate
        return self.work.tuned if isinstance(candidate, Own) and candidate.tuned else None


def stage_of(
    study: Study,
    name: str,
    prepared: PrepareResult,
    tuned: FinetuneResult | None,
    prices: PriceBook,
    labels: Sequence[Label],
    load: BenchmarkResult | None = None,
) -> Stage:
    """The stage of one candidate; `load` gives its dollars, where it is not rented.

    `inputs` holds all that its result depends on; `inputs["asked"]` only what its answers
    depend on: a new price or another metric grades and prices the old answers anew.
    """
    workload, candidate = study.workload, study.candidates[name]
    base = identity(study.finetune.base)
    inputs: dict[str, Any] = {
        "asked": asked.what_is_asked(study, name, prepared, tuned, base),
        "title": candidate.title,
        "eval_sha256": prepared.eval_sha256,
        "metrics": {k: v.model_dump(mode="json") for k, v in workload.metrics.items()},
        "quality": workload.quality,
        "grading": study.evaluate.grading.model_dump(mode="json"),
        "n_samples": study.evaluate.n_samples,
        "n_traces": study.evaluate.n_traces,
        "traffic": workload.traffic.model_dump(mode="json"),
    }
    if isinstance(candidate, Rent):
        inputs["price"] = prices.token_price(candidate.price).model_dump(mode="json")
        inputs["terms"] = candidate.terms.model_dump(mode="json")
    else:
        inputs["hardware"] = candidate.hardware.model_dump(mode="json")
        inputs["own_costs"] = workload.own_costs.model_dump(mode="json")
        inputs["load_test"] = load.run_id if load else None
    judged = [spec for spec in workload.metrics.values() if spec.judges]
    if judged:
        inputs["judges"] = _judges(study, tuned)
        inputs["labels"] = [label.sha256 for label in labels]
    if any(needs_rival(spec.metric) for spec in judged):
        rival = asked.what_is_asked(study, study.incumbent, prepared, tuned, base)
        inputs["rival"] = rival
    if looks.applies(study, name):
        inputs["looks"] = {
            "n": study.evaluate.looks,
            "margin": workload.requirements.max_quality_loss,
            "incumbent": asked.what_is_asked(study, study.incumbent, prepared, tuned, base),
        }
    return Stage("evaluate", workload.name, inputs, candidate=name)


def calibration_stage(
    study: Study, tuned: FinetuneResult | None, labels: Sequence[Label], against: str
) -> Stage:
    """The stage in which the study's judges are measured.

    Args:
        study: the study.
        tuned: the adapter, for an own judge that uses it.
        labels: those that count; none for a public set.
        against: `labels`, or the name of a public set.
    """
    workload = study.workload
    inputs: dict[str, Any] = {
        "against": against,
        "judges": _judges(study, tuned),
        "metrics": {k: v.model_dump(mode="json") for k, v in workload.metrics.items() if v.judges},
        "labels": [label.sha256 for label in labels],
        "n": study.evaluate.calibration_items,
    }
    return Stage("calibrate-judge", workload.name, inputs)


def _judges(study: Study, tuned: FinetuneResult | None) -> dict[str, Any]:
    base = identity(study.finetune.base)
    return {
        judge: asked.what_a_judge_is(study, judge, tuned, base) for judge in sorted(used(study))
    }


def used(study: Study) -> set[str]:
    """Judges that some metric names."""
    return {judge for spec in study.workload.metrics.values() for judge in spec.judges}


def journal_path(stage: Stage) -> Path:
    """One file per way of asking; prices and metrics do not change what was answered."""
    return _journal(f"{stage.workload}-{stage.candidate}", stage.inputs["asked"])


def judge_journal_path(stage: Stage, judge: str) -> Path:
    """One file per judge and candidate; what was shown is in the digests of its rows."""
    identity = stage.inputs.get("judges", {}).get(judge)
    what = stage.candidate or stage.name
    return _journal(f"{stage.workload}-{what}-judged-by-{judge}", identity)


def _journal(name: str, what: object) -> Path:
    text = json.dumps(what, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return store.work_root() / "journal" / f"{name}-{digest}.jsonl"


def rows_of(run_id: str, name: str, row_type: type[RowT]) -> list[RowT]:
    """Rows of a JSON Lines artifact."""
    with store.artifact(run_id, name).open(encoding="utf-8") as file:
        return [row_type.model_validate_json(line) for line in file]


def reader_of(run_id: str, name: str, row_type: type[RowT]) -> Callable[[], list[RowT]]:
    """The same, read only when it is called."""
    return lambda: rows_of(run_id, name, row_type)
