"""The plan on a terminal: the verdict first, what it takes, and hostile names as text."""

from __future__ import annotations

from decimal import Decimal

from pipelines.core.item_plan import ItemPlan
from pipelines.economics.planned_candidate import Offer, Terms
from pipelines.economics.study_plan import plan
from pipelines.reports.plan import table

BIG = Offer(
    kind="rent",
    usd_per_task=0.01,
    usd_per_answer=Decimal("0.009"),
    price_from="its list price",
)
SMALL = Offer(
    kind="own", usd_per_task=0.001, usd_per_answer=Decimal("0.001"), price_from="the monthly bill"
)


def planned(small: Offer = SMALL, *, name: str = "small", **more: object) -> ItemPlan:
    asked = Terms("big", 0.03, 309, tasks_per_month=1000, **more)  # pyright: ignore[reportArgumentType]
    return plan("Claims", {"big": BIG, name: small}, asked)


def test_the_table() -> None:
    lines = table(planned()).splitlines()
    assert lines[0] == "Expected verdict with the items at hand: NOT ENOUGH EVIDENCE"
    assert lines[1] == (
        "small wins if it is as good as hoped and saves $9.00 a month; it takes 1,374 items, 1,065 "
        "more than are at hand."
    )
    assert lines[3] == "Claims: 309 items at hand; margin 3.0 points against big; power 80%"
    assert lines[4] == "big costs $0.01 a task: its list price"
    assert lines[6] == "small [own]"
    assert "  a month   $9.00 less than now if it is as hoped" in lines
    assert "  an item   $0.01; $13.74 for those that are not answered yet" in lines
    assert "  a task    $0.001: the monthly bill" in lines
    # 0.03 x sqrt(309 / 0.2) - 1.64485 = -0.4657, Phi = 0.32.
    assert (
        "20.0% of the items differ (assumed): 1,374 items; power of those at hand 32%" in (lines[8])
    )
    start = lines.index("  items needed (power of those at hand):")
    assert lines[start + 3].split() == [
        "+0.0", "points", "344", "(76%)", "687", "(51%)", "1,374", "(32%)", "2,061", "(25%)",
    ]  # fmt: skip


def test_what_is_not_known_is_said() -> None:
    text = table(planned(Offer(kind="own", price_from="its capacity must be measured first")))
    assert text.startswith("Expected verdict with the items at hand: NOT KNOWN YET\n")
    assert "a task    unknown: its capacity must be measured first" in text
    assert "a month" not in text


def test_the_unprovable_is_called_so() -> None:
    text = table(planned(usd_per_error=10.0))
    assert "finding   UNPROVABLE: it takes" in text
    assert "an error costs $10.00" in text


def test_what_is_simulated_is_marked() -> None:
    text = table(planned(SMALL.model_copy(update={"simulated": True})))
    assert text.startswith("SIMULATED - Expected verdict")
    assert "\nsmall [own, simulated]\n" in text


def test_the_winner_is_named() -> None:
    found = planned()
    rows = {"small": found.candidates["small"]}
    expected = found.expected.model_copy(update={"verdict": "own"})
    text = table(found.model_copy(update={"expected": expected, "candidates": rows}))
    assert text.startswith("Expected verdict with the items at hand: OWN (small)\n")


def test_names_are_text() -> None:
    text = table(planned(name="\x1b[31msmall\u202e"))
    assert "\x1b" not in text
    assert "\u202e" not in text
