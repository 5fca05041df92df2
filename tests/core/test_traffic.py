"""When requests come: the shipped profiles, times in files, and what public traces look like."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, pstdev

import pytest
from pydantic import ValidationError

from pipelines.core.config import CONFIGS
from pipelines.core.traffic import Profile, Timestamps, counts, times_s
from pipelines.core.workload import Traffic

PROFILES = sorted((CONFIGS / "traffic").glob("*.yaml"))
needs_data = pytest.mark.skipif("FREEHOLD_DATA" not in os.environ, reason="needs FREEHOLD_DATA")


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_shipped_profile_is_a_week_with_a_source(path: Path) -> None:
    profile = Traffic.model_validate({"tasks_per_month": 1, "profile": path.stem}).profile
    assert isinstance(profile, Profile)
    assert profile.name == path.stem
    assert len(profile.weights) == 168
    assert profile.source


def test_an_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(ValidationError, match=r"configs/traffic/calm\.yaml.*office_hours"):
        Traffic.model_validate({"tasks_per_month": 1, "profile": "calm"})


def test_times_of_both_formats_are_read_and_put_in_order(tmp_path: Path) -> None:
    # 60 s, 0 s and 1.5 s after 1970 began, in three notations.
    rows = "id,Timestamp\n1,1970-01-01T00:01:00Z\n2,1970-01-01 00:00:00.0000000\n3,1.5\n"
    (tmp_path / "log.csv").write_text(rows, encoding="utf-8")
    lines = '{"ts": "1970-01-01T01:01:00+01:00"}\n\n{"ts": 0}\n{"ts": 1.5}\n'
    (tmp_path / "log.jsonl").write_text(lines, encoding="utf-8")
    from_csv = Timestamps.model_validate(f"{tmp_path}/log.csv")
    from_json = Timestamps.model_validate({"path": f"{tmp_path}/log.jsonl", "column": "TS"})
    assert times_s(from_csv) == times_s(from_json) == (0.0, 1.5, 60.0)
    # Other times are another study.
    (tmp_path / "log.csv").write_text(rows + "4,2\n", encoding="utf-8")
    assert Timestamps.model_validate(f"{tmp_path}/log.csv") != from_csv


def test_times_without_an_offset_are_utc_wherever_we_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log.csv").write_text("timestamp\n1970-01-01 00:00\n60\n", encoding="utf-8")
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        assert times_s(Timestamps.model_validate(f"{tmp_path}/log.csv")) == (0, 60)
    time.tzset()


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ("time\n1\n2\n", r"log\.csv:2: no column 'timestamp'; it has time"),
        ("timestamp\n1\nnever\n", r"log\.csv:3: 'never' is not a time"),
        ("timestamp\n1\ninf\n", r"log\.csv:3: 'inf' is not a time"),
        ("timestamp\n1\n\n1\n", "two different times, has 2 rows"),
        ("timestamp\n1700000000000\n1800000000000\n", "are they in seconds"),
        ("", "has 0 rows"),
    ],
)
def test_a_file_without_times_says_where(tmp_path: Path, rows: str, problem: str) -> None:
    (tmp_path / "log.csv").write_text(rows, encoding="utf-8")
    with pytest.raises(ValidationError, match=problem):
        Traffic.model_validate({"tasks_per_month": 1, "timestamps": f"{tmp_path}/log.csv"})


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(b"timestamp\n\xff\xfe\n")
    with pytest.raises(ValidationError, match="cannot be read"):
        Traffic.model_validate({"tasks_per_month": 1, "timestamps": f"{tmp_path}/log.csv"})


def test_an_unset_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOGS_OF_OURS", raising=False)
    with pytest.raises(ValidationError, match=r"\$LOGS_OF_OURS is not set.*may\.csv"):
        Traffic.model_validate({"tasks_per_month": 1, "timestamps": "$LOGS_OF_OURS/may.csv"})


def test_timestamps_alone_tell_the_shape(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("timestamp\n1\n2\n", encoding="utf-8")
    both = {"tasks_per_month": 1, "timestamps": f"{tmp_path}/log.csv", "peak_to_mean": 4}
    with pytest.raises(ValidationError, match="leave these out"):
        Traffic.model_validate(both)


def test_counts_by_hand() -> None:
    # Windows of 10 s from 5 on: 5 and 6 | none | 25 | 36 | 50.
    assert counts((5.0, 6.0, 25.0, 36.0, 50.0), 10) == (2, 0, 1, 1, 1)


@needs_data
@pytest.mark.parametrize(
    ("service", "n", "variation", "peaks"),
    [("code", 8819, "13.2", ("26", "12.8", "4.2")), ("conv", 19366, "1.09", ("2.9", "1.8", "1.5"))],
)
def test_the_azure_traces_of_2023(
    service: str, n: int, variation: str, peaks: Sequence[str]
) -> None:
    """Known of one hour of two services: how the gaps vary (standard deviation over mean), and how
    many times the mean the busiest 1, 10 and 60 seconds are."""
    path = f"$FREEHOLD_DATA/azure_llm_2023/AzureLLMInferenceTrace_{service}.csv"
    times = times_s(Timestamps.model_validate(path))
    assert len(times) == n
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert as_written(pstdev(gaps) / fmean(gaps), variation)
    for window_s, known in zip((1, 10, 60), peaks, strict=True):
        found = counts(times, window_s)
        assert as_written(max(found) / fmean(found), known), window_s


def as_written(value: float, known: str) -> bool:
    """Equal in all digits that are known."""
    return f"{value:.{len(known.partition('.')[2])}f}" == known
