"""`decide --plan`: what it takes, before anything is asked or written."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pytest

from pipelines import decide
from pipelines.core.command import Options
from pipelines.core.config import load_study
from pipelines.evaluate import evaluate
from tests.test_decide_scores import SAME, USD, ruled, run, table


def test_a_plan_makes_no_store(
    small_study: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    uri = f"sqlite:///{tmp_path}/none/mlflow.db"
    code, out, _ = run(capfd, small_study, "--plan", "--tracking-uri", uri)
    assert code == 0
    assert out.startswith("SIMULATED - Expected verdict with the items at hand: NOT KNOWN YET")
    assert sorted(tmp_path.rglob("*")) == before


def test_finished_evaluations_become_the_pilot(
    small_study: Path, store_uri: str, capfd: pytest.CaptureFixture[str]
) -> None:
    evaluate(load_study(small_study), Options(small_study, store_uri, dry_run=False, json=False))
    before = len(mlflow.search_runs(search_all_experiments=True, output_format="list"))
    found = ruled(capfd, small_study, "--plan=90", "--tracking-uri", store_uri)
    assert (found["schema_version"], found["power"]) == (1, 0.9)
    assert found["candidates"]["tfidf-logreg"]["pilot"]["source"] == "finished evaluations"
    assert len(mlflow.search_runs(search_all_experiments=True, output_format="list")) == before


def test_a_table_is_its_own_pilot(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", SAME, USD)
    words = ("--scores", path, "--incumbent", "big", "--margin", "0.01", "--plan")
    found = ruled(capfd, *words)
    # 8 of 400 differ: 6.18256 x 0.02 / 0.0001 = 1,236.5 items; 837 more at $0.011.
    assert found["candidates"]["small"]["hoped"]["n_needed"] == 1237
    assert found["candidates"]["small"]["hoped"]["usd"] == "9.207"
    assert json.dumps(found).count("Infinity") == 0
    code, out, _ = run(capfd, *words)
    assert code == 0
    assert "it takes 1,237 items, 837 more than are at hand" in out


def test_a_power_is_80_or_90(small_study: Path) -> None:
    with pytest.raises(SystemExit):
        decide.main([str(small_study), "--plan=50"])
