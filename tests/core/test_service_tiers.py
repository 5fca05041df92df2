"""Which workloads may be priced at which service tier."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.core.candidate import Rent
from pipelines.core.config import load_study
from pipelines.core.errors import ConfigError

TIER = "candidates.frontier.terms.service_tier"


@pytest.mark.parametrize(
    ("tier", "can_wait_h", "wrong"),
    [
        ("standard", None, None),
        ("priority", None, None),
        ("flex", None, r"candidates\.frontier: flex .*can_wait_h is not given"),
        ("flex", 0.5, None),
        ("batch", None, r"candidates\.frontier: a batch may take 24 hours.*can_wait_h is None"),
        ("batch", 23.9, r"a batch may take 24 hours.*can_wait_h is 23\.9"),
        ("batch", 24, None),
    ],
)
def test_a_tier_that_lets_answers_wait_needs_a_workload_that_can(
    small_study: Path, tier: str, can_wait_h: float | None, wrong: str | None
) -> None:
    overrides = [f"{TIER}={tier}"]
    if can_wait_h is not None:
        overrides.append(f"workload.can_wait_h={can_wait_h}")
    if wrong is not None:
        with pytest.raises(ConfigError, match=wrong):
            load_study(small_study, overrides)
        return
    candidate = load_study(small_study, overrides).candidates["frontier"]
    assert isinstance(candidate, Rent)
    assert candidate.terms.service_tier == tier


def test_a_judge_is_never_a_batch(small_study: Path) -> None:
    judge = (
        "judges.j={kind: rent, title: J, model: m, price: openai/gpt-6-luna, "
        "terms: {service_tier: batch}}"
    )
    with pytest.raises(ConfigError, match=r"judges\.j: judges are asked one by one"):
        load_study(small_study, ["workload.can_wait_h=48", judge])


@pytest.mark.parametrize(
    ("field", "value"), [("discount", 1.01), ("discount", -0.1), ("regional_uplift", 0.9)]
)
def test_terms_out_of_range_are_refused(small_study: Path, field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        load_study(small_study, [f"candidates.frontier.terms.{field}={value}"])
