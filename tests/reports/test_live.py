"""The data behind the live chart: hours reduced without loss, JSON that ends no script element."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from pipelines.economics import fleet
from pipelines.economics.fleet import Shape
from pipelines.reports import live
from tests.reports.made import make


def test_hours_are_reduced_to_rates_with_their_counts_and_turns() -> None:
    # A day of six hours: one peak of 3, one valley of 1; the day follows itself.
    assert live.levels((1.0, 1.0, 2.0, 3.0, 3.0, 2.0)) == ([1.0, 2.0, 3.0], [2, 2, 2], [-1, 0, 1])
    assert live.levels((4.0,)) == ([4.0], [1], [0])
    # The night goes on past midnight: one valley, not two.
    assert live.levels((1.0, 2.0, 1.0, 1.0)) == ([1.0, 2.0], [3, 1], [-1, 1])


@pytest.mark.parametrize("seed", range(20))
def test_nothing_that_machines_depend_on_is_lost(seed: int) -> None:
    generator = np.random.default_rng(seed)
    hours = tuple((generator.integers(0, 6, generator.integers(1, 200)) / 2).tolist())
    rate, minimum = float(generator.uniform(0.2, 9)), int(generator.integers(1, 4))
    planned = fleet.plan(
        Shape(window_s=3600, windows=hours, hours=hours), rate, 2.0, headroom=0.5, spares=1,
        min_replicas=minimum, scaling="hourly",
    )  # fmt: skip
    rates, counts, turns = live.levels(hours)
    machines = [max(minimum, math.ceil(each * rate * 1.5 / 2.0 - fleet.ROUNDING)) for each in rates]
    on = sum(n * k for n, k in zip(machines, counts, strict=True)) / len(hours)
    started = sum(n * k for n, k in zip(machines, turns, strict=True))
    month = fleet.HOURS_PER_MONTH
    assert (on + 1) * month == pytest.approx(planned.base_hours + planned.load_hours)
    assert started * month / len(hours) == pytest.approx(planned.n_cold_starts)


def test_json_ends_no_script_element() -> None:
    value = {"a": "</script><!--<script>&\u2028"}
    text = str(live.script_json(value))
    assert not re.search("[<>&\u2028]", text)
    assert json.loads(text) == value


def test_a_study_without_machines_has_no_slider_for_them() -> None:
    made = make(names=("frontier-standin",))
    found = live.live(made.study, made.decision, made.evaluated.results)
    assert found is not None
    assert [slider.name for slider in found.sliders] == ["volume", "api", "error"]
    assert [row.machines for row in found.rows] == ["\N{EN DASH}"]


def test_who_lost_quality_is_never_the_least() -> None:
    made = make("workload.requirements.usd_per_error=0")
    found = live.live(made.study, made.decision, made.evaluated.results)
    assert found is not None
    # tiny-base and tfidf-logreg cost $1,046, yet one is worse and the other may be.
    assert {row.name: row.least for row in found.rows} == {
        "frontier-standin": "", "tiny-base": "", "tiny-lora": "least", "tfidf-logreg": "",
    }  # fmt: skip
    assert found.least == "tiny-lora (toy), $1,196"


def test_without_any_dollars_there_is_no_chart() -> None:
    made = make()
    rows = {
        name: row.model_copy(update={"usd_per_month": None, "cost_lines": ()})
        for name, row in made.decision.candidates.items()
    }
    decision = made.decision.model_copy(update={"candidates": rows})
    assert live.live(made.study, decision, made.evaluated.results) is None
    made.decision = decision
    assert "<script" not in made.report()
