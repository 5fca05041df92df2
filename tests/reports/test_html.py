"""The report of real runs: what it says of retrieval and judges, and that it obeys nobody."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pipelines.core.command import Options
from pipelines.core.config import load_study
from pipelines.core.decision import Decision
from pipelines.core.records import Estimate
from pipelines.core.results import EvaluateResults, PrepareResult
from pipelines.core.study import Study
from pipelines.decide import REPORT, decide
from pipelines.evaluate import calibrate, evaluate
from pipelines.evaluation.judge_figures import JudgeFigures
from pipelines.reports import html
from pipelines.statistics.agreement import Figure
from pipelines.tracking import store

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"
PASSAGES = [
    {"id": "refund", "title": "Refunds", "text": "We refund and reimburse money and cash."},
    {"id": "delivery", "title": "Delivery", "text": "Track a parcel, package or box; it arrives."},
    {"id": "login", "title": "Sign in", "text": "Password forgotten, account or profile locked."},
]


def options(uri: str) -> Options:
    return Options(Path("study.yaml"), uri, dry_run=False, json=False)


def report_of(study: Study, uri: str) -> str:
    decision = decide(study, options(uri))
    assert isinstance(decision, Decision)
    return store.artifact(decision.run_id, REPORT).read_text(encoding="utf-8")


def section(report: str, title: str) -> str:
    """The words of a section, tags left out."""
    [found] = re.findall(rf"<h2>{title}</h2>(.*?)<h2>", report, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", found))


def judged_study(path: Path) -> Study:
    """The small study with passages, a judge that errs never, and labels by people."""
    rows = [json.loads(line) for line in (path.parent / "eval.jsonl").read_text().splitlines()]
    labels = []
    for k, row in enumerate(rows):
        row["metadata"] = {"passages": [row["target"]]}
        # 13 right answers, of which people fail the last, and 47 wrong ones.
        answer = row["target"] if k <= 12 else "nonsense"
        labels.append({"id": row["id"], "metric": "is_helpful", "answer": answer,
                       "label": float(k < 12), "labelled_by": "ann"})  # fmt: skip
    for name, lines in (("eval", rows), ("labels", labels), ("passages", PASSAGES)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (path.parent / f"{name}.jsonl").write_text(text, encoding="utf-8")
    metric = "{metric: rubric, judges: [strict], params: {rubric: Right}}"
    model = "{kind: rent, title: Judge, model: j, price: openai/gpt-6.1-sol, standin: "
    model += "{error_rate: 0, ttft_s: 0.001, tokens_per_s: 10000}}"
    return load_study(
        path,
        [
            f"workload.retrieval={{passages: {path.parent}/passages.jsonl, method: bm25, k: 1}}",
            f"workload.metrics.is_helpful={metric}",
            f"workload.labels={path.parent}/labels.jsonl",
            f"judges={{strict: {model}}}",
        ],
    )


def test_the_report_tells_of_passages_and_judges(small_study: Path, store_uri: str) -> None:
    study = judged_study(small_study)
    before = report_of(study, store_uri)
    assert "is helpful SIMULATED judge judged by strict" in section(before, "Key figures")
    assert "answered 60 60" in section(before, "How the calls ended")
    retrieval = section(before, "Finding the passages")
    assert retrieval.split()[:2] == ["method", "recall@1"]
    assert "bm25 in use" in retrieval
    assert "embeddings" in retrieval
    assert "No judge was measured against labels." in section(before, "Judges")

    calibrate(study, options(store_uri), "labels")
    after = section(report_of(study, store_uri), "Judges")
    assert "No judge was measured" not in after
    # Of 60 verdicts 59 agree; of 12 passed by people the judge passes 12, of 48 failed one.
    # Chance agrees on 13/60 x 12/60 + 47/60 x 48/60 = 0.67: (59/60 - 0.67) / 0.33 = 0.949.
    words = re.sub(r"-?[\d.]+ to [\d.]+ ", "", after)
    assert "strict SIMULATED is helpful human 60 0.983 0.949 1.000 0.021" in words


def test_names_and_reasons_are_shown_and_not_obeyed(small_study: Path, store_uri: str) -> None:
    study = load_study(small_study)
    decision = decide(study, options(store_uri))
    evaluated = evaluate(study, options(store_uri))
    assert isinstance(decision, Decision)
    assert isinstance(evaluated, EvaluateResults)
    prepared = store.load_result(evaluated.prepare_run_id, PrepareResult)
    half = Estimate(mean=0.5, low=0.4, high=0.6, n_scored=24, n_total=24)
    spec = study.workload.metrics["accuracy"].model_copy(update={"judges": (HOSTILE,)})
    workload = study.workload.model_copy(
        update={"metrics": {HOSTILE: spec, **study.workload.metrics}}
    )
    changes = {"metrics": {HOSTILE: half, "accuracy": half}, "errors": {HOSTILE: 3}}
    evaluated = evaluated.model_copy(
        update={
            "results": {n: r.model_copy(update=changes) for n, r in evaluated.results.items()},
            "judge_doubt": HOSTILE,
            "judge_kinship": (HOSTILE,),
        }
    )
    figures = JudgeFigures(
        judge=HOSTILE, metric=HOSTILE, labels=HOSTILE, how="asked", n_labels=1, n_verdicts=1,
        agreement=Figure(value=None, n=0, reason=HOSTILE),
    )  # fmt: skip
    report = html.render(
        study.model_copy(update={"workload": workload}),
        decision.model_copy(update={"quality_metric": HOSTILE}),
        evaluated,
        prepared,
        [figures],
        {},
    )
    # Only the chart's data and its one script, which stands last.
    assert report.count("<script") == 2
    assert "<img" not in report.partition("<script>")[0]
    shown = "&lt;script&gt;alert(1)&lt;/script&gt;"
    for title, n in (("Key figures", 2), ("How the calls ended", 2), ("Judges", 6)):
        assert section(report, title).count(shown) == n, title
