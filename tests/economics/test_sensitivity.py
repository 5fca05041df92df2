"""What would change the answer: worlds in which it is known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.core.config import load_study
from pipelines.core.decision import Sensitivity
from pipelines.core.evidence import Evidence
from pipelines.core.hardware import Figure
from pipelines.core.paths import ROOT
from pipelines.core.results import Cost, EvaluateResult
from pipelines.core.study import Study
from pipelines.economics import own_cost, own_measured, sensitivity
from pipelines.economics.sensitivity import API, UTILISATION, VOLUME

TASKS = 100_000
SETTINGS = (
    "candidates=[frontier-standin, tiny-lora]",
    f"workload.traffic.tasks_per_month={TASKS}",
    "workload.own_costs.operations_usd_per_month=0",
    "workload.own_costs.tuning_usd_per_month={low: 0, likely: 100, high: 2000}",
    "workload.own_costs.spares=0",
    "workload.requirements.usd_per_error=null",
)


@pytest.fixture
def study() -> Study:
    return load_study(ROOT / "configs/quickstart.yaml", SETTINGS)


def results(study: Study) -> dict[str, EvaluateResult]:
    own = study.candidates["tiny-lora"]
    assert own.kind == "own"
    return {
        "frontier-standin": EvaluateResult.model_construct(hardware=None, kind="rent"),
        "tiny-lora": EvaluateResult.model_construct(
            hardware=own.hardware,
            kind="own",
            tuned=True,
            spent=None,
            cost=Cost(usd_per_month=None, usd_per_task=None, capacity_per_s=Figure.of(100)),
        ),
    }


def evidence(study: Study, api_usd: float, own_usd: float) -> Evidence:
    """1,000 items on which both are equally good."""
    scores = np.tile(np.repeat([1.0, 0.0], (900, 100))[:, None], 2)
    return Evidence(
        ("frontier-standin", "tiny-lora"),
        tuple(f"i{k}" for k in range(1000)),
        scores,
        usd=np.tile([api_usd, own_usd], (1000, 1)),
        latency_s=np.full((1000, 2), 0.01),
        kinds={"frontier-standin": "rent", "tiny-lora": "own"},
        usd_draws={"tiny-lora": np.full(10_000, own_usd)},
    )


def test_each_input_flips_the_answer_where_the_bills_meet(study: Study) -> None:
    found = results(study)
    own = own_measured.owning(study.workload, found["tiny-lora"])
    assert own is not None
    bill = float(own_cost.usd_per_month(own, TASKS, own.at("likely")))
    # The API costs twice as much: own, until its price falls to a half, or the volume does.
    told = sensitivity.sensitivity(study, evidence(study, 2 * bill / TASKS, bill / TASKS), found)
    by_name = {each.input: each for each in told}
    api = by_name[API]
    assert (api.today, [s.value for s in api.scenarios]) == (1, [0.5])
    assert api.flips_at == pytest.approx(0.5, rel=0.01)
    volume = by_name[VOLUME]
    assert [(s.verdict, s.chosen, s.changes) for s in volume.scenarios] == [
        ("rent", "frontier-standin", True),
        ("own", "tiny-lora", False),
    ]
    # At so low a load one machine does for any volume: the bill is fixed, the API's is not.
    assert volume.flips_at == pytest.approx(0.5, rel=0.01)
    assert [s.value for s in by_name[UTILISATION].scenarios] == [0.05, 0.2, 0.5, 1.0]
    assert all(s.chosen == "tiny-lora" for s in by_name[UTILISATION].scenarios)
    # $100 of tuning may become as much as the whole bill more.
    tuning = by_name["tuning_usd_per_month"]
    assert tuning.today == 100
    expected = None if bill + 100 > 2000 else pytest.approx(bill + 100, rel=0.02)
    assert tuning.flips_at == expected


def test_who_is_far_cheaper_stays_whatever_changes(study: Study) -> None:
    found = results(study)
    told = sensitivity.sensitivity(study, evidence(study, 1e-9, 1.0), found)
    assert {s.chosen for each in told for s in each.scenarios} == {"frontier-standin"}
    assert {each.flips_at for each in told} == {None}


def test_a_flip_is_told_in_the_words_of_finance() -> None:
    def told(name: str, today: float, flips_at: float) -> str:
        found = Sensitivity(
            input=name, today=today, scenarios=(), flips_at=flips_at, flips_to=("own", "small")
        )
        return sensitivity.words(found)

    assert told("operations_usd_per_month", 900, 797) == (
        "operations per month: $797 in place of $900, then own (small)"
    )
    assert told(API, 1, 0.47) == "prices of rented candidates: 53% less, then own (small)"
    assert told(VOLUME, 1, 2.5) == "volume: 150% more, then own (small)"
    assert told(VOLUME, 1, 12.34) == "volume: 12.3 times today's, then own (small)"
