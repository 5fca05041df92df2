"""A decision of the example study, made of chosen scores and costs through the real rule."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache

import numpy as np

from pipelines.core.config import load_study
from pipelines.core.decision import Decision
from pipelines.core.evidence import Evidence
from pipelines.core.hardware import Figure
from pipelines.core.paths import ROOT
from pipelines.core.prices import TokenPrice
from pipelines.core.records import Example, Message, Response
from pipelines.core.results import EvaluateResult, EvaluateResults, Kind, PrepareResult
from pipelines.core.study import Study
from pipelines.economics import candidate_cost, own_draws, own_measured, verdict
from pipelines.economics.draws import N_DRAWS
from pipelines.reports import answers, html
from pipelines.reports.answers import Answers
from pipelines.statistics.intervals import estimate

N = 400
HOSTILE = (
    "<script>window.hacked=1</script></script><img src=x onerror=window.hacked=1> {{7*7}} \x1b[31m"
)
RIGHT = {"frontier-standin": 0.93, "tiny-base": 0.35, "tiny-lora": 0.94, "tfidf-logreg": 0.90}
KINDS: dict[str, Kind] = {
    "frontier-standin": "rent", "tiny-base": "own", "tiny-lora": "own", "tfidf-logreg": "baseline",
}  # fmt: skip
CAPACITY = {
    "tiny-base": Figure(low=Decimal(2), likely=Decimal(3), high=Decimal(4)),
    "tiny-lora": Figure(low=Decimal(2), likely=Decimal(3), high=Decimal(4), source="load test"),
    "tfidf-logreg": Figure.of(40),
}
USD_PER_CALL = 0.0021
PRICE = TokenPrice(
    usd_per_million_input_tokens=Decimal(2),
    usd_per_million_output_tokens=Decimal(8),
    source="test",
    checked_on="2026-11-21",  # pyright: ignore[reportArgumentType]
)


@dataclass
class Made:
    """All that a report takes."""

    study: Study
    decision: Decision
    evaluated: EvaluateResults
    prepared: PrepareResult
    answers: Answers
    latencies: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def report(self) -> str:
        return html.render(
            self.study,
            self.decision,
            self.evaluated,
            self.prepared,
            [],
            self.latencies,
            self.answers,
        )


def make(
    *settings: str,
    says: str = "order_status",
    names: tuple[str, ...] = tuple(RIGHT),
    confident: str | None = None,
) -> Made:
    """The example study with settings.

    Args:
        settings: of the study.
        says: what every candidate answers.
        names: of the candidates.
        confident: one that knows where it is wrong.
    """
    base, items, values = _decided(settings, names, confident)
    asked = [
        item.model_copy(
            update={"messages": (Message(role="user", content=f"Where is {item.id}? {says}"),)}
        )
        for item in items
    ]
    responses = {
        n: {
            item.id: Response(
                example_id=item.id, request_sha256="0", text=says, model="m", started_at_s=0.0,
                latency_s=1.0,
            )
            for item in items
        }
        for n in names
    }  # fmt: skip
    found = answers.gather(base.study, base.decision, asked, responses, values)
    return replace(base, answers=found)


@lru_cache
def _decided(
    settings: tuple[str, ...], names: tuple[str, ...], confident: str | None
) -> tuple[Made, list[Example], dict[str, dict[str, float]]]:
    """All but the answers; deciding takes seconds."""
    study = load_study(
        ROOT / "configs" / "quickstart.yaml",
        ["workload.requirements.usd_per_error=0.02", "workload.slice_by=[channel]", *settings],
    )
    study = study.model_copy(update={"candidates": {n: study.candidates[n] for n in names}})
    generator = np.random.default_rng(7)
    items = [
        Example(
            id=f"item-{k}",
            messages=(Message(role="user", content=""),),
            target="order_status",
            metadata={"channel": ("mail", "chat")[k % 2]},
        )
        for k in range(N)
    ]
    hard = generator.random(N)
    scores = {
        n: (0.7 * hard + 0.3 * generator.random(N) < RIGHT[n] * 0.93).astype(float) for n in names
    }
    seconds = {n: (0.2 + generator.gamma(2, 0.1, N)).tolist() for n in names}
    usd = np.full((N, len(names)), np.nan)
    usd[:, 0] = USD_PER_CALL * generator.uniform(0.5, 1.5, N)
    results = {n: _result(study, n, scores[n], float(usd[:, 0].mean())) for n in names}
    volume = own_draws.drawn_volume(study.workload.traffic.volume, 400)
    drawn = {
        n: np.resize(own_draws.usd_per_task(own, volume, candidate=n, machine="vm-2cpu"), N_DRAWS)
        for n in names
        if (own := own_measured.owning(study.workload, results[n])) is not None
    }
    for k, n in enumerate(names[1:], start=1):
        usd[:, k] = float(results[n].cost.usd_per_task or 0)
    channels = np.array([item.metadata["channel"] for item in items])
    evidence = Evidence(
        candidates=names,
        ids=tuple(item.id for item in items),
        scores=np.stack([scores[n] for n in names], axis=1),
        usd=usd,
        latency_s=np.array([seconds[n] for n in names]).T,
        confidence=_confidence(names, scores, confident),
        slices={f"channel={c}": channels == c for c in ("chat", "mail")},
        kinds={n: KINDS[n] for n in names},
        usd_draws=drawn,
    )
    decision = verdict.decide(
        study, evidence, results, "decide-run", controls={}, confidence_from={}
    )
    values = {n: dict(zip(evidence.ids, scores[n].tolist(), strict=True)) for n in names}
    made = Made(
        study=study,
        decision=decision,
        evaluated=EvaluateResults(results=results, prepare_run_id="prepare-run"),
        prepared=PrepareResult(
            run_id="prepare-run", train_sha256="0", eval_sha256="0", n_read=1, n_train=1, n_eval=N,
            n_duplicates=0, n_conflicts=0, n_leaked=0,
        ),
        answers=Answers(subject="", worst=(), slices=()),
        latencies=seconds,
    )  # fmt: skip
    return made, items, values


def _confidence(
    names: tuple[str, ...], scores: dict[str, np.ndarray], confident: str | None
) -> np.ndarray | None:
    if confident is None:
        return None
    found = np.full((N, len(names)), np.nan)
    found[:, names.index(confident)] = scores[confident] * 0.5 + np.linspace(0.0, 0.4, N)
    return found


def _result(study: Study, name: str, scores: np.ndarray, usd_per_call: float) -> EvaluateResult:
    candidate, workload = study.candidates[name], study.workload
    rented = candidate.kind == "rent"
    tuned = name == "tiny-lora"
    cost = (
        candidate_cost.rented(Decimal(repr(usd_per_call)), workload.traffic)
        if candidate.kind == "rent"
        else candidate_cost.owned(
            CAPACITY[name], candidate.hardware, workload.traffic, workload.own_costs, tuned
        )
    )
    quality = estimate({str(k): float(score) for k, score in enumerate(scores)})
    return EvaluateResult(
        run_id=f"evaluate-{name}", candidate=name, title=candidate.title, kind=KINDS[name],
        tuned=tuned, model_id=f"m-{name}", simulated=rented, toy=KINDS[name] == "own",
        eval_sha256="0", quality_metric=workload.quality,
        metrics=dict.fromkeys(workload.metrics, quality), n_total=N, n_errors=0, errors={},
        outcomes={"answered": N}, n_unparseable=0, latency_p50_s=0.4, latency_p95_s=0.7,
        ttft_p50_s=0.1, tasks_per_s=9.0, cost=cost, spent_usd=None, n_broken_off=0,
        token_price=PRICE if rented else None,
        hardware=None if candidate.kind == "rent" else candidate.hardware,
    )  # fmt: skip
