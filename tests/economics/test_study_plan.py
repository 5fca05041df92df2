"""A study's plan: the published table, power, dollars and the expected verdict, by hand."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import numpy as np
import pytest

from pipelines.core.evidence import Evidence
from pipelines.core.item_plan import CandidateItems, ItemPlan
from pipelines.economics import plan as items
from pipelines.economics.planned_candidate import Offer, Terms
from pipelines.economics.rule import rule
from pipelines.economics.study_plan import after, plan

BIG = Offer(kind="rent", usd_per_task=0.01, usd_per_answer=Decimal("0.009"))
SMALL = Offer(kind="own", usd_per_task=0.001, usd_per_answer=Decimal("0.001"))
NO_PRICE = Offer(kind="own", price_from="its capacity must be measured first")


def terms(margin: float = 0.03, n_now: int = 309, **more: object) -> Terms:
    return Terms("big", margin, n_now, **more)  # pyright: ignore[reportArgumentType]


def planned(
    asked: Terms, small: Offer = SMALL, big: Offer = BIG, pilot: Evidence | None = None
) -> tuple[ItemPlan, CandidateItems]:
    found = plan("t", {"big": big, "small": small}, asked, pilot, "the pilot")
    return found, found.candidates["small"]


def needed(row: CandidateItems, difference: float) -> list[int | None]:
    return [each.n_needed for each in row.scenarios if each.true_difference == difference]


def evidence(won: int, lost: int, n: int, group_size: int = 1) -> Evidence:
    """`big` is right on the first 60 %; `small` differs on so many items."""
    big = (np.arange(n) < 0.6 * n).astype(float)
    small = big.copy()
    small[:lost], small[n - won :] = 0, 1
    return Evidence(
        candidates=("big", "small"),
        ids=tuple(map(str, range(n))),
        scores=np.column_stack([big, small]),
        groups=None if group_size == 1 else np.arange(n) // group_size,
    )


@pytest.mark.parametrize(
    ("margin", "worse", "equal", "better"),
    [
        (0.02, [3086, 6177, 12359, 18542], [773, 1546, 3092, 4637], [343, 687, 1374, 2061]),
        (0.03, [772, 1545, 3090, 4636], [344, 687, 1374, 2061], [193, 387, 773, 1159]),
    ],
)
def test_the_published_table(
    margin: float, worse: list[int], equal: list[int], better: list[int]
) -> None:
    _, row = planned(terms(margin))
    assert [needed(row, gap) for gap in (-0.01, 0.0, 0.01)] == [worse, equal, better]
    assert [each.discordant for each in row.scenarios[:4]] == [0.05, 0.1, 0.2, 0.3]


def test_power_and_dollars_by_hand() -> None:
    _, row = planned(terms(0.02, 1546))
    # 0.02 x sqrt(1546 / 0.2) - 1.64485 = 0.11355, Phi = 0.5452; with 0.1 it is the 80 % asked for.
    assert row.hoped.power == pytest.approx(0.5452, abs=1e-4)
    assert row.scenarios[5].power == pytest.approx(0.8, abs=1e-3)
    # 2.48648 x sqrt(0.2 / 1546).
    assert row.margin_now == pytest.approx(0.028281, abs=1e-6)
    # 3,092 items of $0.001 + $0.009; a label adds half a dollar.
    assert row.hoped.usd == Decimal("30.92")
    _, row = planned(terms(0.02, usd_per_label=0.5))
    assert (row.usd_per_item, row.hoped.usd) == (Decimal("0.51"), Decimal("1576.92"))
    assert planned(terms(), Offer(usd_per_task=0.001))[1].hoped.usd is None


def test_ninety_per_cent_power() -> None:
    # (1.64485 + 1.28155)^2 = 8.56385; x 0.2 / 0.0009 = 1,903.1.
    assert planned(terms(power=0.9))[1].hoped.n_needed == 1904


def test_an_error_that_is_dear_is_not_provable() -> None:
    # $0.006 saved and errors at $1: 0.6 points. 6.18256 x 0.1 / 0.000036 = 17,173.8.
    saves = SMALL.model_copy(update={"usd_per_task": 0.004})
    found, row = planned(terms(usd_per_error=1.0), saves)
    assert row.margin == pytest.approx(0.006)
    assert needed(row, 0.0)[1] == 17174
    assert row.finding == "unprovable"
    assert row.reason == (
        "it takes 34,348 items, and more than 10,000 are not within reason: at $1.00 an error "
        "what it saves pays for a loss of 0.6 points only; consider a cascade (hybrid)"
    )
    assert (found.expected.verdict, found.expected.winner) == ("insufficient", "big")
    assert "cannot be shown: it takes 34,348" in found.expected.reason


def test_equal_quality_never_passes_a_margin_of_nothing() -> None:
    _, row = planned(terms(0.0))
    assert needed(row, 0.0) == needed(row, -0.01) == [None] * 4
    # One that is a point better: 6.18256 x (0.2 - 0.0001) / 0.0001 = 12,358.9.
    assert needed(row, 0.01)[2] == 12359
    assert (row.finding, row.hoped.usd) == ("unprovable", None)
    assert "a margin of 0 demands better quality" in row.reason


def test_a_dearer_candidate_must_be_better() -> None:
    # It costs $0.004 more and an error costs $0.20: two points better.
    dear = Offer(kind="own", usd_per_task=0.014)
    found, row = planned(terms(usd_per_error=0.2), dear)
    assert row.margin == pytest.approx(-0.02)
    assert (needed(row, 0.01), row.finding) == ([None] * 4, "unprovable")
    assert "its price demands 2.0 points more quality than big has" in row.reason
    assert (found.expected.verdict, found.expected.reason) == ("rent", "big stays: it costs least")
    hopeless = planned(terms(usd_per_error=0.001), dear)[1]
    assert hopeless.reason == "no quality would pay for its price"


def test_the_pilot_gives_what_is_planned_with() -> None:
    # 4 won and 4 lost of 400: 6.18256 x 0.02 / 0.0009 = 137.4.
    found, row = planned(terms(n_now=500), pilot=evidence(4, 4, 400))
    assert row.pilot is not None
    assert (row.pilot.n, row.pilot.difference, row.pilot.discordant) == (400, 0, 0.02)
    assert (row.hoped.n_needed, row.finding, row.shown) == (138, "settled", "non-inferior")
    assert row.reason == "non-inferior on 400 answered items"
    assert row.hoped.usd == 0
    # 0.03 x sqrt(500 / 0.02) - 1.64485 = 3.0986.
    assert row.hoped.power == pytest.approx(0.99903, abs=1e-5)
    assert [each.discordant for each in row.scenarios] == [0.02] * 3
    assert (found.expected.verdict, found.expected.winner) == ("own", "small")
    # Ten lost and none won of 250 are four points: it may be three.
    _, row = planned(terms(), pilot=evidence(0, 10, 250))
    assert (row.finding, row.shown) == ("unprovable", None)
    assert row.reason.endswith("it may lose 3.0 points, and the pilot says -4.0 points")
    worse, row = planned(terms(), pilot=evidence(0, 40, 300))
    assert (row.finding, row.shown) == ("settled", "inferior")
    assert (worse.expected.verdict, worse.expected.winner) == ("rent", "big")


def test_only_what_is_not_answered_is_paid() -> None:
    # 40 of 400 differ: 6.18256 x 0.1 / 0.0004 = 1,545.6; 1,146 more at $0.01.
    _, row = planned(terms(0.02, n_now=400), pilot=evidence(20, 20, 400))
    assert (row.hoped.n_needed, row.hoped.usd) == (1546, Decimal("11.46"))
    assert row.reason == "it takes 1,546 items, 1,146 more than are at hand"


def test_where_nothing_differs_a_little_may() -> None:
    _, row = planned(terms(), pilot=evidence(0, 0, 300))
    assert row.hoped.discordant == 0.01


def test_groups_need_more_items() -> None:
    # Three of a group, correlated by 0.2: 1.4. 6.18256 x 0.2 x 1.4 / 0.0009 = 1,923.5.
    found, row = planned(terms(n_now=300, group_sizes=(3,) * 100))
    assert (row.design_effect, row.hoped.n_needed) == (pytest.approx(1.4), 1924)
    assert found.n_groups == 100
    # Pairs that win and lose together: twice the variance, 274.8 instead of 137.4.
    pairs = planned(terms(n_now=400, group_sizes=(2,) * 200), pilot=evidence(4, 4, 400, 2))[1]
    assert (pairs.design_effect, pairs.hoped.n_needed) == (pytest.approx(2), 275)
    # The test asks for 20 independent groups: five of 100 items are 500, so 2,000.
    few = planned(terms(0.2, 500, group_sizes=(100,) * 5))[1]
    assert few.hoped.n_needed == 2000


def test_what_looks_save() -> None:
    found, row = planned(terms())
    # Five looks with the power asked for: 82 % of the items on average, 1.177 times at most.
    assert row.hoped.share_saved == pytest.approx(0.180, abs=0.001)
    assert found.inflation == pytest.approx(1.177, abs=0.001)
    # Far beyond the margin (18 standard errors) the first look of five ends it.
    lost = planned(terms(n_now=1000), pilot=evidence(0, 300, 1000))[1]
    assert lost.hoped.share_saved == pytest.approx(0.8, abs=1e-6)


def expected(offers: Mapping[str, Offer], asked: Terms) -> ItemPlan:
    return plan("t", offers, asked)


def test_who_would_win() -> None:
    mid = Offer(kind="rent", usd_per_task=0.005)
    offers = {"big": BIG, "small": SMALL, "mid": mid}
    found = expected(offers, terms(n_now=2000, tasks_per_month=10_000))
    assert (found.expected.verdict, found.expected.winner) == ("own", "small")
    assert found.correction == "fixed sequence"
    # 10,000 x ($0.01 - $0.001).
    assert found.candidates["small"].saving_usd_per_month == pytest.approx(90)
    assert "saves $90.00 a month; the 2,000 items at hand suffice" in found.expected.reason
    short = expected(offers, terms(n_now=309)).expected
    assert (short.verdict, short.winner) == ("insufficient", "small")
    kindless = {"big": Offer(usd_per_task=2), "small": Offer(usd_per_task=1)}
    assert expected(kindless, terms(n_now=2000)).expected.verdict == "switch"
    out = {"big": BIG, "small": SMALL.model_copy(update={"out": "it is too slow"})}
    found = expected(out, terms(n_now=2000))
    assert (found.expected.verdict, found.expected.winner) == ("rent", "big")
    assert (found.candidates["small"].finding, found.correction) == ("out", "none")


def test_without_a_price_nobody_knows_who_wins() -> None:
    found = expected({"big": BIG, "own": NO_PRICE}, terms(n_now=2000)).expected
    assert (found.verdict, found.winner) == (None, None)
    assert found.reason == "own has no price yet: its capacity must be measured first"
    dark = BIG.model_copy(update={"usd_per_task": None})
    assert expected({"big": dark, "small": SMALL}, terms()).expected.verdict is None
    # Others are judged; several without a common order of prices share the error rate.
    both = expected({"big": BIG, "own": NO_PRICE, "small": SMALL}, terms(n_now=2000))
    assert (both.expected.verdict, both.correction) == ("own", "Holm")
    assert "own has no price yet" in both.expected.reason
    # Two at 2.5 % instead of one at 5 %: (1.95996 + 0.84162)^2 x 0.1 / 0.0009 = 872.1.
    assert needed(both.candidates["small"], 0.0)[1] == 873


def test_a_dearer_one_wins_where_errors_are_dear_and_it_is_better() -> None:
    cheap, dear = Offer(kind="rent", usd_per_task=0.001), Offer(kind="own", usd_per_task=0.002)
    asked = terms(n_now=1000, usd_per_error=1.0, tasks_per_month=1000)
    found, row = planned(asked, dear, cheap, evidence(60, 10, 1000))
    # 5 points at $1 are $0.05 a task, $0.001 dearer.
    assert row.saving_usd_per_month == pytest.approx(49)
    assert (row.margin, row.shown) == (pytest.approx(-0.001), "superior")
    assert found.expected.verdict == "own"


def test_the_items_that_are_worth_their_price() -> None:
    asked = terms(n_now=400, usd_per_error=10, tasks_per_month=100_000, usd_per_label=0.5)
    _, row = planned(asked, pilot=evidence(4, 4, 400))
    best = row.worth_buying
    assert best is not None
    # Saved: $0.009 a task; standard error: $10 x sqrt(0.02 / 400) = $0.0707107; $0.51 an item.

    def net(k: int) -> float:
        return items.evsi(0.009, 0.0707107, 400, k, 100_000) - 0.51 * k

    assert best.k > 0
    assert net(best.k) >= max(net(best.k - 1), net(best.k + 1))
    assert best.usd == pytest.approx(0.51 * best.k)
    assert planned(terms(n_now=400), pilot=evidence(4, 4, 400))[1].worth_buying is None


def test_a_table_that_was_decided_is_the_pilot() -> None:
    table = evidence(20, 20, 400)
    table = Evidence(
        table.candidates, table.ids, table.scores, usd=np.full((400, 2), [0.01, 0.001])
    )
    ruling = rule(table, incumbent="big", margin=0.02)
    found = after("t.csv", table, ruling, 0.8, None)
    row = found.candidates["small"]
    assert ruling.verdict == found.expected.verdict == "insufficient"
    assert row.hoped.n_needed == ruling.required_n["small"] == 1546
    # 1,146 more, $0.01 + $0.001 each.
    assert (row.usd_per_item, row.hoped.usd) == (Decimal("0.011"), Decimal("12.606"))
    settled = rule(table, incumbent="big", margin=0.03)
    again = after("t.csv", table, settled, 0.8, None)
    assert settled.verdict == again.expected.verdict == "switch"
    assert again.candidates["small"].reason == "non-inferior on 400 answered items"
    assert found.model_validate_json(found.model_dump_json()) == found
