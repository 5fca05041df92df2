"""`decide --scores`: a verdict on anybody's results per item."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines import decide
from pipelines.core.paths import ROOT


def table(path: Path, answers: dict[str, str], usd: dict[str, float] | None = None) -> Path:
    """One row per item and candidate; `answers`: a 1 or 0 per item, `.` = none."""
    lines = ["example_id,candidate,score" + (",usd" if usd else "")]
    for name, marks in answers.items():
        price = f",{usd[name]}" if usd else ""
        lines += [f"q{k},{name},{mark}{price}" for k, mark in enumerate(marks) if mark != "."]
    path.write_text("\n".join(lines) + "\n")
    return path


def run(capfd: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = decide.main([str(word) for word in words])
    out, err = capfd.readouterr()
    return code, out, err


def ruled(capfd: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    code, out, _ = run(capfd, *words, "--json")
    assert code == 0
    return json.loads(out)


# 400 items: both right on 360, only one of them on 4 each, neither on 32.
SAME = {"big": "1" * 364 + "0" * 36, "small": "1" * 360 + "0" * 4 + "1" * 4 + "0" * 32}
USD = {"big": 0.01, "small": 0.001}


def test_a_cheaper_candidate_that_is_as_good_is_chosen(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = table(tmp_path / "t.csv", SAME, USD)
    found = ruled(capfd, "--scores", path, "--incumbent", "big", "--margin", "0.03")
    assert (found["schema_version"], found["verdict"], found["chosen"]) == (1, "switch", "small")
    small = found["candidates"]["small"]
    assert small["comparison"] == "non-inferior"
    assert small["difference"]["mean"] == 0
    assert small["usd_per_task"] == pytest.approx(0.001)
    # 364 of 400 right: 0.001 / 0.91 a good answer.
    assert small["usd_per_good_task"]["mean"] == pytest.approx(0.001 / 0.91, rel=0.01)
    assert found["candidates"]["big"]["comparison"] == "incumbent"
    kinds = ("--kind", "big=rent", "--kind", "small=own")
    found = ruled(capfd, "--scores", path, "--incumbent", "big", "--margin", "0.03", *kinds)
    assert found["verdict"] == "own"


def test_an_error_that_costs_more_than_is_saved_demands_a_gain(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = table(tmp_path / "t.csv", SAME, USD)
    words = ("--scores", path, "--incumbent", "big", "--margin", "0.03", "--error-cost")
    # $0.009 saved a task; errors of $10: at most 0.0009 of the answers may be lost.
    dear = ruled(capfd, *words, "10")
    assert dear["candidates"]["small"]["margin"] == pytest.approx(0.0009)
    assert (dear["verdict"], dear["chosen"]) == ("insufficient", None)
    assert dear["required_n"]["small"] > 400
    both = ruled(capfd, *words, "6", "--value-per-task", "4")
    assert both["usd_per_error"] == 10
    assert ruled(capfd, *words, "0.1")["chosen"] == "small"


def test_what_is_missing_lowers_the_coverage(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    answers = {"big": SAME["big"], "small": SAME["small"][:380] + "." * 20}
    path = table(tmp_path / "t.csv", answers, USD)
    found = ruled(capfd, "--scores", path, "--incumbent", "big", "--margin", "0.03")
    assert found["candidates"]["small"]["coverage"] == 0.95
    assert "95.0%" in found["candidates"]["small"]["excluded_because"]
    assert found["chosen"] != "small"


def test_the_table_shows_names_as_text(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    evil = "\x1b[31msmall\u202e"
    path = table(tmp_path / "t.csv", {"big": SAME["big"], evil: SAME["small"]})
    code, out, _ = run(capfd, "--scores", path, "--incumbent", "big", "--margin", "0.03")
    assert code == 0
    assert "\x1b" not in out
    assert "\u202e" not in out


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--margin", "2"], "share"),
        (["--margin", "nan"], "share"),
        (["--margin", "0.1", "--kind", "big=ours"], "NAME=own"),
        (["--margin", "0.1", "--error-cost", "-1"], "0 or more"),
        (["--margin", "0.1", "--requests-per-month", "0"], "number of requests"),
    ],
)
def test_a_wrong_flag_is_one_clear_error(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], problem: str
) -> None:
    path = table(tmp_path / "t.csv", SAME)
    with pytest.raises(SystemExit) as stopped:
        run(capfd, "--scores", path, "--incumbent", "big", *words)
    assert stopped.value.code == 2
    assert problem in capfd.readouterr().err


def test_a_wrong_table_is_one_clear_error(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = table(tmp_path / "t.csv", SAME)
    code, out, err = run(capfd, "--scores", path, "--incumbent", "huge", "--margin", "0.1")
    assert (code, out) == (2, "")
    assert "huge" in err
    assert "big" in err


def test_it_needs_no_study_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", SAME, USD)
    before = sorted(tmp_path.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.decide", f"--scores={path}", "--incumbent=big",
         "--margin=0.03"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("Verdict: SWITCH (small)")
    assert sorted(tmp_path.iterdir()) == before
