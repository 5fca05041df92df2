"""Looks: only at whole prefixes of a fixed order, never too often wrong, the same after a kill."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from pipelines.core.command import Options
from pipelines.core.config import load_study
from pipelines.core.errors import BudgetReached, ConfigError
from pipelines.core.paths import ROOT
from pipelines.core.records import Example, Message
from pipelines.core.results import EvaluateResult, EvaluateResults, LooksResult, Plan
from pipelines.evaluate import evaluate, show
from pipelines.evaluation import looks
from pipelines.statistics import sequential
from pipelines.statistics.non_inferiority import score_p_values
from tests.conftest import ThreadedServer, threaded_server, write_jsonl

N = 100


def items(n: int, group_of: Callable[[int], str | None] = lambda _: None) -> list[Example]:
    return [
        Example(
            id=f"i{k}",
            messages=(Message(role="user", content=f"q{k}"),),
            target=f"a{k}",
            group=group_of(k),
        )
        for k in range(n)
    ]


def test_the_order_is_fixed_and_random_and_keeps_groups_whole() -> None:
    given = items(300, lambda k: f"g{k % 20}" if k < 200 else None)
    found = looks.ordered(given)
    shuffled = random.Random(1).sample(given, len(given))
    assert [e.group or e.id for e in looks.ordered(shuffled)] == [e.group or e.id for e in found]
    assert sorted(e.id for e in found) == sorted(e.id for e in given)
    units = [e.group or e.id for e in found]
    assert sum(a != b for a, b in itertools.pairwise(units)) == 20 + 100 - 1
    # Were it sorted by anything in the set, the single items would not lie on both sides.
    half = sum(e.group is None for e in found[:150])
    assert 25 < half < 75


def test_looks_are_equally_spaced_and_wait_for_the_end_of_a_group() -> None:
    plain = looks.schedule(items(N), 5, 0.1)
    assert plain.ends == (20, 40, 60, 80, 100)
    assert plain.design.efficacy == pytest.approx(sequential.plan(5).efficacy)
    assert plain.design.futility == pytest.approx(sequential.plan(5).futility)
    eights = looks.schedule(items(N, lambda k: f"g{k // 8}"), 5, 0.1)
    assert eights.ends == (24, 40, 64, 80, 100)
    assert eights.design.fractions == pytest.approx((0.24, 0.4, 0.64, 0.8, 1))
    spent = sequential.crossings(eights.design, 0.0, obey_futility=False).efficacy.sum()
    assert spent == pytest.approx(0.05)
    # A conversation of 35 turns takes the look at 40 with it; one from 66 on, that at 80.
    assert looks.schedule(items(N, lambda k: "g" if k < 35 else None), 5, 0.1).ends == (
        35, 60, 80, 100,
    )  # fmt: skip
    assert looks.schedule(items(N, lambda k: "g" if k > 65 else None), 5, 0.1).ends == (
        20, 40, 60, 100,
    )  # fmt: skip
    assert looks.schedule(items(N, lambda _: "g"), 5, 0.1).ends == (100,)


@pytest.mark.parametrize(
    ("look", "p_value", "expected"),
    [  # z of the default plan: 4.2292, 2.8881, ...; for futility -1.4321, -0.0283, ...
        (1, 1.1e-5, "non-inferior"),
        (1, 1.3e-5, None),
        (1, 0.92, None),
        (1, 0.93, "futile"),
        (2, 0.0019, "non-inferior"),
        (2, 0.0021, None),
        (2, 0.52, "futile"),
        (4, 0.0248, "non-inferior"),
        (4, None, None),
        (5, 0.9, "all asked"),
        (5, None, "all asked"),
    ],
)
def test_each_look_has_its_own_bounds(look: int, p_value: float | None, expected: str) -> None:
    assert looks.stop(sequential.plan(5), look, p_value) == expected


def test_a_look_sees_its_prefix_and_what_both_have_a_score_for() -> None:
    given = items(N)
    plan = looks.schedule(given, 5, 0.1)
    theirs: dict[str, float | None] = {e.id: 1.0 for e in given}
    ours: dict[str, float | None] = {e.id: 1.0 for e in given[:60]}
    # No item differs: p = 0.9^n, against the levels 0.0000117, 0.00194 and 0.0108.
    second, third = (looks.take(plan, k, given, ours, theirs) for k in (2, 3))
    assert second.comparison.p_value == pytest.approx(0.9**40)
    assert (second.stopped, third.stopped) == (None, "non-inferior")
    assert third.comparison.p_value == pytest.approx(0.9**60)
    assert looks.take(plan, 3, given, ours | dict.fromkeys(("i70", "i80"), 0.0), theirs) == third
    fewer = looks.take(plan, 3, given, ours | {"i3": None}, theirs | {"i4": None})
    assert fewer.comparison.n == 58
    nothing = looks.take(plan, 1, given, {}, theirs)
    assert (nothing.comparison.n, nothing.stopped) == (0, None)
    assert "too few" in nothing.comparison.reason
    grouped = [e.model_copy(update={"group": f"g{k // 2}"}) for k, e in enumerate(given)]
    assert looks.take(plan, 3, grouped, ours, theirs).comparison.n_groups == 30


@pytest.mark.parametrize(("margin", "p_won", "p_lost"), [(0.05, 0.05, 0.10), (0.1, 0.1, 0.2)])
def test_a_candidate_at_the_margin_is_rarely_accepted(
    margin: float, p_won: float, p_lost: float
) -> None:
    n, n_studies = 500, 3000
    draw = np.random.default_rng(7).random((n_studies, n))
    won, lost = draw < p_won, draw > 1 - p_lost
    plan = looks.schedule(items(n), 5, margin)
    ends = np.array(plan.ends)
    n_won, n_lost = won.cumsum(1)[:, ends - 1], lost.cumsum(1)[:, ends - 1]
    p = score_p_values(n_won, n_lost, ends, margin)
    n_accepted = n_asked = 0
    for row in p.tolist():
        for look, p_value in enumerate(row, 1):
            if why := looks.stop(plan.design, look, p_value):
                n_accepted += p_value < plan.design.levels[look - 1]
                n_asked += plan.ends[look - 1]
                assert (why == "non-inferior") <= (p_value < 0.05)
                break
    error = math.sqrt(0.05 * 0.95 / n_studies)
    assert n_accepted / n_studies < 0.05 + 2 * error
    in_spite = (p < np.array(plan.design.levels)).any(1).mean()
    assert in_spite < 0.05 + 2 * error, "whoever goes on in spite of futility makes no more errors"
    assert (p < 0.05).any(1).mean() > 0.05 + 10 * error, "the usual test at each look would not do"
    # Who is as bad as the margin is mostly stopped for futility: about half of the way.
    assert n_asked / n_studies < 0.6 * n
    # The same through the comparison of scores, item by item.
    given = items(n)
    for study in range(5):
        ours = {e.id: float(not lost[study, k]) for k, e in enumerate(given)}
        theirs = {e.id: float(not won[study, k]) for k, e in enumerate(given)}
        for look in range(1, 6):
            found = looks.take(plan, look, given, ours, theirs)
            assert found.comparison.p_value == pytest.approx(p[study, look - 1])
            assert found.stopped == looks.stop(plan.design, look, p[study, look - 1])


class Models:
    """Answers by model; notes when each question came and when it was answered."""

    def __init__(self) -> None:
        self.began: dict[str, dict[int, list[float]]] = {}
        self.ended: dict[str, dict[int, float]] = {}
        self.slow_s = 0.0
        self.failing: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, body: dict[str, Any]) -> str:
        model, question = body["model"], body["messages"][-1]["content"]
        k = int(question[1:])
        with self._lock:
            times = self.began.setdefault(model, {}).setdefault(k, [])
            times.append(time.monotonic())
        right = {
            "now": k % 10 != 9,
            "twin": k % 10 != 9,
            "poor": k % 10 == 9,
            "even": k % 10 != 0,
            "slow": k % 10 != 0,
        }[model]
        if f"{model} {k}" in self.failing:
            raise ConnectionError("no")
        if model == "slow":
            time.sleep(self.slow_s if right else 5 * self.slow_s)
        with self._lock:
            self.ended.setdefault(model, {})[k] = time.monotonic()
        return f"a{k}" if right else "wrong"

    def n_asked(self, model: str) -> int:
        return sum(len(times) for times in self.began.get(model, {}).values())


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def study_path(tmp_path: Path) -> Path:
    rows = [
        {"id": e.id, "messages": [{"role": "user", "content": f"q{k}"}], "target": e.target}
        for k, e in enumerate(items(N))
    ]
    write_jsonl(tmp_path / "eval.jsonl", rows)
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}]
    write_jsonl(tmp_path / "train.jsonl", [{"messages": turns}])
    path = tmp_path / "study.yaml"
    rented = "kind: rent, provider: openai_compatible, price: openai/gpt-6-luna"
    candidates = "\n".join(
        f"  {name}: {{{rented}, title: {name}, model: {name}}}"
        for name in ("now", "twin", "poor", "even", "slow")
    )
    path.write_text(f"""
workload:
  name: looked-at
  title: Looked at
  tier: public
  eval_set: {{path: {tmp_path}/eval.jsonl}}
  instructions: ""
  metrics: {{accuracy: {{metric: exact_match}}}}
  quality: accuracy
  max_output_tokens: 4
  requirements: {{max_quality_loss: 0.1, max_latency_p95_s: 5}}
  traffic: {{tasks_per_month: 1000}}
  own_costs: {{operations_usd_per_month: 1, source: test}}
prepare: {{train: {{path: {tmp_path}/train.jsonl}}}}
finetune: {{preset: tiny}}
evaluate: {{looks: 5, n_traces: 2}}
incumbent: now
candidates:
{candidates}
""")
    return path


def overrides(server: ThreadedServer, names: str, *more: str) -> list[str]:
    urls = [f"candidates.{name}.base_url={server.url}/v1" for name in names.split()]
    return [*urls, f"candidates=[{', '.join(names.split())}]", *more]


def run(
    path: Path, uri: str, server: ThreadedServer, names: str, *more: str
) -> dict[str, EvaluateResult]:
    study = load_study(path, overrides(server, names, *more))
    found = evaluate(study, Options(path, uri, dry_run=False, json=False))
    assert isinstance(found, EvaluateResults)
    return found.results


def looked(result: EvaluateResult) -> LooksResult:
    assert result.looks is not None
    return result.looks


def test_who_is_as_good_or_far_worse_is_stopped_early(
    study_path: Path, store_uri: str, models: Models, capsys: pytest.CaptureFixture[str]
) -> None:
    with threaded_server(models) as server:
        found = run(study_path, store_uri, server, "now twin poor")
    assert [models.n_asked(name) for name in ("now", "twin", "poor")] == [100, 60, 20]
    assert found["now"].looks is None
    twin, poor = looked(found["twin"]), looked(found["poor"])
    # Where no item differs, p = 0.9^n: 0.0018 after 60 items is below the third level, 0.0108.
    assert (twin.stopped, twin.looks_planned, twin.looks_done) == ("non-inferior", 5, 3)
    assert (twin.items_planned, twin.items_asked) == (100, 60)
    assert twin.level == pytest.approx(0.010778, abs=1e-5)
    assert twin.mean == 0
    assert twin.low == pytest.approx(-(1 - 0.010778 ** (1 / 60)), abs=1e-5)
    assert twin.share_saved == pytest.approx(0.4)
    assert (poor.stopped, poor.looks_done, poor.items_asked) == ("futile", 1, 20)
    quality = found["twin"].metrics["accuracy"]
    assert quality is not None
    assert (found["twin"].n_total, quality.n_total, quality.coverage) == (60, 60, 1.0)
    said = capsys.readouterr().err
    assert "evaluate: twin: stopped at look 3 of 5, shown to be at most 10.0 points worse" in said
    shown = show(EvaluateResults(results=found, prepare_run_id="p"))
    assert "poor: stopped at look 1 of 5, too unlikely to be shown" in shown
    assert "20 of 100 items were asked, 80.0% of the calls saved" in shown
    metrics = mlflow.get_run(found["poor"].run_id).data.metrics
    assert (metrics["looks_done"], metrics["share_saved"]) == (1, pytest.approx(0.8))


def test_slow_wrong_answers_do_not_come_too_late_for_a_look(
    study_path: Path, store_uri: str, models: Models
) -> None:
    models.slow_s = 0.01
    with threaded_server(models) as server:
        found = run(study_path, store_uri, server, "now even slow")
    slow = looked(found["slow"])
    assert slow.looks_done >= 2
    assert slow == looked(found["even"]), "the same answers, given at once"
    places = {int(e.id[1:]): place for place, e in enumerate(looks.ordered(items(N)))}
    began = {places[k]: times for k, times in models.began["slow"].items()}
    ended = {places[k]: at for k, at in models.ended["slow"].items()}
    assert sorted(began) == list(range(slow.items_asked))
    for end in range(20, slow.items_asked, 20):
        before = max(at for place, at in ended.items() if place < end)
        after = min(times[0] for place, times in began.items() if place >= end)
        assert before < after, f"asked beyond {end} before all of the prefix was answered"


def test_after_a_kill_the_looks_are_the_same_and_nothing_is_asked_twice(
    study_path: Path, store_uri: str, models: Models
) -> None:
    models.slow_s = 0.1
    more = ("evaluate.concurrency=4",)
    with threaded_server(models) as server:
        words = [sys.executable, "-m", "pipelines.evaluate", str(study_path)]
        words += ["--tracking-uri", store_uri]
        for each in overrides(server, "now slow", *more):
            words += ["--set", each]
        cut = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while models.n_asked("slow") < 30 and cut.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        cut.kill()
        cut.wait()
        n_before = models.n_asked("slow")
        assert n_before >= 30, "it was to be killed after the first look"
        models.slow_s = 0.0
        found = run(study_path, store_uri, server, "now even slow", *more)
        n_all = models.n_asked("slow")
        again = run(study_path, store_uri, server, "now even slow", *more)
    slow = looked(found["slow"])
    assert slow == looked(found["even"])
    assert slow.looks_done >= 2
    assert n_before < slow.items_asked, "it was to be killed on the way"
    assert slow.items_asked <= n_all <= slow.items_asked + 4, "only what was in flight is repeated"
    assert models.n_asked("now") == N
    assert again == found
    assert models.n_asked("slow") == n_all


def test_a_failed_call_lowers_the_coverage_and_is_made_up_for(
    study_path: Path, store_uri: str, models: Models
) -> None:
    first = looks.ordered(items(N))[3].id[1:]
    models.failing = {f"twin {first}"}
    with threaded_server(models) as server:
        found = run(study_path, store_uri, server, "now twin")
        quality = found["twin"].metrics["accuracy"]
        assert quality is not None
        # 0.9^59 = 0.0020 is still below the level of the third look.
        assert looked(found["twin"]).looks_done == 3
        assert (quality.n_scored, quality.n_total, found["twin"].n_errors) == (59, 60, 1)
        models.failing = set()
        n_before = models.n_asked("twin")
        again = run(study_path, store_uri, server, "now twin")
    assert models.n_asked("twin") == n_before + 1
    assert again["twin"].n_errors == 0
    assert looked(again["twin"]).items_asked == 60


def test_without_looks_everything_is_as_it_was(
    study_path: Path, store_uri: str, models: Models
) -> None:
    with threaded_server(models) as server:
        whole = run(study_path, store_uri, server, "now twin", "evaluate.looks=1")
        rows = mlflow.artifacts.load_text(f"runs:/{whole['twin'].run_id}/responses.jsonl")  # pyright: ignore[reportPrivateImportUsage]
        ids = [line.split('"example_id":"')[1].split('"')[0] for line in rows.splitlines()]
        assert ids == [e.id for e in items(N)]
        config = mlflow.artifacts.load_dict(f"runs:/{whole['twin'].run_id}/config.json")  # pyright: ignore[reportPrivateImportUsage]
        assert set(config) == {
            "freehold_version", "stage", "workload", "candidate", "asked", "title", "eval_sha256",
            "metrics", "quality", "grading", "n_samples", "n_traces", "traffic", "price", "terms",
        }  # fmt: skip
        assert whole["twin"].looks is None
        metrics = mlflow.get_run(whole["twin"].run_id).data.metrics
        assert not {"looks_done", "share_saved"} & set(metrics)
        n_before = server.n_requests
        found = run(study_path, store_uri, server, "now twin")
        assert server.n_requests == n_before, "the answers are those in the journal"
        again = run(study_path, store_uri, server, "now twin", "evaluate.looks=1")
    assert found["now"].run_id == whole["now"].run_id
    assert looked(found["twin"]).items_asked == 60
    assert again == whole


def test_the_budget_is_no_stop_and_no_look(
    study_path: Path, store_uri: str, models: Models
) -> None:
    with threaded_server(models) as server:
        whole = run(study_path, store_uri, server, "now even", "evaluate.looks=1")
        assert whole["now"].spent_usd is not None
        limit = f"evaluate.budget_usd={whole['now'].spent_usd * Decimal('2.5')}"
        with pytest.raises(BudgetReached):
            run(study_path, store_uri, server, "now poor even", limit)
        assert 0 < models.n_asked("poor") < 20
        found = run(study_path, store_uri, server, "now poor even")
    assert looked(found["poor"]).stopped == "futile"
    assert models.n_asked("poor") == 20, "nothing is bought twice"
    # All of its answers were there; the budget that another one reached kept it from its looks.
    assert looked(found["even"]).stopped != "budget"


def test_a_dry_run_forecasts_all_items_and_says_what_may_be_saved(
    study_path: Path, store_uri: str, models: Models
) -> None:
    with threaded_server(models) as server:
        study = load_study(study_path, overrides(server, "now twin"))
        plan = evaluate(study, Options(study_path, store_uri, dry_run=True, json=False))
        assert server.n_requests == 0
    assert isinstance(plan, Plan)
    lines = {line.stage: line for line in plan.stages}
    assert lines["evaluate twin"].calls == N
    assert "5 looks may save up to 80%" in lines["evaluate twin"].note
    assert "looks" not in lines["evaluate now"].note


def test_looks_are_one_to_five(study_path: Path) -> None:
    for n_looks in (0, 6):
        with pytest.raises(ConfigError, match=r"evaluate\.looks"):
            load_study(study_path, [f"evaluate.looks={n_looks}"])


def test_controls_and_recorded_answers_run_whole(study_path: Path) -> None:
    recorded = "candidates.poor.recorded=answers.jsonl"
    study = load_study(study_path, ["evaluate.prompt_debt=[twin]", recorded])
    stopped = {name for name in study.candidates if looks.applies(study, name)}
    assert stopped == {"twin", "even", "slow"}
    assert "twin-incumbent-prompt" in study.candidates
