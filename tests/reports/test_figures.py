"""The cells of the report's tables, by hand."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

from pipelines.core.config import load_study
from pipelines.core.records import Estimate
from pipelines.core.results import Cost, EvaluateResult, PrepareResult, RetrieverResult
from pipelines.core.study import Study
from pipelines.core.workload import MetricSpec
from pipelines.evaluation.judge_figures import JudgeFigures
from pipelines.reports.figures import (
    Cell,
    endings,
    errors,
    judges,
    key_figures,
    retrievers,
)
from pipelines.statistics.agreement import Figure

GOOD = Estimate(mean=0.83, low=0.78, high=0.8754, n_scored=300, n_total=300)
ALONE = Estimate(mean=0.88, low=0.85, high=0.91, n_scored=300, n_total=300)
PART = Estimate(mean=0.5, low=0.25, high=0.75, n_scored=150, n_total=200)


def result(**change: Any) -> EvaluateResult:
    values: dict[str, Any] = {
        "run_id": "r",
        "candidate": "a",
        "title": "A",
        "kind": "rent",
        "tuned": False,
        "model_id": "m",
        "simulated": False,
        "toy": False,
        "eval_sha256": "0",
        "quality_metric": "accuracy",
        "metrics": {"accuracy": GOOD},
        "n_total": 300,
        "n_errors": 0,
        "errors": {},
        "outcomes": {"answered": 300},
        "n_unparseable": 0,
        "latency_p50_s": None,
        "latency_p95_s": None,
        "ttft_p50_s": None,
        "tasks_per_s": None,
        "cost": Cost(usd_per_month=None, usd_per_task=None),
        "spent_usd": None,
        "n_broken_off": 0,
        "token_price": None,
        "hardware": None,
    }
    return EvaluateResult.model_validate(values | change)


def with_metrics(path: Path, **metrics: MetricSpec) -> Study:
    study = load_study(path)
    return study.model_copy(
        update={"workload": study.workload.model_copy(update={"metrics": metrics})}
    )


def texts(row: tuple[Cell, ...]) -> list[str]:
    return [cell.text for cell in row]


def test_each_metric_is_a_row_with_its_interval_and_coverage(small_study: Path) -> None:
    exact = MetricSpec(metric="exact_match")
    study = with_metrics(small_study, macro_f1=exact, accuracy=exact)
    table = key_figures(
        study,
        {
            "a": result(metrics={"accuracy": GOOD, "macro_f1": None}),
            "b": result(metrics={"accuracy": PART, "macro_f1": GOOD}, simulated=True, toy=True),
        },
    )
    assert texts(table.head) == ["metric", "a", "b"]
    assert [cell.tags for cell in table.head] == [(), (), ("simulated", "toy")]
    f1, accuracy = table.rows
    assert texts(f1) == ["macro f1", "not scored", "0.830"]
    assert f1[0].notes == f1[1].notes == ()
    assert f1[2].notes == ("0.780 to 0.875",)
    assert accuracy[0] == Cell(text="accuracy", notes=("the verdict rests on it",))
    assert accuracy[2] == Cell(text="0.500", notes=("0.250 to 0.750", "coverage 75.0%"))


def test_a_judged_metric_names_its_judges_and_what_the_judge_alone_says(small_study: Path) -> None:
    judged = MetricSpec(metric="rubric", judges=("x", "y"))
    study = with_metrics(
        small_study, accuracy=MetricSpec(metric="exact_match"), tone=judged, on_policy=judged
    )
    candidate = result(
        metrics={"accuracy": GOOD, "tone": GOOD, "on_policy": GOOD},
        judged={"tone": ALONE, "on_policy": GOOD},
        simulated_metrics=("tone",),
    )
    accuracy, tone, on_policy = key_figures(study, {"a": candidate}).rows
    assert accuracy[0].tags == on_policy[0].tags == ()
    assert tone[0] == Cell(text="tone", tags=("SIMULATED judge",), notes=("judged by x + y",))
    assert tone[1] == Cell(text="0.830", notes=("0.780 to 0.875", "judge alone 0.880"))
    assert on_policy[1] == Cell(text="0.830", notes=("0.780 to 0.875",))
    unscored = candidate.model_copy(update={"judged": {"tone": None, "on_policy": None}})
    assert key_figures(study, {"a": unscored}).rows[1][1].notes[1] == "judge alone: not scored"


def test_only_endings_that_happened_have_a_row() -> None:
    table = endings(
        {
            "a": result(
                outcomes={"answered": 1290, "refused": 7, "failed": 3},
                n_unparseable=12,
                n_broken_off=2,
                spent_usd=Decimal("1234.5"),
                judge_usd=Decimal("0.01234"),
            ),
            "b": result(outcomes={"answered": 1300}, simulated=True),
            "c": result(outcomes={"answered": 1300}, kind="own", spent_usd=None),
        }
    )
    assert [texts(row) for row in table.rows] == [
        ["answered", "1,290", "1,300", "1,300"],
        ["refused", "7", "0", "0"],
        ["failed", "3", "0", "0"],
        ["unparseable", "12", "0", "0"],
        ["attempts broken off", "2", "0", "0"],
        ["paid for answers", "$1,234.50", "–", "–"],  # noqa: RUF001
        ["paid for judges", "$0.0123", "–", "–"],  # noqa: RUF001
    ]
    paid = table.rows[5]
    assert [cell.notes for cell in paid[2:]] == [("simulated",), ("not paid by the call",)]
    assert [texts(row) for row in endings({"a": result()}).rows] == [["answered", "300"]]


def test_errors_are_listed_with_their_reason() -> None:
    assert errors({"a": result()}) is None
    table = errors({"a": result(), "b": result(errors={"HTTP 503": 1200, "timeout": 1})})
    assert table is not None
    assert [texts(row[::2]) for row in table.rows] == [["b", "1,200"], ["b", "1"]]
    assert [row[1].reason for row in table.rows] == ["HTTP 503", "timeout"]


def prepared(*found: RetrieverResult) -> PrepareResult:
    return PrepareResult(
        run_id="p", train_sha256="0", eval_sha256="0", n_read=1, n_train=1, n_eval=1,
        n_duplicates=0, n_conflicts=0, n_leaked=0, retrievers=found,
    )  # fmt: skip


def test_each_retriever_is_a_row_and_the_one_in_use_says_so() -> None:
    assert retrievers(prepared()) is None
    bm25 = RetrieverResult(
        method="bm25", in_use=False, k=4, recall_at_k=GOOD, ndcg_at_10=PART, reciprocal_rank=None,
        latency_p50_s=0.0026,
    )  # fmt: skip
    hybrid = bm25.model_copy(update={"method": "hybrid", "in_use": True, "latency_p50_s": 1.5})
    table = retrievers(prepared(bm25, hybrid))
    assert table is not None
    assert texts(table.head) == [
        "method", "recall@4", "nDCG@10", "reciprocal rank", "p50 of a query",
    ]  # fmt: skip
    assert texts(table.rows[0]) == ["bm25", "0.830", "0.500", "not scored", "2.6 ms"]
    assert table.rows[0][1].notes == ("0.780 to 0.875",)
    assert texts(table.rows[1])[::4] == ["hybrid", "1500.0 ms"]
    assert [bool(row[0].notes) for row in table.rows] == [False, True]


def test_each_judge_is_a_row_with_what_is_known_of_it() -> None:
    assert judges([]) is None
    share = Figure(value=0.9, low=0.85, high=0.94, n=40)
    kappa = Figure(value=0.1, low=-0.05, high=0.25, n=40)
    single = JudgeFigures(
        judge="x", metric="on_policy", labels="human", how="asked", simulated=True, n_labels=1042,
        n_verdicts=1040, agreement=share, kappa=kappa, true_positive_rate=share,
        false_positive_rate=Figure(value=None, n=0, reason="all answers are right"),
    )  # fmt: skip
    table = judges([single])
    assert table is not None
    assert texts(table.head) == [
        "judge", "metric", "labels", "n", "agreement", "kappa", "true positive rate",
        "false positive rate",
    ]  # fmt: skip
    [row] = table.rows
    assert texts(row) == [
        "x", "on policy", "human", "1,040", "0.900", "0.100", "0.900", "not known",
    ]  # fmt: skip
    assert row[0].tags == ("SIMULATED",)
    assert row[3].notes == ("2 without a verdict",)
    assert row[5].notes == ("-0.050 to 0.250",)
    assert row[7].reason == "all answers are right"
    pairs = single.model_copy(update={"kappa": None, "flips": share, "n_labels": 1040})
    both = judges([single, pairs])
    assert both is not None
    assert texts(both.head)[-1] == "flips"
    assert [texts(row)[-1] for row in both.rows] == ["–", "0.900"]  # noqa: RUF001
    assert [texts(row)[5] for row in both.rows] == ["0.100", "–"]  # noqa: RUF001
    assert both.rows[1][3].notes == ()
