"""Terms that a company has agreed with providers, in an audit."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from pipelines.core.audit import AgreedTerms
from pipelines.core.errors import ConfigError
from pipelines.economics import agreed, reconcile, spend
from pipelines.economics.charge import Charge
from tests.conftest import CALLS
from tests.economics.conftest import DAY, haiku, sol

OURS = "source: contract 7, checked_on: 2026-11-01"


def written(folder: Path, *entries: str) -> Path:
    path = folder / "terms.yaml"
    listed = "".join(f"  - {{{each}}}\n" for each in entries)
    path.write_text(f"terms:\n{listed}", encoding="utf-8")
    return path


def terms(**fields: object) -> AgreedTerms:
    given = {"provider": "openai", "source": "contract 7", "checked_on": DAY} | fields
    return AgreedTerms.model_validate(given)


def at(charge: Charge, *given: AgreedTerms) -> Charge:
    return replace(charge, terms=agreed.of(charge, given), has_terms=bool(given))


def test_the_most_special_terms_win_and_other_providers_keep_the_list_price(
    tmp_path: Path,
) -> None:
    path = written(
        tmp_path,
        f"provider: openai, discount: 0.1, {OURS}",
        f"provider: openai, region: eu, discount: 0.1, regional_uplift: 1.1, {OURS}",
        f"provider: openai, model: {CALLS.model}, discount: 0.3, {OURS}",
        f"provider: openai, model: {CALLS.model}, region: eu, discount: 0.2, {OURS}",
    )
    found = agreed.read(path)
    here = sol()
    assert agreed.of(here, found) == terms(
        model=CALLS.model, discount="0.3", checked_on="2026-11-01"
    )
    factors = {
        (model, region): at(sol(model=model, region=region), *found).factor
        for model in (CALLS.model, "other")
        for region in ("", "eu")
    }
    assert factors == {
        (CALLS.model, ""): Decimal("0.7"),
        (CALLS.model, "eu"): Decimal("0.8"),
        ("other", ""): Decimal("0.9"),
        ("other", "eu"): Decimal("0.99"),
    }
    assert agreed.of(haiku(), found) is None


def test_dollars_at_list_prices_and_at_terms() -> None:
    given = terms(discount="0.15", regional_uplift="1.10")
    charges = [at(sol(), given), at(haiku(), given)]
    # 600,000 fresh x $2 + 400,000 cached x $0.20 + 20,000 out x $10; at Anthropic $1, $0.10, $5.
    found = spend.summed(charges)
    assert found.usd == Decimal("1.48") + Decimal("0.74")
    assert found.usd_at_terms == Decimal("1.48") * Decimal("0.935") + Decimal("0.74")
    assert spend.summed([sol()]).usd_at_terms is None
    assert spend.summed([at(haiku(), given)]).usd_at_terms == Decimal("0.74")


def test_a_bill_is_held_against_terms_and_what_a_log_states_against_list_prices() -> None:
    charge = at(sol(usd_reported=Decimal("1.48")), terms(discount="0.25"))
    bill, log = reconcile.compare([charge], [], {"openai": Decimal("1.11")})
    assert (bill.usd_list, bill.usd_at_terms) == (Decimal("1.48"), Decimal("1.11"))
    assert (bill.usd_difference, bill.agrees) == (0, True)
    assert (log.usd_difference, log.usd_at_terms, log.agrees) == (0, None, True)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            [f"provider: openai, discount: 1.5, {OURS}"],
            "terms.0.discount: .*less than or equal to 1",
        ),
        (["provider: openai, discount: 0.1"], "terms.0.source: Field required"),
        ([f"provider: openai, service_tier: batch, {OURS}"], "the log says which tier"),
        ([f"provider: openai, {OURS}"] * 2, "two entries for openai; leave one out"),
        ([f"provider: openai, rebate: 0.1, {OURS}"], "rebate"),
    ],
)
def test_wrong_terms_are_refused(tmp_path: Path, entries: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        agreed.read(written(tmp_path, *entries))
