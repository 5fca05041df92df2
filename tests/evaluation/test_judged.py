"""Judged metrics through the evaluate command; answers and judges come over real HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.command import Options
from pipelines.core.config import load_study
from pipelines.core.decision import Decision
from pipelines.core.errors import BudgetReached, ConfigError, DataError
from pipelines.core.records import Message
from pipelines.core.results import EvaluateResult, EvaluateResults, Plan
from pipelines.decide import decide
from pipelines.evaluate import calibrate, evaluate
from pipelines.evaluation.judge_figures import Calibration
from pipelines.judging import prompt
from tests.conftest import ThreadedServer, threaded_server, write_jsonl

N = 40
RIGHT, WRONG = "the capital is Bern", "the capital is Zurich"


def question(k: int) -> str:
    return f"Question {k}: what is the capital?"


def answer_of(model: str, k: int) -> str:
    """`good` is right on 36 of 40 items, `weak` on 20."""
    n_right = {"good": 36, "weak": 20}[model]
    return RIGHT if k < n_right else WRONG


class Models:
    """Answers of two models, and a judge that passes an answer which names Bern.

    `lenient` says which items' wrong answers the judge passes, by mistake.
    """

    def __init__(self) -> None:
        self.judged: list[dict[str, Any]] = []
        self.lenient: set[int] = set()
        self.needs_prompt: str | None = None
        self.judge_is_down = False

    def __call__(self, body: dict[str, Any]) -> str:
        messages = [Message(**m) for m in body["messages"]]
        if body["model"] != "judge":
            k = int(messages[-1].content.split()[1].rstrip(":"))
            system = next((m.content for m in messages if m.role == "system"), "")
            if body["model"] == "good" and self.needs_prompt not in (None, system):
                return WRONG
            return answer_of(body["model"], k)
        if self.judge_is_down:
            raise ConnectionError("the judge is away")
        self.judged.append(body)
        shown = prompt.shown(messages)
        assert shown is not None
        if "answer_a" in shown.texts:
            sought = shown.word or "Bern"
            a, b = (sought in shown.texts[side] for side in ("answer_a", "answer_b"))
            return self.verdict(shown, "tie" if a == b else "A" if a else "B")
        if shown.word is not None:
            return self.verdict(shown, shown.word in shown.texts["answer"])
        k = int(shown.texts["question"].split("Question ")[1].split(":")[0])
        return self.verdict(shown, "Bern" in shown.texts["answer"] or k in self.lenient)

    def verdict(self, shown: prompt.Shown, choice: bool | str) -> str:
        if isinstance(choice, bool):
            choice = "pass" if choice else "fail"
        return json.dumps({"check": shown.check, "reason": "seen", "verdict": choice})


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def study_path(tmp_path: Path) -> Path:
    items = [
        {
            "id": f"i{k}",
            "messages": [{"role": "user", "content": question(k)}],
            "target": RIGHT,
        }
        for k in range(N)
    ]
    write_jsonl(tmp_path / "eval.jsonl", items)
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}]
    write_jsonl(tmp_path / "train.jsonl", [{"messages": turns}])
    path = tmp_path / "study.yaml"
    path.write_text(
        f"""
workload:
  name: judged
  title: Judged study
  tier: public
  eval_set: {{path: {tmp_path}/eval.jsonl}}
  instructions: Answer.
  metrics:
    right: {{metric: rubric, judges: [judge], params: {{rubric: Names the reference.}}}}
    exact: {{metric: exact_match}}
  quality: right
  max_output_tokens: 20
  requirements: {{max_quality_loss: 0.2, max_latency_p95_s: 30}}
  traffic: {{tasks_per_month: 1000}}
  own_costs: {{operations_usd_per_month: 1, source: test}}
prepare: {{train: {{path: {tmp_path}/train.jsonl}}}}
finetune: {{preset: tiny}}
evaluate: {{n_traces: 3}}
incumbent: good
candidates:
  good: {{kind: rent, title: Good, model: good, price: openai/gpt-6-luna}}
  weak: {{kind: rent, title: Weak, model: weak, price: openai/gpt-6-luna}}
judges:
  judge: {{kind: rent, title: Judge, model: judge, price: openai/gpt-6-luna}}
""",
        encoding="utf-8",
    )
    return path


def overrides(server: ThreadedServer, *more: str) -> list[str]:
    models = ("candidates.good", "candidates.weak", "judges.judge")
    return [*(f"{model}.base_url={server.url}/v1" for model in models), *more]


def options(path: Path, uri: str, dry_run: bool = False) -> Options:
    return Options(path, uri, dry_run=dry_run, json=False)


def run(path: Path, uri: str, server: ThreadedServer, *more: str) -> dict[str, EvaluateResult]:
    found = evaluate(load_study(path, overrides(server, *more)), options(path, uri))
    assert isinstance(found, EvaluateResults)
    return found.results


def mean(result: EvaluateResult, metric: str = "right") -> float:
    estimate = result.metrics[metric]
    assert estimate is not None
    return estimate.mean


def labels(path: Path, who: str, n: int = N, wrong: int = 0) -> str:
    """Labels of both models' answers to the first `n` items; `wrong` of them turned round."""
    rows: list[dict[str, Any]] = []
    for k in range(n):
        for answer in sorted({answer_of("good", k), answer_of("weak", k)}):
            label = float(answer == RIGHT)
            if k < wrong:
                label = 1 - label
            rows.append(
                {"id": f"i{k}", "metric": "right", "answer": answer, "label": label,
                 "labelled_by": who}
            )  # fmt: skip
    write_jsonl(path, rows)
    return f"workload.labels={path}"


def test_judged_metrics_are_graded_priced_and_asked_once(
    study_path: Path, store_uri: str, models: Models
) -> None:
    with threaded_server(models) as server:
        found = run(study_path, store_uri, server)
        n_asked = len(models.judged)
        again = run(study_path, store_uri, server, "workload.metrics.right.params.scale=1")
        assert len(models.judged) == n_asked
    assert mean(found["good"]) == 36 / 40
    assert mean(found["weak"]) == 20 / 40
    assert again["good"].metrics["right"] == found["good"].metrics["right"]
    assert found["good"].judge_usd is not None
    assert found["good"].judge_usd > 0
    assert not found["good"].simulated
    assert not found["good"].simulated_metrics


def test_looks_save_the_judges_calls_too(study_path: Path, store_uri: str, models: Models) -> None:
    with threaded_server(models) as server:
        found = run(study_path, store_uri, server, "evaluate.looks=2")
    weak = found["weak"]
    assert weak.looks is not None
    # 20 of 40 are right instead of 36: half of the items show that 20 points are out of reach.
    assert (weak.looks.stopped, weak.looks.items_asked, weak.n_total) == ("futile", 20, 20)
    assert len(models.judged) == N + 20
    estimate = weak.metrics["right"]
    assert estimate is not None
    assert (estimate.n_scored, estimate.n_total) == (20, 20)


def test_a_pairwise_judge_compares_with_the_incumbents_answers(
    study_path: Path, store_uri: str, models: Models
) -> None:
    spec = "{metric: pairwise, judges: [judge, second], params: {rubric: x}}"
    better = f"workload.metrics.better={spec}"
    with threaded_server(models) as server:
        judge = f"model: judge, price: openai/gpt-6-luna, base_url: {server.url}/v1"
        second = f"judges.second={{kind: rent, title: Second, {judge}}}"
        found = run(study_path, store_uri, server, second, better)
    assert mean(found["good"], "better") == 0.5  # against itself
    # 20 items both are right, 16 the incumbent alone, 4 both are wrong in the same words.
    assert mean(found["weak"], "better") == pytest.approx((20 * 0.5 + 16 * 0 + 4 * 0.5) / 40)


def test_a_judge_that_fails_leaves_items_unscored_and_is_asked_again(
    study_path: Path, store_uri: str, models: Models, capsys: pytest.CaptureFixture[str]
) -> None:
    models.judge_is_down = True
    with threaded_server(models) as server:
        found = run(study_path, store_uri, server)
        assert found["good"].metrics["right"] is None
        assert mean(found["good"], "exact") == 36 / 40
        assert "judge: good: 40 verdicts are missing: 40 x " in capsys.readouterr().err
        models.judge_is_down = False
        n_before = server.n_requests
        again = run(study_path, store_uri, server)
        assert server.n_requests - n_before == len(models.judged)  # no answer was asked for twice
    assert mean(again["good"]) == 36 / 40


def test_the_budget_counts_the_judges(study_path: Path, store_uri: str, models: Models) -> None:
    with threaded_server(models) as server:
        # The answers cost about $0.0001; the judge's prompts are ten times as long.
        with pytest.raises(BudgetReached, match="budget_usd is reached"):
            run(study_path, store_uri, server, "evaluate.budget_usd=0.002")
        assert 0 < len(models.judged) < 2 * N
        found = run(study_path, store_uri, server, "evaluate.budget_usd=10")
    assert mean(found["good"]) == 36 / 40


def test_a_judge_that_was_never_measured_decides_nothing(
    study_path: Path, store_uri: str, models: Models, tmp_path: Path
) -> None:
    with threaded_server(models) as server:
        study = load_study(study_path, overrides(server))
        decision = decide(study, options(study_path, store_uri))
        assert isinstance(decision, Decision)
        assert (decision.verdict, decision.chosen) == ("insufficient", None)
        assert "never against human labels" in decision.reasons[0]
        # It is marked, and says what it would be by the judge's word alone.
        assert "never against human labels" in (decision.unverified or "")
        assert decision.would_be is not None
        assert f"it would be {decision.would_be[0]}" in decision.headline
        # Labels by construction show a broken judge; they are no humans.
        constructed = overrides(server, labels(tmp_path / "l.jsonl", "construction"))
        study = load_study(study_path, constructed)
        calibrate(study, options(study_path, store_uri), "labels")
        decision = decide(study, options(study_path, store_uri))
        assert isinstance(decision, Decision)
        assert "only against constructed answers" in decision.reasons[0]


def test_a_judge_that_agrees_with_humans_decides(
    study_path: Path, store_uri: str, models: Models, tmp_path: Path
) -> None:
    with threaded_server(models) as server:
        study = load_study(study_path, overrides(server, labels(tmp_path / "l.jsonl", "jane")))
        measured = calibrate(study, options(study_path, store_uri), "labels")
        assert isinstance(measured, Calibration)
        [figures] = measured.figures
        # 20 items with one distinct answer for both models' right ones, 16 with two, 4 wrong.
        assert (figures.labels, figures.n_labels) == ("human", 56)
        assert figures.kappa is not None
        assert figures.kappa.value == pytest.approx(1.0)
        decision = decide(study, options(study_path, store_uri))
    assert isinstance(decision, Decision)
    assert (decision.verdict, decision.chosen) == ("rent", "good")
    assert decision.candidates["weak"].comparison == "inferior"


def test_a_judge_that_agrees_too_little_is_refused(
    study_path: Path, store_uri: str, models: Models, tmp_path: Path
) -> None:
    with threaded_server(models) as server:
        given = labels(tmp_path / "l.jsonl", "jane", wrong=20)
        study = load_study(study_path, overrides(server, given))
        calibrate(study, options(study_path, store_uri), "labels")
        decision = decide(study, options(study_path, store_uri))
    assert isinstance(decision, Decision)
    assert decision.verdict == "insufficient"
    assert "agrees too little with humans" in decision.reasons[0]


def test_human_labels_correct_a_lenient_judge(
    study_path: Path, store_uri: str, models: Models, tmp_path: Path
) -> None:
    models.lenient = set(range(36, 40))  # the judge passes every answer of `good`
    with threaded_server(models) as server:
        found = run(study_path, store_uri, server, labels(tmp_path / "l.jsonl", "jane"))
    good = found["good"]
    assert good.judged["right"] is not None
    assert good.judged["right"].mean == 1.0
    # All 40 answers are labelled: the corrected mean is that of the labels.
    assert mean(good) == pytest.approx(36 / 40)


def test_labels_given_in_the_mlflow_ui_count(
    study_path: Path, store_uri: str, models: Models
) -> None:
    import mlflow
    from mlflow.entities import AssessmentSource

    with threaded_server(models) as server:
        run(study_path, store_uri, server)
        experiment = mlflow.get_experiment_by_name("judged")  # pyright: ignore[reportPrivateImportUsage]
        assert experiment is not None
        traces: Any = mlflow.search_traces(locations=[experiment.experiment_id], return_type="list")
        assert len(traces) == 2 * 3
        assert {t.info.tags["candidate"] for t in traces} == {"good", "weak"}
        first = traces[0]
        assert first.info.token_usage["output_tokens"] > 0
        assert {a.name for a in first.info.assessments} == {"target", "right", "exact"}
        for trace in traces:
            mlflow.log_feedback(
                trace_id=trace.info.trace_id, name="right", value=True,
                source=AssessmentSource("HUMAN", "jane"),
            )  # fmt: skip
        study = load_study(study_path, overrides(server))
        measured = calibrate(study, options(study_path, store_uri), "labels")
        assert isinstance(measured, Calibration)
        [figures] = measured.figures
        assert (figures.labels, figures.n_labels) == ("human", 3)
        mlflow.log_feedback(
            trace_id=traces[0].info.trace_id, name="right", value=7,
            source=AssessmentSource("HUMAN", "joe"),
        )  # fmt: skip
        with pytest.raises(DataError, match=r"trace .*right is 7; give yes or no"):
            calibrate(study, options(study_path, store_uri), "labels")


def test_what_cannot_be_measured_is_said(
    study_path: Path, store_uri: str, models: Models, tmp_path: Path
) -> None:
    with threaded_server(models) as server:
        study = load_study(study_path, overrides(server))
        with pytest.raises(ConfigError, match="there are no labels to measure the judges against"):
            calibrate(study, options(study_path, store_uri), "labels")
        path = tmp_path / "bad.jsonl"
        row = {"id": "i0", "metric": "exact", "answer": "a", "label": 1, "labelled_by": "jane"}
        write_jsonl(path, [row, {**row, "id": "x", "metric": "right"}])
        study = load_study(study_path, overrides(server, f"workload.labels={path}"))
        with pytest.raises(DataError, match=r"'exact' is no judged metric[\s\S]*'x' is no item"):
            calibrate(study, options(study_path, store_uri), "labels")


def test_a_dry_run_prices_candidates_and_judges_and_asks_nothing(
    study_path: Path, store_uri: str, models: Models
) -> None:
    with threaded_server(models) as server:
        study = load_study(study_path, overrides(server))
        plan = evaluate(study, options(study_path, store_uri, dry_run=True))
        assert server.n_requests == 0
    assert isinstance(plan, Plan)
    lines = {line.stage: line for line in plan.stages}
    for name in ("evaluate good", "judge good: judge"):
        line = lines[name]
        assert line.calls == N
        assert line.usd_low is not None
        assert line.usd is not None
        assert line.usd_high is not None
        assert 0 < line.usd_low < line.usd < line.usd_high
    # "Answer." and "Question 10: what is the capital?" have 7 + 34 characters (33 with one digit),
    # "the capital is Bern" 19: 41 / 4 + 2 x 8 marks + 19 / 4, each rounded to whole tokens.
    assert lines["evaluate good"].tokens == N * (10 + 16 + 5)
    assert lines["judge good: judge"].usd > lines["evaluate good"].usd  # pyright: ignore[reportOperatorIssue]


def test_the_prompt_debt_is_what_the_incumbents_prompt_costs(
    study_path: Path, store_uri: str, models: Models
) -> None:
    models.needs_prompt = "Name the capital."
    with threaded_server(models) as server:
        study = load_study(
            study_path,
            overrides(
                server,
                "incumbent=weak",
                "workload.quality=exact",
                "candidates.good.instructions=Name the capital.",
                "evaluate.prompt_debt=[good]",
            ),
        )
        decision = decide(study, options(study_path, store_uri))
    assert isinstance(decision, Decision)
    control = decision.candidates["good-incumbent-prompt"]
    assert control.control_difference is not None
    # With the incumbent's prompt `good` is never right, with its own on 36 of 40 items.
    assert control.control_difference.mean == pytest.approx(-36 / 40)
    [debt] = [reason for reason in decision.reasons if reason.startswith("Prompt debt: ")]
    assert "-90.0 points" in debt
    assert control.excluded_because == "it is only a control of good"
