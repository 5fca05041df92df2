"""Cascades by hand, by simulation where the truth is known, and on recorded answers."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from pydantic import ValidationError

from pipelines.economics.cascade import Cascade, Stakes, _folds, evaluate
from pipelines.statistics.intervals import tango, wilson

# Ten items where the first model is sure and both are right, ten where it is unsure and wrong and
# the second is right on eight: alone they reach 0.5 and 0.9.
FIRST = [1.0] * 10 + [0.0] * 10
SECOND = [1.0] * 18 + [0.0] * 2
SURE = [0.9] * 10 + [0.2] * 10


def twenty(confidence: Sequence[float] = SURE, **stakes: float) -> Cascade:
    """An error costs $1 unless `stakes` says otherwise."""
    return evaluate(
        FIRST,
        SECOND,
        confidence,
        first_usd=0.01,
        second_usd=0.1,
        stakes=Stakes.model_validate({"usd_per_error": 1, "tasks_per_month": 10_000} | stakes),
    )


def best_alone(found: Cascade) -> float:
    return min(found.first.loss_usd_per_task, found.second.loss_usd_per_task)


def test_a_cascade_by_hand() -> None:
    # With two levels every fold finds the same: escalating the unsure gains 0.8 - 0.1 each.
    found = twenty()
    assert found.threshold == 0.9
    assert found.fold_thresholds == (0.9,) * 5
    assert found.served == found.in_sample
    assert found.optimism_usd_per_task == 0
    assert found.served.escalated_share == 0.5
    assert found.served.quality == pytest.approx(0.9)
    assert found.served.usd_per_task == pytest.approx(0.01 + 0.1 / 2)
    assert found.served.usd_per_month == pytest.approx(600)
    assert found.served.loss_usd_per_task == pytest.approx(0.1 + 0.06)
    assert found.first.loss_usd_per_task == pytest.approx(0.5 + 0.01)
    assert found.second.loss_usd_per_task == pytest.approx(0.1 + 0.1)
    assert found.saving_to_first.mean == pytest.approx(0.51 - 0.16)
    assert found.saving_to_second.mean == pytest.approx(0.2 - 0.16)
    assert (found.quality.low, found.quality.high) == pytest.approx(wilson(18, 20))
    # Right and wrong on the same items as the second model.
    assert found.difference.mean == 0
    assert (found.difference.low, found.difference.high) == pytest.approx(tango(0, 0, 20))


def test_the_price_of_running_both_systems_can_turn_it() -> None:
    # $100 a month on 10,000 tasks are $0.01 each, on 1,000 $0.10: 0.17 and 0.26 against 0.20.
    many = twenty(first_usd_per_month=100)
    assert many.served.loss_usd_per_task == pytest.approx(0.17)
    assert many.served.usd_per_month == pytest.approx(700)
    few = twenty(first_usd_per_month=100, tasks_per_month=1000)
    assert few.served.loss_usd_per_task == pytest.approx(0.26)
    assert few.second.loss_usd_per_task == pytest.approx(0.2)
    assert few.saving_to_second.mean == pytest.approx(-0.06)
    assert few.threshold == many.threshold
    # The second system's price is paid by the cascade and by the second model, not by the first.
    dear = twenty(second_usd_per_month=1000)
    assert dear.saving_to_second.mean == pytest.approx(0.04)
    assert dear.first.usd_per_month == pytest.approx(100)
    assert dear.saving_to_first.mean == pytest.approx(0.35 - 0.1)


def test_the_curve_and_what_routers_are_compared_by() -> None:
    # (0, 0.5), (0.5, 0.9), (1, 0.9): half the gap at a quarter, 80 % at 0.4; the area is a
    # triangle of 0.25 and a rectangle of 0.5.
    found = twenty()
    assert [p.escalated_share for p in found.curve] == [0, 0.5, 1]
    assert [p.quality for p in found.curve] == pytest.approx([0.5, 0.9, 0.9])
    assert [p.usd_per_task for p in found.curve] == pytest.approx([0.01, 0.06, 0.11])
    assert found.apgr == pytest.approx(0.75)
    assert found.cpt_50 == pytest.approx(0.25)
    assert found.cpt_80 == pytest.approx(0.4)


def test_a_gap_that_does_not_exist_is_not_recovered() -> None:
    found = evaluate(
        SECOND,
        FIRST,
        SURE,
        first_usd=0,
        second_usd=1,
        stakes=Stakes(usd_per_error=1, tasks_per_month=1),
    )
    assert (found.apgr, found.cpt_50, found.cpt_80) == (None, None, None)
    assert found.threshold == float("-inf")
    assert found.served.escalated_share == 0


def test_unknown_confidence_is_escalated_counted_and_paid_for() -> None:
    # Four of the sure ones say nothing: 14 calls to the second model instead of 10.
    unknown = [float("nan"), float("inf"), float("-inf"), float("nan")]
    found = twenty(confidence=unknown + SURE[4:])
    assert found.n_unknown == 4
    assert found.threshold == 0.9
    assert found.served.escalated_share == pytest.approx(0.7)
    assert found.served.quality == pytest.approx(0.9)
    assert found.served.usd_per_task == pytest.approx(0.01 + 0.07)
    assert [p.escalated_share for p in found.curve] == pytest.approx([0, 0.2, 0.7, 1])
    # Nothing is worth a call, and still the unknown ones are made.
    assert twenty(unknown + SURE[4:], usd_per_error=0).served.escalated_share == 0.2
    # At $0.15 an error the unsure ones gain 8 x 0.15 - 1 = 0.20 and the unknown ones lose 0.40; as
    # those are escalated anyway, they do not count.
    assert twenty(unknown + SURE[4:], usd_per_error=0.15).threshold == 0.9
    nothing = twenty([float("nan")] * 20)
    assert nothing.threshold == float("inf")
    assert nothing.served.escalated_share == 1


def test_errors_that_cost_nothing_or_everything_need_no_threshold() -> None:
    # Ten calls for $1 save eight errors.
    assert twenty(usd_per_error=0.12).threshold == float("-inf")
    assert twenty(usd_per_error=0.13).threshold == 0.9
    assert twenty(usd_per_error=0).threshold == float("-inf")
    assert twenty(usd_per_error=0).served.usd_per_task == pytest.approx(0.01)
    always = evaluate(
        [0.0] * 20,
        [1.0] * 20,
        range(20),
        first_usd=0,
        second_usd=0.1,
        stakes=Stakes(usd_per_error=1, tasks_per_month=1),
    )
    assert always.threshold == float("inf")
    assert always.served.escalated_share == 1
    assert Cascade.model_validate_json(always.model_dump_json()) == always


def test_folds_keep_groups_together_and_are_about_equally_large() -> None:
    groups = [f"g{k % 7}" for k in range(70)] + [None] * 30
    fold = _folds(groups)
    assert [len(set(fold[k:70:7])) for k in range(7)] == [1] * 7
    assert np.bincount(fold).tolist() == [20] * 5
    assert (fold == _folds(groups)).all()
    assert sorted(set(_folds(["a", "b", "b"]).tolist())) == [0, 1]


def test_groups_widen_the_intervals() -> None:
    items: dict[str, Any] = {
        "first": FIRST * 5,
        "second": SECOND * 5,
        "confidence": SURE * 5,
        "first_usd": 0.01,
        "second_usd": 0.1,
        "stakes": Stakes(usd_per_error=1, tasks_per_month=1),
    }
    alone = evaluate(**items)
    tied = evaluate(**items, groups=[str(k % 20) for k in range(100)])
    assert tied.served == alone.served
    assert tied.quality.high - tied.quality.low > 2 * (alone.quality.high - alone.quality.low)
    assert tied.difference.low < alone.difference.low < 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"second": [1.0] * 3}, "second 3, confidence 20"),
        ({"confidence": [1.0] * 19}, "confidence 19"),
        ({"groups": ["a"]}, "groups 1"),
        ({"first": [*FIRST[:19], float("nan")]}, "first: nan at item 19 is not a quality"),
        ({"second": [*SECOND[:19], 1.5]}, "second: 1.5 at item 19"),
        ({"first_usd": -1.0}, "first_usd: -1.0 at item 0 is not an amount of dollars"),
        ({"second_usd": [1.0, 2.0]}, "second_usd has the shape"),
        ({"groups": ["one"] * 20}, "20 items in 1 groups"),
    ],
)
def test_what_does_not_fit_is_named(wrong: dict[str, Any], says: str) -> None:
    items: dict[str, Any] = {
        "first": FIRST,
        "second": SECOND,
        "confidence": SURE,
        "first_usd": 0,
        "second_usd": 0.1,
        "stakes": Stakes(usd_per_error=1, tasks_per_month=1),
    }
    with pytest.raises(ValueError, match=re.escape(says)):
        evaluate(**items | wrong)


def test_stakes_are_amounts() -> None:
    with pytest.raises(ValidationError):
        Stakes(usd_per_error=-1, tasks_per_month=1)
    with pytest.raises(ValidationError):
        Stakes(usd_per_error=1, tasks_per_month=0)


# --- Against the truth: confidence x is uniform, the first model is right with probability x, ---
# --- the second with 0.9, an error costs $1, an escalation $0.10: escalate below x = 0.8. ---

SIMULATED = Stakes(usd_per_error=1, tasks_per_month=1)


def true_loss(threshold: float) -> float:
    """0.1 t + 0.1 t + the integral of 1 - x from t to 1."""
    t = min(max(threshold, 0.0), 1.0)
    return 0.2 * t + (1 - t) ** 2 / 2


def test_cross_fitting_tells_the_loss_and_the_sample_that_was_tuned_on_does_not() -> None:
    rng = np.random.default_rng(0)
    n, repeats = 100, 1000
    rows = []
    for _ in range(repeats):
        x = rng.random(n)
        first = (rng.random(n) < x).astype(float)
        second = (rng.random(n) < 0.9).astype(float)
        found = evaluate(first, second, x, first_usd=0, second_usd=0.1, stakes=SIMULATED)
        # The luck of the sample is the same under any threshold: measured at the best one.
        at_best = np.where(x < 0.8, 1 - second + 0.1, 1 - first).mean()
        luck = at_best - true_loss(0.8)
        rows.append(
            (
                found.served.loss_usd_per_task - luck,
                found.in_sample.loss_usd_per_task - luck,
                true_loss(found.threshold),
                np.mean([true_loss(t) for t in found.fold_thresholds]),
            )
        )
    served, in_sample, deployed, by_folds = np.mean(rows, axis=0)
    # The standard error of both ratios is 0.4 %. The folds learn from 80 items, what is deployed
    # from 100, which makes it better than was measured by half a per cent.
    assert abs(served / by_folds - 1) < 0.01
    assert abs(served / deployed - 1) < 0.01
    assert in_sample / deployed - 1 < -0.08


def test_folds_that_tear_groups_apart_are_too_good_to_be_true() -> None:
    # In each of 20 conversations of ten turns all turns have one confidence and one end; the
    # confidence tells nothing. Over new conversations every threshold has the same quality.
    rng = np.random.default_rng(1)
    torn, kept = [], []
    for _ in range(150):
        first = np.repeat(rng.random(20) < 0.5, 10).astype(float)
        second = np.repeat(rng.random(20) < 0.5, 10).astype(float)
        sure = np.repeat(rng.random(20), 10)
        groups = [str(k // 10) for k in range(200)]
        for found, tied in ((torn, None), (kept, groups)):
            result = evaluate(
                first, second, sure, first_usd=0, second_usd=0, stakes=SIMULATED, groups=tied
            )
            found.append(result.served.loss_usd_per_task)
    # True: 0.5 for any threshold; the standard error of a mean is about 0.01.
    assert np.mean(torn) < 0.42
    assert np.mean(kept) > 0.47


# --- Recorded answers: Mixtral 8x7B first, GPT-4-1106 second, as RouteLLM published them. ---

WEAK, STRONG = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"
USD_PER_TOKEN = {WEAK: (0.6e-6, 0.6e-6), STRONG: (10e-6, 30e-6)}
"""List prices of 2024, in and out."""


class Recorded(NamedTuple):
    first: list[float]
    second: list[float]
    first_usd: list[float]
    second_usd: list[float]
    names: list[str]
    groups: list[str] | None
    rows: list[dict[str, str]]

    def cascade(self, confidence: Sequence[float], usd_per_error: float) -> Cascade:
        return evaluate(
            self.first,
            self.second,
            confidence,
            first_usd=self.first_usd,
            second_usd=self.second_usd,
            stakes=Stakes(usd_per_error=usd_per_error, tasks_per_month=100_000),
            groups=self.groups,
        )

    def by_lot(self, salt: int) -> list[float]:
        """A confidence that knows nothing: a hash of the item's name."""
        return [
            float(int(hashlib.sha256(f"{salt} {name}".encode()).hexdigest()[:12], 16))
            for name in self.names
        ]


def read(public_data: Path, name: str) -> list[dict[str, str]]:
    path = public_data / "routellm" / name
    if not path.is_file():
        pytest.skip("needs the public RouteLLM set: put routellm/ into the folder FREEHOLD_DATA")
    with path.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def dollars(model: str, prompt: int, answer: int) -> float:
    """Of characters, four to a token."""
    tokens_in, tokens_out = USD_PER_TOKEN[model]
    return (prompt * tokens_in + answer * tokens_out) / 4


@pytest.fixture(scope="module")
def gsm8k(public_data: Path) -> Recorded:
    rows = read(public_data, "gsm8k_responses.csv")
    usd = {
        model: [dollars(model, len(r["prompt"]), len(r[f"{model}_response"])) for r in rows]
        for model in (WEAK, STRONG)
    }
    right = {model: [float(r[model] == "True") for r in rows] for model in (WEAK, STRONG)}
    return Recorded(
        right[WEAK], right[STRONG], usd[WEAK], usd[STRONG], [r["prompt"] for r in rows], None, rows
    )


@pytest.fixture(scope="module")
def mmlu(public_data: Path) -> Recorded:
    rows = read(public_data, "mmlu_paired_correct.csv")
    return Recorded(
        [float(r["mixtral_8x7b_correct"]) for r in rows],
        [float(r["gpt4_1106_correct"]) for r in rows],
        [dollars(WEAK, int(r["prompt_chars"]), 1) for r in rows],
        [dollars(STRONG, int(r["prompt_chars"]), 1) for r in rows],
        [f"{r['subject']} {r['item']}" for r in rows],
        [r["subject"] for r in rows],
        rows,
    )


def test_recorded_answers_have_the_published_quality(gsm8k: Recorded, mmlu: Recorded) -> None:
    for found, n, weak, strong in (
        (gsm8k.cascade(gsm8k.by_lot(0), 0.02), 1319, 0.6384, 0.8567),
        (mmlu.cascade(mmlu.by_lot(0), 0.02), 14_042, 0.6808, 0.8058),
    ):
        assert found.n == n
        assert found.first.quality == pytest.approx(weak, abs=5e-5)
        assert found.second.quality == pytest.approx(strong, abs=5e-5)
        assert found.curve[-1].quality == pytest.approx(found.second.quality)
        assert len(found.curve) == 101


def test_a_confidence_that_knows_nothing_gains_nothing(gsm8k: Recorded, mmlu: Recorded) -> None:
    # Escalating by lot recovers of the gap what it escalates of the requests: APGR 0.5, CPT(x) = x.
    # One lot is off by 0.02 on 1,319 items and by 0.01 on 14,042 (standard deviations), so the mean
    # of 20 and of 4 by 0.005. A lot mixes the models and pays both: on average it is no better than
    # the better one, not even where the price of an error ($0.0168; $0.0088) makes them equal.
    for data, lots, prices in (
        (gsm8k, 20, (0.005, 0.0168, 0.05)),
        (mmlu, 4, (0.002, 0.0088, 0.02)),
    ):
        apgr, cpt = [], []
        for usd_per_error in prices:
            gains = []
            for salt in range(lots):
                found = data.cascade(data.by_lot(salt), usd_per_error)
                gains.append(1 - found.served.loss_usd_per_task / best_alone(found))
                apgr.append(found.apgr)
                cpt.append((found.cpt_50, found.cpt_80))
                shown = min(found.saving_to_first.low, found.saving_to_second.low) > 0
                assert not shown
            assert np.mean(gains) <= 0.001
        assert np.mean(apgr) == pytest.approx(0.5, abs=0.015)
        assert np.mean(cpt, axis=0).tolist() == pytest.approx([0.5, 0.8], abs=0.03)


def test_a_confidence_from_the_answer_itself_pays(gsm8k: Recorded) -> None:
    # Mixtral was shown to end with `#### 24`; where it does not, something went wrong, and that is
    # seen without the right answer. At an error of $0.0168 both models alone lose the same;
    # the cascade asks GPT-4 about a tenth of the items and loses less than either, beyond doubt.
    sure = [float("####" in r[f"{WEAK}_response"]) for r in gsm8k.rows]
    found = gsm8k.cascade(sure, 0.0168)
    assert found.first.loss_usd_per_task == pytest.approx(found.second.loss_usd_per_task, rel=0.005)
    assert found.apgr is not None
    assert found.apgr > 0.5 + 4 * 0.02  # 0.02: the spread of lots on as many items
    assert found.served.escalated_share == sure.count(0) / len(sure)
    assert min(found.saving_to_first.low, found.saving_to_second.low) > 0
    assert found.served.loss_usd_per_task < 0.95 * best_alone(found)
    # It is cheaper and worse than GPT-4 alone; where an error costs $0.05, GPT-4 alone is better.
    assert found.difference.high < 0
    assert found.served.usd_per_task < found.second.usd_per_task / 3
    dear = gsm8k.cascade(sure, 0.05)
    assert dear.served.loss_usd_per_task > dear.second.loss_usd_per_task
    # A fixed bill of $500 a month for the first model eats the gain on 100,000 tasks.
    assert found.saving_to_second.mean * 100_000 < 500


def test_a_first_model_that_is_worse_and_dearer_never_pays(public_data: Path) -> None:
    # RouterArena recorded dollars per item: Claude 3 Haiku 0.523 at $0.000176, Gemini 2.0 Flash
    # 0.690 at $0.000047. Whatever is escalated, Haiku was paid on top.
    answers = []
    for model in ("claude-3-haiku-20240307", "gemini-2.0-flash-001"):
        path = public_data / "routerarena" / f"{model}.jsonl"
        if not path.is_file():
            pytest.skip("needs the public RouterArena set in the folder FREEHOLD_DATA names")
        answers.append([json.loads(line) for line in path.read_text("utf-8").splitlines()])
    haiku, flash = answers
    assert [a["global_index"] for a in haiku] == [a["global_index"] for a in flash]
    # Some of their metrics go a little below 0.
    old, new = ([max(0.0, a["evaluation_result"]["score"]) for a in each] for each in answers)
    old_usd, new_usd = (
        [a["evaluation_result"]["inference_cost"] for a in each] for each in answers
    )
    short = [-float(len(a["generated_answer"])) for a in haiku]
    for usd_per_error in (0.0001, 0.01, 1):
        stakes = Stakes(usd_per_error=usd_per_error, tasks_per_month=1000)
        found = evaluate(old, new, short, first_usd=old_usd, second_usd=new_usd, stakes=stakes)
        assert found.second.quality > found.first.quality
        assert found.served.loss_usd_per_task > found.second.loss_usd_per_task
        turned = evaluate(new, old, short, first_usd=new_usd, second_usd=old_usd, stakes=stakes)
        assert turned.apgr is None
        assert turned.served.escalated_share < 0.01
