"""Our dollars beside bills and the logs' own, by hand."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from pipelines.core.usage_log import BilledLine
from pipelines.economics import reconcile
from tests.economics.conftest import haiku, sol, unknown


def billed(day: int, usd: str, provider: str = "openai") -> BilledLine:
    return BilledLine(
        day=date(2026, 11, day), provider=provider, project="", description="", usd=Decimal(usd)
    )


def test_a_cost_report_is_held_against_the_same_days() -> None:
    charges = [sol(), sol(day=date(2026, 11, 3)), sol(day=date(2026, 11, 4)), haiku()]
    total, *days = reconcile.compare(
        charges, [billed(2, "1"), billed(2, "0.48"), billed(3, "1.40"), billed(7, "5")], {}
    )
    # Both cover the 2nd and the 3rd: 2.96 of ours, 2.88 of theirs.
    assert (total.day, total.usd_list, total.usd_stated) == (None, Decimal("2.96"), Decimal("2.88"))
    assert total.usd_difference == Decimal("0.08")
    assert total.share == pytest.approx(0.08 / 2.88)
    assert total.agrees is False
    assert "$5.00 billed on 1 day without a logged call" in total.note
    assert "1 day of the logs not in the cost report" in total.note
    assert [(d.day and d.day.day, d.usd_list, d.usd_stated, d.agrees) for d in days] == [
        (2, Decimal("1.48"), Decimal("1.48"), True),
        (3, Decimal("1.48"), Decimal("1.40"), False),
        (4, Decimal("1.48"), None, None),
        (7, None, Decimal(5), None),
    ]


def test_half_a_per_cent_is_tolerated_and_no_more() -> None:
    def agrees(usd: str) -> bool | None:
        return reconcile.compare([sol()], [], {"openai": Decimal(usd)})[0].agrees

    # 1.48 / 1.005 = 1.47263...; 1.48 / 0.995 = 1.48743...
    assert agrees("1.4727")
    assert not agrees("1.4726")
    assert agrees("1.4874")
    assert not agrees("1.4875")


def test_an_invoice_is_of_one_provider_or_of_all() -> None:
    charges = [sol(), haiku(), unknown(n_calls=7)]
    all_of_them, one = reconcile.compare(
        charges, [], {"": Decimal("2.22"), "openai": Decimal("1.85")}
    )
    assert (all_of_them.usd_difference, all_of_them.agrees) == (0, True)
    assert all_of_them.note == "7 logged calls without a price"
    assert (one.usd_difference, one.share) == (Decimal("-0.37"), -0.2)


def test_the_logs_own_dollars_are_compared_for_the_calls_that_carry_some() -> None:
    charges = [
        sol(usd_reported=Decimal("1.60")),
        sol(day=date(2026, 11, 3)),
        unknown(usd_reported=Decimal(3)),
    ]
    unpriced, ours = reconcile.compare(charges, [], {})
    assert (ours.subject, ours.against) == ("openai/sol", "log")
    assert (ours.usd_list, ours.usd_stated) == (Decimal("1.48"), Decimal("1.60"))
    assert unpriced.subject == "mystery"
    assert (unpriced.usd_list, unpriced.usd_stated, unpriced.agrees) == (None, Decimal(3), None)


def test_each_log_answers_for_the_dollars_that_it_states() -> None:
    charges = [
        sol(usd_reported=Decimal("1.48")),
        sol(usd_reported=Decimal("1.30"), format="table (CSV)"),
    ]
    first, second = reconcile.compare(charges, [], {})
    assert (first.format, first.usd_stated, first.agrees) == (
        "LiteLLM spend logs", Decimal("1.48"), True,
    )  # fmt: skip
    assert (second.format, second.usd_stated, second.agrees) == (
        "table (CSV)", Decimal("1.30"), False,
    )  # fmt: skip
