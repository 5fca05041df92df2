"""The decision rule: every branch on data small enough to be worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pipelines.core.evidence import Corrected, Evidence, Floats
from pipelines.core.ruling import Ruling
from pipelines.economics.rule import rule
from pipelines.economics.rule_quality import p95_bound

NAN = math.nan
Z = 1.6448536 + 0.8416212
"""Quantiles of 95 % and 80 %."""


def paired(both: int, new: int, old: int, neither: int) -> Floats:
    """Scores of the incumbent and of a candidate, from who is right on how many items."""
    patterns = ([1, 1], [0, 1], [1, 0], [0, 0])
    return np.repeat(np.array(patterns, dtype=float), (both, new, old, neither), axis=0)


def evidence(scores: Floats, usd: list[float] | None = None, **fields: Any) -> Evidence:
    """Candidates `old`, `new`, ... with the same dollars for each of their calls."""
    n, k = scores.shape
    return Evidence(
        ("old", "new", "third", "fourth")[:k],
        tuple(f"i{i}" for i in range(n)),
        scores,
        None if usd is None else np.tile(np.array(usd), (n, 1)),
        **fields,
    )


def decide(found: Evidence, margin: float = 0.02, **terms: Any) -> Ruling:
    return rule(found, incumbent="old", margin=margin, **{"n_draws": 2000} | terms)


# 1,000 items: 0.915 and 0.910 right, 25 differ. Margin 0.02: z is about
# (-0.005 + 0.02) / sqrt(0.025 / 1000) = 3, which passes.
NEARLY = paired(900, 10, 15, 75)
# 100 items, 0.90 and 0.90 right, 10 differ. Margin 0.03: z = 0.03 / sqrt(0.1 / 100) = 0.95.
TOO_FEW = paired(85, 5, 5, 5)


# --- R0: coverage, latency, dollars ---


def test_a_candidate_that_was_scored_on_too_few_items_is_out() -> None:
    scores = paired(70, 25, 0, 5)
    scores[:3, 1] = NAN
    row = decide(evidence(scores)).candidates["new"]
    assert (row.n, row.n_paired, row.coverage) == (97, 97, 0.97)
    assert row.excluded_because is not None
    assert "only 97.0% of the items" in row.excluded_because
    assert row.p_value is not None
    assert row.p_adjusted is None
    assert decide(evidence(scores)).verdict == "keep"
    # Two missing of 100 are 98 %: it is in, and better by 25 of 98.
    scores = paired(70, 25, 0, 5)
    scores[:2, 1] = NAN
    assert decide(evidence(scores)).chosen == "new"


def test_without_a_well_measured_incumbent_nothing_is_decided() -> None:
    scores = paired(70, 25, 0, 5)
    scores[:3, 0] = NAN
    found = decide(evidence(scores, [0.01, 0.001]))
    assert (found.verdict, found.chosen) == ("insufficient", None)
    assert "97.0%" in found.headline
    assert "98.0%" in found.headline
    assert decide(evidence(scores), min_coverage=0.97).verdict == "switch"
    nothing = decide(evidence(np.where([True, False], NAN, scores)))
    assert nothing.verdict == "insufficient"
    assert nothing.candidates["new"].difference is None


def test_the_bound_of_a_latency_is_an_order_statistic() -> None:
    # 0.95^59 = 0.0485: the slowest of 59 exceeds the true p95 in 95.15 % of the samples; of 58, in
    # 94.9 %.
    seconds = np.arange(1, 101).astype(np.float64)
    assert p95_bound(seconds[:59]) == (57, 59)
    assert p95_bound(seconds[:58]) == (56, None)
    # Of 100, P(at most 98 below p95) = 1 - 100 0.95^99 0.05 - 0.95^100 = 0.963, P(at most 97) =
    # 0.882: the 99th.
    assert p95_bound(seconds) == (95, 99)
    assert p95_bound(seconds[:0]) == (None, None)


def test_items_that_hang_together_count_for_fewer_latencies() -> None:
    # Each value twice, in one group: 200 items know what 100 do, and 100 what 50 do.
    twice = np.repeat(np.arange(1, 101), 2).astype(np.float64)
    assert p95_bound(twice, np.repeat(np.arange(100), 2)) == (95, 99)
    assert p95_bound(twice[:100], np.repeat(np.arange(50), 2)) == (48, None)
    assert p95_bound(twice, np.zeros(200, dtype=np.int64)) == (95, None)


@pytest.mark.parametrize(
    ("n", "limit", "words"),
    [
        (100, 98.0, "p95 latency up to 99.00 s (limit 98 s)"),
        (58, 98.0, "too few independent items were timed"),
        (0, 98.0, "its latency is not known"),
        (100, 99.0, None),
        (58, None, None),
    ],
)
def test_who_is_not_shown_to_be_fast_enough_is_out(
    n: int, limit: float | None, words: str | None
) -> None:
    seconds = np.full((100, 2), NAN)
    seconds[:n, 1] = np.arange(1, n + 1)
    found = decide(evidence(paired(70, 25, 0, 5), latency_s=seconds), max_latency_p95_s=limit)
    out = found.candidates["new"].excluded_because
    assert (out is None) if words is None else (out is not None and words in out)
    assert found.chosen == ("new" if words is None else "old")
    # The incumbent is never out, but it is said.
    said = [reason for reason in found.reasons if "is not shown to be fast enough" in reason]
    assert len(said) == (limit is not None)


def test_dollars_that_are_not_known_of_one_candidate() -> None:
    scores = np.column_stack([paired(70, 25, 0, 5), paired(70, 25, 0, 5)[:, 1]])
    found = decide(evidence(scores, [0.01, NAN, 0.001]))
    assert found.candidates["new"].excluded_because == "its dollars are not known"
    assert found.chosen == "third"
    # Of the incumbent: then no dollars count, and the first of two equally superior ones is taken.
    found = decide(evidence(scores, [NAN, 0.1, 0.001]))
    assert (found.chosen, found.n_drawn) == ("new", None)
    assert found.candidates["new"].excluded_because is None
    assert any("Nobody said what" in reason for reason in found.reasons)


# --- R2, R3: margins and tests ---


def test_without_dollars_only_a_better_candidate_replaces_the_incumbent() -> None:
    # 20 won, 5 lost: z = 15 / sqrt(25) = 3, one-sided p = 0.00135.
    found = decide(evidence(paired(60, 20, 5, 15)), margin=0.0)
    row = found.candidates["new"]
    assert (found.verdict, found.chosen, row.comparison) == ("switch", "new", "superior")
    assert row.p_value == pytest.approx(0.00135, abs=2e-5)
    assert row.difference is not None
    assert row.difference.mean == pytest.approx(0.15)
    # As good within 2 points, and no more right: it stays, and says what would change that.
    found = decide(evidence(NEARLY))
    assert (found.verdict, found.chosen) == ("keep", "old")
    assert found.candidates["new"].comparison == "non-inferior"
    assert found.flips_when == ("dollars are given: new may be the cheaper choice",)
    assert found.v_star is None
    assert found.plug_in_choice is None
    # More right by 2 of 100, and nothing shown: 12 won, 10 lost.
    found = decide(evidence(paired(60, 12, 10, 18)))
    assert (found.verdict, found.open_questions) == ("insufficient", ("new",))


def test_the_cheapest_of_those_that_pass_wins_without_a_cost_of_errors() -> None:
    found = decide(evidence(NEARLY, [0.01, 0.001]), requests_per_month=1_000_000)
    assert (found.verdict, found.chosen) == ("switch", "new")
    # 1,000,000 x (0.01 - 0.001)
    assert "$9,000 a month" in found.headline
    assert found.candidates["new"].margin == 0.02
    # It falls to 0.001: -90 %. V* = 0.009 / 0.005 = $1.80.
    assert found.flips_when[0] == "the price of old falls by 90%: it then costs as little"
    assert found.v_star is not None
    assert found.v_star.likely == pytest.approx(1.8, rel=0.05)
    assert (found.v_star.dearer, found.v_star.cheaper) == ("old", "new")
    # At the same price the incumbent stays; a dearer one, too.
    assert decide(evidence(NEARLY, [0.01, 0.01])).verdict == "keep"
    dear = decide(evidence(NEARLY, [0.01, 0.015]))
    assert dear.verdict == "keep"
    assert "rises by 50%" in dear.flips_when[0]


def test_the_margin_is_what_the_saving_pays_for() -> None:
    # Saving $0.004. At $0.20 an error it pays for 0.004 / 0.2 = 2 points: as the policy. Per 1,000:
    # 200 x 0.085 + 5 = 22 against 200 x 0.09 + 1 = 19.
    found = decide(evidence(NEARLY, [0.005, 0.001]), margin=0.05, usd_per_error=0.2)
    row, now = found.candidates["new"], found.candidates["old"]
    assert row.margin == pytest.approx(0.02)
    assert row.expected_loss is not None
    assert now.expected_loss is not None
    assert row.expected_loss.mean == pytest.approx(19, abs=0.1)
    assert now.expected_loss.mean == pytest.approx(22, abs=0.1)
    assert (found.verdict, found.chosen, found.plug_in_choice) == ("switch", "new", "new")
    assert "saves $3.0" in found.headline or "saves $2.9" in found.headline
    # At $1: 0.4 points, which 0.5 points lost do not keep. 90 against 91: the incumbent is cheaper.
    found = decide(evidence(NEARLY, [0.005, 0.001]), usd_per_error=1.0)
    assert found.candidates["new"].margin == pytest.approx(0.004)
    assert (found.verdict, found.plug_in_choice) == ("keep", "old")
    # Its price must rise until -0.0105 (the interval's end) x $1 is saved.
    assert any("the price of old rises by" in words for words in found.flips_when)
    # Where errors cost nothing, the policy is what counts.
    assert decide(evidence(NEARLY, [0.005, 0.001]), usd_per_error=0.0).chosen == "new"


def test_a_dearer_candidate_must_be_better_by_what_its_price_demands() -> None:
    # $0.02 more at $1 an error: 2 points. 50 points better on 100 items: superior.
    found = decide(evidence(paired(40, 50, 0, 10), [0.01, 0.03]), usd_per_error=1.0)
    assert found.candidates["new"].margin == pytest.approx(-0.02)
    assert (found.verdict, found.candidates["new"].comparison) == ("switch", "superior")
    # 1 point better on 1,000 items, 10 won, none lost: less than 2 points, and that is shown.
    found = decide(evidence(paired(900, 10, 0, 90), [0.01, 0.03]), usd_per_error=1.0)
    assert (found.verdict, found.candidates["new"].comparison) == ("keep", "inferior")
    assert any("by the 2.0 points that its price demands" in words for words in found.reasons)
    # $2 more a call pays at no quality.
    found = decide(evidence(paired(40, 50, 0, 10), [0.01, 2.01]), usd_per_error=1.0)
    out = found.candidates["new"].excluded_because
    assert out is not None
    assert "no quality would pay for its price: it costs $2.00 a request more" in out


# Third: 0.915 right as `new` is against `old`. Fourth: 30 points worse.
WORSE = np.concatenate([np.zeros(300), np.ones(700)])


def test_the_fixed_sequence_ends_at_the_first_that_fails() -> None:
    old, good = NEARLY.T
    scores = np.column_stack([old, WORSE, good])
    found = decide(evidence(scores, [0.01, 0.005, 0.001]))
    third = found.candidates["third"]
    assert found.correction == "fixed sequence"
    assert found.candidates["new"].comparison == "inferior"
    assert third.p_value is not None
    assert third.p_adjusted is not None
    assert third.p_value < 0.05 <= third.p_adjusted
    assert third.comparison == "inconclusive"
    assert "a dearer candidate before it" in third.reason
    # The incumbent stays only because of that; more items would not help.
    assert (found.verdict, found.open_questions) == ("insufficient", ("third",))
    assert found.required_n == {}
    assert third.settling is not None
    assert "candidate before it" in third.settling.reason
    # The other way round the good one comes first, and passes.
    assert decide(evidence(scores, [0.01, 0.001, 0.005])).chosen == "third"


def test_a_dearer_candidate_does_not_end_the_sequence() -> None:
    old, good = NEARLY.T
    found = decide(evidence(np.column_stack([old, WORSE, good]), [0.01, 0.02, 0.001]))
    assert (found.correction, found.chosen) == ("Holm", "third")
    p, adjusted = (
        [getattr(found.candidates[name], field) for name in ("new", "third")]
        for field in ("p_value", "p_adjusted")
    )
    # Holm of two: twice the smaller, then the larger.
    assert adjusted == pytest.approx([p[0], 2 * p[1]])


def test_among_several_a_gain_must_survive_the_correction() -> None:
    # 18 won, 9 lost of 100: z = 9 / sqrt(27) = 1.73, p = 0.042 alone, 0.125 among three.
    one = paired(60, 18, 9, 13)
    assert decide(evidence(one), margin=0.0).candidates["new"].comparison == "superior"
    three = np.column_stack([one, one[:, 1], one[:, 1]])
    found = decide(evidence(three), margin=0.0)
    assert {row.comparison for row in found.candidates.values()} == {"incumbent", "inconclusive"}
    assert found.candidates["new"].p_adjusted == pytest.approx(3 * 0.0416, abs=0.001)
    # With a margin of 5 points it is shown not to be worse, but not to be better.
    found = decide(evidence(three), margin=0.05)
    assert found.candidates["new"].comparison == "non-inferior"
    assert found.verdict == "keep"


def test_a_slice_that_got_worse_outweighs_a_good_mean() -> None:
    # 2,000 items, on 50 of them 40 lost; elsewhere 60 won and 10 lost.
    scores = np.concatenate([paired(10, 0, 40, 0), paired(1700, 60, 10, 180)])
    rare, other = np.arange(2000) < 50, np.arange(2000) % 2 == 0
    slices = {"rare": rare, "other": other, "none": np.zeros(2000, dtype=bool)}
    found = decide(evidence(scores, [0.01, 0.001], slices=slices))
    row = found.candidates["new"]
    assert row.comparison in ("non-inferior", "superior")
    assert row.slices == ("rare",)
    assert row.excluded_because == "it is worse by more than 2 points in rare"
    assert found.verdict == "keep"
    # A guard of 99 points lets it pass.
    assert decide(evidence(scores, [0.01, 0.001], slices=slices), slice_margin=0.99).chosen == "new"


def test_items_of_a_group_are_not_counted_as_independent() -> None:
    # `NEARLY` on 40 items, each 25 times: alone these are 1,000, in groups 40.
    few = np.repeat(paired(36, 0, 1, 3), 25, axis=0)
    usd = [0.01, 0.001]
    groups = np.repeat(np.arange(40), 25)
    alone = decide(evidence(few, usd), margin=0.05)
    tied = decide(evidence(few, usd, groups=groups), margin=0.05)
    assert (alone.verdict, tied.verdict) == ("switch", "insufficient")
    wide, narrow = (r.candidates["new"].quality for r in (tied, alone))
    assert wide is not None
    assert narrow is not None
    assert wide.low is not None
    assert narrow.low is not None
    assert narrow.mean - narrow.low < (wide.mean - wide.low) / 4


# --- R4: choice, hybrid, words of the kinds ---


def test_words_for_the_kinds_that_are_known() -> None:
    both = evidence(NEARLY, [0.01, 0.001], kinds={"old": "rent", "new": "own"})
    assert decide(both).verdict == "own"
    turned = evidence(NEARLY, [0.001, 0.01], kinds={"old": "rent", "new": "own"})
    assert decide(turned).verdict == "rent"
    assert decide(turned).headline.startswith("Rent: keep old at $1.00 per 1,000 requests")
    baseline = evidence(NEARLY, [0.01, 0.001], kinds={"old": "rent", "new": "baseline"})
    assert decide(baseline).verdict == "own"
    half = decide(evidence(NEARLY, [0.01, 0.001], kinds={"new": "own"}))
    assert half.verdict == "switch"
    assert any("Nobody said which candidates are rented" in words for words in half.reasons)


def test_equal_candidates_leave_the_incumbent_in_place() -> None:
    same = np.repeat(NEARLY[:, :1], 3, axis=1)
    for terms in ({}, {"usd_per_error": 1.0}):
        found = decide(evidence(same, [0.01, 0.01, 0.01]), **terms)
        assert (found.verdict, found.chosen) == ("keep", "old")
    # Chance of being best: a third each. $1 x 0.085 + $0.01 a request.
    found = decide(evidence(same, [0.01, 0.01, 0.01]), usd_per_error=1.0)
    for row in found.candidates.values():
        assert row.probability_best == pytest.approx(1 / 3)
        assert row.expected_loss is not None
        assert row.expected_loss.mean == pytest.approx(95, rel=0.02)
    assert found.plug_in_choice == "old"
    assert found.regret_usd_per_1000 == 0


def test_the_lowest_expected_loss_wins_not_the_lowest_price() -> None:
    # Both are better than the incumbent. $0.1 an error, per 1,000 requests: old 0.5 x 100 + 10
    # = 60; new 0.1 x 100 + 8 = 18; third 0.3 x 100 + 1 = 31.
    scores = np.column_stack(
        [np.arange(1000) < 500, np.arange(1000) < 900, np.arange(1000) < 700]
    ).astype(float)
    found = decide(evidence(scores, [0.01, 0.008, 0.001]), usd_per_error=0.1)
    assert found.chosen == "new"
    losses = [row.expected_loss.mean for row in found.candidates.values() if row.expected_loss]
    assert losses == pytest.approx([60, 18, 31], rel=0.01)
    assert decide(evidence(scores, [0.01, 0.008, 0.001])).chosen == "third"
    # Between new and third: (0.008 - 0.001) / (0.9 - 0.7) = $0.035 an error. Old never pays.
    cheap = decide(evidence(scores, [0.01, 0.008, 0.001]), usd_per_error=0.02)
    assert cheap.chosen == "third"
    for each in (found, cheap):
        assert each.v_star is not None
        assert (each.v_star.dearer, each.v_star.cheaper) == ("new", "third")
        assert each.v_star.likely == pytest.approx(0.035, rel=0.01)
    assert any(w.startswith("an error costs less than $0.03") for w in found.flips_when)
    assert any(w.startswith("an error costs more than $0.03") for w in cheap.flips_when)
    assert found.acceptability[0].usd_per_error == 0
    assert found.acceptability[0].probability_best == {"old": 0, "new": 0, "third": 1}
    assert found.acceptability[-1].probability_best == {"old": 0, "new": 1, "third": 0}


def test_only_the_nearest_changes_are_named() -> None:
    item = np.arange(1000)
    scores = np.column_stack([item < 700, item < 800, item < 900]).astype(float)
    # New pays from 0.019 / 0.1 = $0.19 an error on, third from 0.009 / 0.2 = $0.045.
    found = decide(evidence(scores, [0.001, 0.02, 0.01]), usd_per_error=0.01)
    assert found.verdict == "keep"
    assert found.v_star is not None
    assert (found.v_star.dearer, found.v_star.cheaper) == ("third", "old")
    assert found.v_star.likely == pytest.approx(0.045, rel=0.02)
    # Turned: new is 10 points worse at $0.001, third 20 at $0.005: nobody would accept that.
    found = decide(evidence(scores[:, ::-1], [0.01, 0.001, 0.005]))
    assert found.verdict == "keep"
    saved = [words for words in found.flips_when if "is acceptable" in words]
    assert [words.partition(": ")[2] for words in saved] == ["new saves $9.00 per 1,000 requests"]


def hybrid(sure: Floats, usd_per_error: float = 0.1, margin: float = 0.02, **fields: Any) -> Ruling:
    """1,000 items: the incumbent gets the first 950 right, the cheap one the first 700."""
    right = np.arange(1000)
    scores = np.column_stack([right < 950, right < 700]).astype(float)
    confidence = np.column_stack([np.full(1000, NAN), sure])
    terms = {key: fields.pop(key) for key in ("max_latency_p95_s", "alpha") if key in fields}
    found = evidence(scores, [0.01, 0.001], confidence=confidence, **fields)
    return decide(found, margin, usd_per_error=usd_per_error, **terms)


SURE_WHEN_RIGHT = (np.arange(1000) < 700).astype(float)


def test_a_cascade_that_loses_less_than_both_of_its_models_wins() -> None:
    # Sure exactly where it is right. Per 1,000 requests, $0.1 an error: incumbent 50 x 0.1 + 10
    # = 15; cheap one 300 x 0.1 + 1 = 31; both 50 x 0.1 + 1 + 300 x 0.01 = 9.
    found = hybrid(SURE_WHEN_RIGHT)
    assert (found.verdict, found.chosen) == ("hybrid", "new")
    both = found.cascade
    assert both is not None
    assert both.wins
    assert both.escalated_share == 0.3
    assert both.expected_loss_usd_per_1000 == pytest.approx(9)
    assert both.saving_to_second.mean == pytest.approx(6)
    assert both.saving_to_first.mean == pytest.approx(22)
    assert both.difference.mean == 0
    assert "30.0%" in found.headline
    assert "$6.00 per 1,000 requests" in found.headline
    assert found.candidates["new"].comparison == "inferior"
    assert found.regret_usd_per_1000 is None
    # The cascade is right as often as the incumbent, so that no cost of an error speaks for that;
    # against the cheap one it gains 25 points for 0.3 x $0.01: from $0.012 an error on.
    assert found.flips_when == ("an error costs less than $0.012: new alone loses less",)


def test_a_cascade_without_knowledge_or_with_too_much_loss_does_not_win() -> None:
    lot = np.random.default_rng(1).random(1000)
    found = hybrid(lot)
    assert found.verdict == "keep"
    assert found.cascade is not None
    assert "is not shown to lose less than" in found.cascade.fails_because
    # Sure of 200 wrong answers: 800 right. Per 1,000 requests, $0.03 an error: both 200 x 0.03
    # + 1 + 100 x 0.01 = 8, incumbent 50 x 0.03 + 10 = 11.5, cheap one 300 x 0.03 + 1 = 10. It loses
    # least, and is 15 points worse.
    sure = np.concatenate([np.ones(700), np.zeros(100), np.ones(200)])
    found = hybrid(sure, 0.03)
    assert found.verdict == "keep"
    assert found.cascade is not None
    assert found.cascade.expected_loss_usd_per_1000 == pytest.approx(8)
    assert found.cascade.fails_because == "its quality may be more than 2 points below old"
    # 10 points for 0.1 x $0.01 more; 15 points less for $0.01 - $0.001 - $0.001 saved.
    assert hybrid(sure, 0.03, margin=0.3).flips_when == (
        "an error costs less than $0.01: new alone loses less",
        "an error costs more than $0.0533: old alone loses less",
    )
    # Without the cost of an error there is none.
    found = evidence(NEARLY, [0.01, 0.001], confidence=np.ones((1000, 2)))
    assert decide(found).cascade is None


def test_a_gain_that_may_be_chance_makes_no_cascade() -> None:
    # Unsure of 3 wrong answers alone. Each saves 0.03 - 0.01: 3 x 0.02 / 1000 = 6e-5 a request,
    # standard error 0.02 x sqrt(0.003 / 1000) = 3.5e-5, so that the 95 % interval begins below 0.
    # Against the incumbent the gain is plain: 10 to 11.5 per 1,000 requests.
    sure = np.where((np.arange(1000) >= 700) & (np.arange(1000) < 703), 0.0, 1.0)
    found = hybrid(sure, 0.03, margin=0.3)
    assert (found.verdict, found.chosen) == ("switch", "new")
    assert found.cascade is not None
    assert found.cascade.saving_to_first.mean == pytest.approx(0.06)
    assert found.cascade.fails_because == "it is not shown to lose less than new alone"


def test_a_cascade_waits_for_both_and_answers_to_the_guard() -> None:
    # 30 % of the requests wait 1 + 10 s.
    seconds = np.tile([10.0, 1.0], (1000, 1))
    assert hybrid(SURE_WHEN_RIGHT, latency_s=seconds, max_latency_p95_s=11).verdict == "hybrid"
    found = hybrid(SURE_WHEN_RIGHT, latency_s=seconds, max_latency_p95_s=10.5)
    assert found.cascade is not None
    assert found.cascade.latency_p95_high_s == 11
    assert found.cascade.fails_because == "p95 latency up to 11.00 s (limit 10.5 s)"
    # Items 900 to 949: sure, and wrong where the incumbent is right. 5 points in all, 100 in them.
    sure = np.where((np.arange(1000) >= 900) & (np.arange(1000) < 950), 1.0, SURE_WHEN_RIGHT)
    last = {"last": (np.arange(1000) >= 900) & (np.arange(1000) < 950)}
    assert hybrid(sure, 0.1, margin=0.1).verdict == "hybrid"
    found = hybrid(sure, 0.1, margin=0.1, slices=last)
    assert found.cascade is not None
    assert found.cascade.fails_because == "it is worse by more than the guard allows in last"


def test_several_cascades_and_a_strict_alpha_widen_the_intervals() -> None:
    # 2.5 % are in the 95 % interval already; 0.1 % ask for 3.09 / 1.96 of its width.
    sure = np.concatenate([np.ones(700), np.zeros(100), np.ones(200)])
    usual, strict = (hybrid(sure, 0.03, alpha=alpha).cascade for alpha in (0.05, 0.001))
    assert usual is not None
    assert strict is not None
    for field in ("difference", "saving_to_first", "saving_to_second"):
        one, other = getattr(usual, field), getattr(strict, field)
        assert (other.mean - other.low) / (one.mean - one.low) == pytest.approx(3.0902 / 1.96, 1e-3)


# --- R6: what more items would be worth ---


def test_what_it_takes_to_settle_an_open_question() -> None:
    found = decide(
        evidence(TOO_FEW, [0.01, 0.001]),
        margin=0.03,
        usd_per_error=0.1,
        requests_per_month=1_000_000,
        usd_per_label=0.5,
    )
    assert (found.verdict, found.open_questions) == ("insufficient", ("new",))
    # (1.645 + 0.842)^2 x 0.1 / 0.03^2 = 686.9 items, of which 100 are there; each costs
    # 0.5 + 0.01 + 0.001.
    more = found.candidates["new"].settling
    assert more is not None
    assert more.n_needed == math.ceil(Z**2 * 0.1 / 0.03**2) == 687
    assert found.required_n == {"new": 687}
    assert (more.n_more, more.n_groups) == (587, None)
    assert more.usd == pytest.approx(587 * 0.511)
    assert "687 items" in found.headline
    # EVSI of 587 after 100: the gap is 9e-3 a request (quality is equal), its standard error
    # 0.1 x sqrt(0.1 / 100) = 3.16e-3, of which sqrt(587 / 687) is learned. The 2,000 draws put
    # the gap off by less than 2 %.
    s = 0.1 * math.sqrt(0.1 / 100) * math.sqrt(587 / 687)
    expected = 1e6 * (s * stats.norm.pdf(0.009 / s) - 0.009 * stats.norm.cdf(-0.009 / s))
    assert more.evsi_usd == pytest.approx(expected, rel=0.15)
    # That is a dollar, for who looks better is hardly in doubt. But the incumbent stays until it is
    # proved, which costs $9,000 a month: the $300 are well spent.
    assert more.saving_usd == pytest.approx(9000, rel=0.02)
    assert more.worth_it
    assert any("so they are worth their price" in words for words in found.reasons)
    assert found.plug_in_choice == "new"
    # Keeping the incumbent costs $9 per 1,000 requests until then.
    assert found.regret_usd_per_1000 == pytest.approx(9, rel=0.05)
    # 100 requests a month save $0.90, without the cost of an error the same.
    for terms in ({"usd_per_error": 0.1}, {}):
        few = decide(
            evidence(TOO_FEW, [0.01, 0.001]),
            margin=0.03,
            requests_per_month=100,
            usd_per_label=0.5,
            **terms,
        )
        more = few.candidates["new"].settling
        assert more is not None
        assert more.saving_usd == pytest.approx(0.9, rel=0.02)
        assert more.worth_it is False
        assert (more.evsi_usd is None) == (terms == {})
    # Nobody said what an item costs.
    unknown = decide(evidence(TOO_FEW), margin=0.03).candidates["new"].settling
    assert unknown is not None
    assert (unknown.n_needed, unknown.usd, unknown.worth_it) == (687, None, None)


def test_among_several_each_needs_more_items() -> None:
    # Holm of two: alpha / 2, 1.960 instead of 1.645.
    scores = np.column_stack([TOO_FEW, TOO_FEW[:, 1]])
    found = decide(evidence(scores), margin=0.03)
    assert found.required_n["new"] == math.ceil((1.9599640 + 0.8416212) ** 2 * 0.1 / 0.03**2)


def test_groups_multiply_the_items_and_must_be_new() -> None:
    # Each item five times, in one group: five times the items, as many groups as items alone.
    five = np.repeat(TOO_FEW, 5, axis=0)
    found = decide(evidence(five, groups=np.repeat(np.arange(100), 5)), margin=0.03)
    more = found.candidates["new"].settling
    assert more is not None
    # 5 x 686.9 = 3434.7
    assert (more.n_groups, more.n_needed) == (687, 3435)
    assert any("independent groups" in words for words in found.reasons)


def test_a_margin_that_no_number_of_items_can_prove_is_called_so() -> None:
    # 5 of 100 lost net, margin 3: the interval, about -10 to -0, holds -3.
    found = decide(evidence(paired(85, 2, 7, 6), [0.01, 0.001]), margin=0.03)
    more = found.candidates["new"].settling
    assert found.verdict == "insufficient"
    assert more is not None
    assert more.n_needed is None
    assert more.reason == (
        "no number of items can show it, if the true difference is the observed -5.0 points"
    )
    assert found.required_n == {}
    assert found.headline.endswith(f"{more.reason}.")


def test_where_no_item_differs_the_rule_of_three_plans() -> None:
    # (1 - 0.02)^n < 0.05 from n = 149 on.
    found = decide(evidence(paired(60, 0, 0, 40), [0.01, 0.001]))
    assert found.verdict == "insufficient"
    assert found.required_n == {"new": 149}
    assert 0.98**149 < 0.05 < 0.98**148
    assert decide(evidence(paired(100, 0, 0, 49), [0.01, 0.001])).verdict == "switch"


def test_too_few_independent_items_settle_nothing() -> None:
    found = decide(evidence(paired(10, 0, 5, 0)))
    assert (found.verdict, found.chosen) == ("insufficient", None)
    assert "too few independent units: 15" in found.headline
    row = found.candidates["new"].difference
    assert row is not None
    assert (row.mean, row.low) == (pytest.approx(-1 / 3), None)
    found = decide(evidence(NEARLY, groups=np.zeros(1000, dtype=np.int64)))
    assert found.verdict == "insufficient"


# --- The record, and what is refused ---


def test_the_same_arguments_give_the_same_json_which_reads_back() -> None:
    confidence = np.random.default_rng(3).random((1000, 3))
    scores = np.column_stack([NEARLY, NEARLY[::-1, 1]])
    full = evidence(scores, [0.01, 0.001, 0.002], confidence=confidence, latency_s=confidence)
    terms: dict[str, Any] = {"usd_per_error": 0.1, "requests_per_month": 10}
    one, other = (decide(full, **terms).model_dump_json() for _ in range(2))
    assert one == other
    assert "NaN" not in one
    assert "Infinity" not in one
    assert Ruling.model_validate_json(one).model_dump_json() == one
    assert Ruling.model_validate_json(one).schema_version == 1
    # Another candidate beside them does not change the draws of the rest.
    two = evidence(scores[:, :2], [0.01, 0.001])
    rows = [decide(e, **terms).candidates["new"] for e in (full, two)]
    assert rows[0].expected_loss == rows[1].expected_loss


def test_names_are_passed_on_as_they_are() -> None:
    names = ("{0}%s", "<script>\x1b[31m\n")
    odd = Evidence(names, tuple("i" * (k + 1) for k in range(100)), paired(60, 25, 5, 10))
    found = rule(odd, incumbent=names[0], margin=0.0)
    assert found.chosen == names[1]
    assert names[1] in found.headline
    # Two slices whose names end in what numpy would strip.
    where = np.arange(1000) < 500
    slices = {"a": where, "a\0": ~where}
    found = decide(evidence(NEARLY, slices=slices))
    assert found.candidates["new"].excluded_because is None


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"incumbent": "nobody"}, "incumbent 'nobody' is not among old, new"),
        ({"margin": -0.01}, "margin: -0.01"),
        ({"margin": 1.0}, "margin 1.0 is not in"),
        ({"alpha": 0.5}, "alpha 0.5 is not in"),
        ({"usd_per_error": NAN}, "usd_per_error: nan"),
        ({"usd_per_error": -1.0}, "usd_per_error: -1.0"),
        ({"requests_per_month": 0}, "requests_per_month: 0"),
        ({"min_coverage": 1.1}, "min_coverage: 1.1"),
        ({"slice_margin": -0.1}, "slice_margin: -0.1"),
        ({"max_latency_p95_s": -1.0}, "max_latency_p95_s: -1.0"),
        ({"usd_per_label": math.inf}, "usd_per_label: inf"),
    ],
)
def test_terms_that_make_no_sense_are_refused(terms: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rule(evidence(NEARLY), **{"incumbent": "old", "margin": 0.02} | terms)


def test_evidence_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scores: 1\.5 of 'new' at item 'i0'"):
        decide(evidence(np.array([[1.0, 1.5]])))
    with pytest.raises(ValueError, match=r"usd: -1\.0 of 'old'"):
        decide(evidence(NEARLY, [-1.0, 1.0]))
    with pytest.raises(ValueError, match=r"latency_s are \(3, 2\): 1000 items and 2"):
        decide(evidence(NEARLY, latency_s=np.ones((3, 2))))
    with pytest.raises(ValueError, match="no items"):
        decide(evidence(NEARLY[:0]))
    with pytest.raises(ValueError, match="stands twice: old, old"):
        rule(Evidence(("old", "old"), ("i",), np.ones((1, 2))), incumbent="old", margin=0.0)


# --- what is known beside the items ---


def test_the_incumbent_alone_stays() -> None:
    ruling = decide(evidence(paired(50, 0, 50, 0)[:, :1], [1.0], kinds={"old": "rent"}))
    assert (ruling.verdict, ruling.chosen) == ("rent", "old")


def test_an_incumbent_that_misses_a_requirement_is_no_verdict() -> None:
    found = evidence(NEARLY, [1.0, 2.0], out={"old": "too slow"})
    ruling = decide(found)
    assert (ruling.verdict, ruling.chosen) == ("insufficient", None)
    assert "does not meet the requirements (too slow)" in ruling.headline
    # The cheaper candidate that is good enough does replace it.
    assert decide(evidence(NEARLY, [2.0, 1.0], out={"old": "too slow"})).chosen == "new"


def test_who_is_out_for_another_reason_is_never_chosen() -> None:
    ruling = decide(evidence(NEARLY, [2.0, 1.0], out={"new": "a control"}))
    assert ruling.chosen == "old"
    assert ruling.candidates["new"].excluded_because == "a control"


def test_items_after_a_stop_are_not_missing() -> None:
    scores = NEARLY.copy()
    scores[400:, 1] = NAN
    assert decide(evidence(scores)).candidates["new"].coverage == 0.4
    row = decide(evidence(scores, n_asked={"new": 400})).candidates["new"]
    assert (row.coverage, row.excluded_because) == (1.0, None)


def test_a_candidate_that_was_stopped_early_is_tested_at_the_level_of_that_look() -> None:
    # z is about 3, p about 0.001: enough at 5 %, not at the 0.0005 of an early look.
    assert decide(evidence(NEARLY)).candidates["new"].comparison == "non-inferior"
    early = decide(evidence(NEARLY, levels={"new": 0.0005})).candidates["new"]
    assert early.comparison == "inconclusive"
    assert early.difference is not None
    assert early.difference.low is not None
    assert early.difference.low < -0.02


def test_dollars_that_are_drawn_elsewhere_replace_those_of_the_calls() -> None:
    found = evidence(NEARLY, [1.0, 0.5], usd_draws={"new": np.linspace(0.4, 0.6, 2000)})
    row = decide(found).candidates["new"]
    assert row.saving is not None
    # 95 % of 0.4 to 0.6 lie within 0.405 and 0.595.
    assert row.saving.low == pytest.approx(0.405, abs=0.001)
    assert row.saving.high == pytest.approx(0.595, abs=0.001)
    with pytest.raises(ValueError, match="usd_draws of 'new' are"):
        decide(evidence(NEARLY, [1.0, 0.5], usd_draws={"new": np.zeros(3)}))


def test_human_labels_replace_what_a_judge_says() -> None:
    # The judge sees -0.5 points; people, on 100 items, -6 points with a standard error of 1.
    people = {
        "old": Corrected(quality=0.9, quality_error=0.01),
        "new": Corrected(0.84, 0.01, difference=-0.06, difference_error=0.01, n_groups=100),
    }
    row = decide(evidence(NEARLY, [2.0, 1.0], corrected=people)).candidates["new"]
    assert row.comparison == "inferior"
    assert row.quality is not None
    assert row.quality.mean == 0.84
    assert row.difference is not None
    # t with 99 degrees at 95 %: 1.6604.
    assert row.difference.high == pytest.approx(-0.06 + 1.6604 * 0.01, abs=1e-5)
    assert row.p_value == pytest.approx(stats.t.sf(-4, 99))  # (-0.06 + 0.02) / 0.01
    # Its loss is that of the corrected quality: 1,000 x (0.16 + $1).
    row = decide(evidence(NEARLY, [2.0, 1.0], corrected=people), usd_per_error=1.0).candidates[
        "new"
    ]
    assert row.expected_loss is not None
    assert row.expected_loss.mean == pytest.approx(1160, abs=3)
