"""Schedules: their rate, their burstiness, their seed, and recordings that are played again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from pipelines.core.errors import ConfigError, DataError
from pipelines.core.study import Arrivals, BenchmarkConfig
from pipelines.load.arrivals import recorded_gaps, schedule

N = 40_000
PROCESSES = {
    "constant": (Arrivals(process="constant"), 0.0),
    "poisson": (Arrivals(), 1.0),
    "gamma": (Arrivals(process="gamma", cv=3.0), 3.0),
    "smooth gamma": (Arrivals(process="gamma", cv=0.25), 0.25),
}


def cv(due: np.ndarray) -> float:
    gaps = np.diff(due, prepend=0.0)
    return float(gaps.std() / gaps.mean())


def dispersion(due: np.ndarray, window_s: float) -> float:
    """Variance over mean of the counts in windows; 1 for Poisson, 0 for even spacing."""
    counts = np.bincount((due / window_s).astype(int))[:-1]
    return float(counts.var() / counts.mean())


@pytest.mark.parametrize("name", PROCESSES)
def test_rate_and_variation_are_those_asked_for(name: str) -> None:
    arrivals, wanted = PROCESSES[name]
    due = schedule(arrivals, 50.0, N, seed=1)
    assert len(due) == N
    assert (np.diff(due) >= 0).all()
    # The mean of N gaps scatters by cv / sqrt(N): 1.5 % at cv 3.
    assert due[-1] == pytest.approx(N / 50.0, rel=0.05)
    assert cv(due) == pytest.approx(wanted, rel=0.05, abs=1e-9)


def test_poisson_counts_are_poisson_and_gaps_do_not_repeat() -> None:
    due = schedule(Arrivals(), 50.0, N, seed=2)
    assert dispersion(due, 1.0) == pytest.approx(1.0, abs=0.2)
    gaps = np.diff(due)
    assert len(np.unique(gaps)) == len(gaps)
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.03


def test_gamma_counts_are_dispersed_by_the_square_of_its_variation() -> None:
    due = schedule(Arrivals(process="gamma", cv=3.0), 50.0, N, seed=3)
    assert dispersion(due, 10.0) == pytest.approx(9.0, rel=0.35)


def test_evenly_spaced_is_exact() -> None:
    assert list(schedule(Arrivals(process="constant"), 4.0, 3, seed=9)) == [0.25, 0.5, 0.75]


def test_the_seed_decides() -> None:
    assert (schedule(Arrivals(), 5, 100, 1) == schedule(Arrivals(), 5, 100, 1)).all()
    assert (schedule(Arrivals(), 5, 100, 1) != schedule(Arrivals(), 5, 100, 2)).all()


def test_a_replay_keeps_its_gaps_and_takes_the_rate(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("Timestamp,x\n10,a\n11,b\n11,c\n17,d\n")
    gaps = recorded_gaps(str(path))
    assert list(gaps) == [1.0, 0.0, 6.0]  # mean 7/3
    replay = Arrivals(process="replay", path=str(path))
    due = schedule(replay, 2.0, 3, seed=0, gaps=gaps)
    assert due[-1] == pytest.approx(3 / 2.0)
    scaled = sorted(np.diff(due, prepend=0.0))
    assert scaled == pytest.approx([0.0, 3 / 14, 18 / 14])
    longer = schedule(replay, 2.0, 30, seed=0, gaps=gaps)
    assert longer[-1] == pytest.approx(15.0)  # ten times round


def test_times_in_iso_format_with_seven_decimals_are_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(
        "TIMESTAMP,Tokens\n2023-11-16 18:17:04.2500000,1\n2023-11-16 18:17:03.9799600,2\n"
    )
    assert recorded_gaps(str(path)) == pytest.approx([0.27004])  # sorted first


def test_the_public_trace_keeps_its_burstiness() -> None:
    folder = os.environ.get("FREEHOLD_DATA")
    name = "azure_llm_2023/AzureLLMInferenceTrace_code.csv"
    if not folder or not Path(folder, name).is_file():
        pytest.skip("needs $FREEHOLD_DATA/azure_llm_2023")
    gaps = recorded_gaps(f"$FREEHOLD_DATA/{name}")
    due = schedule(Arrivals(process="replay", path=name), 20.0, len(gaps), 5, gaps)
    assert due[-1] == pytest.approx(len(gaps) / 20.0)
    assert cv(due) == pytest.approx(13.2, abs=0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time\n1\n", "no column 'timestamp'.*'time'"),
        ("timestamp\n1\nsoon\n", r"trace\.csv:3: 'soon' is no time"),
        ("timestamp\n1\nnan\n", "'nan' is no time"),
        ("timestamp\n1\n1\n", "at least two different times"),
        ("timestamp\n1\n", "at least two different times"),
    ],
)
def test_a_bad_recording_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        recorded_gaps(str(path))


def test_a_missing_recording_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_FOLDER", raising=False)
    with pytest.raises(ConfigError, match="set the variable NO_SUCH_FOLDER"):
        recorded_gaps("$NO_SUCH_FOLDER/trace.csv")
    with pytest.raises(ConfigError, match="no such file"):
        recorded_gaps("no/such/trace.csv")


@pytest.mark.parametrize(
    "settings",
    [{"process": "gamma"}, {"process": "poisson", "cv": 2.0}, {"process": "replay"}, {"path": "x"}],
)
def test_settings_of_another_process_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="needs `(cv|path)`"):
        Arrivals.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rent": True}, "needs budget_usd"),
        ({"limits": {}}, "at least one of"),
        ({"min_requests": 20}, "59"),
        ({"repeats": 1}, "greater than 1"),
    ],
)
def test_a_benchmark_section_that_cannot_work_is_refused(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        BenchmarkConfig.model_validate(settings)
