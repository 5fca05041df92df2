"""A long file is read as a short one is, whatever its later records hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.core.usage_log import UsageLog
from pipelines.usage_logs import alike, read

FIXTURES = Path(__file__).parent / "fixtures"
LINES = sorted(FIXTURES.glob("*.jsonl"))
N = 3
"""Records that are looked at first, here."""


def call(number: int, **more: Any) -> dict[str, Any]:
    return {
        "timestamp": f"2026-11-01T12:00:{number:02}Z",
        "request_id": f"req_{number}",
        "model": "m",
        "latency_ms": 12.5,
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        **more,
    }


def as_long(monkeypatch: pytest.MonkeyPatch, paths: Sequence[Path]) -> tuple[UsageLog, int]:
    """Read as if each file were long, and how many were read with only what they hold."""
    kept: list[bool] = []
    scan = read._Reading._scan_alike

    def noted(*args: Any) -> bool:
        kept.append(scan(*args))
        return kept[-1]

    with monkeypatch.context() as patch:
        patch.setattr(read, "LONG_FILE_BYTES", 0)
        patch.setattr(alike, "N_SAMPLED", N)
        patch.setattr(read._Reading, "_scan_alike", noted)
        return read.read(paths, thresholds=(128_000,)), sum(kept)


def as_short(*paths: Path) -> UsageLog:
    return read.read(paths, thresholds=(128_000,))


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


@pytest.mark.parametrize("path", LINES, ids=lambda path: path.stem)
def test_every_format_is_read_the_same(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    assert as_long(monkeypatch, [path])[0] == as_short(path)


def test_records_that_are_alike_are_read_with_what_they_hold(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [call(k, tag="a" if k % 2 else "") for k in range(30)]
    path = written(tmp_path / "log.jsonl", *rows)
    assert as_long(monkeypatch, [path]) == (as_short(path), 1)


@pytest.mark.parametrize(
    "late",
    [
        {"error": "timeout"},
        {"status_code": 500},
        {"tag": "late"},
        {"usage": {"prompt_tokens": 100, "completion_tokens": 10, "cache_read_input_tokens": 90}},
        {"usage": {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 90}}},
        {"usage": {"prompt_tokens": 1.5, "completion_tokens": "ten"}},
        {"usage": None},
        {"usage": "none"},
        {"request_id": 7},
        {"request_id": "req_1"},
        {"model": None},
        {"model": {"name": "m"}},
        {"timestamp": 1793534400},
        {"timestamp": "yesterday"},
        {"latency_ms": "slow", "usage": {"prompt_tokens": -1}},
        "{broken",
        "[1, 2]",
        '"text"',
        "",
    ],
    ids=str,
)
def test_a_late_record_of_another_kind_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, late: Any
) -> None:
    row = {**call(20), **late} if isinstance(late, dict) else late
    rows = [*(call(k) for k in range(20)), row, call(21)]
    path = written(tmp_path / "log.jsonl", *rows)
    assert as_long(monkeypatch, [path])[0] == as_short(path)


def test_a_key_that_no_format_reads_does_not_hide_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [*(call(k) for k in range(9)), call(9, error="e"), call(10, unheard_of=1, error="e")]
    path = written(tmp_path / "log.jsonl", *rows)
    found, n_alike = as_long(monkeypatch, [path])
    assert (found, n_alike) == (as_short(path), 0)
    [group] = found.groups
    assert group.n_failed == 2


def test_a_repeated_id_is_found_between_long_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = written(tmp_path / "a.jsonl", *(call(k) for k in range(10)))
    second = written(tmp_path / "b.jsonl", *(call(k) for k in range(8, 20)))
    found, n_alike = as_long(monkeypatch, [first, second])
    assert (found, n_alike) == (as_short(first, second), 2)
    assert found.n_repeated == 2
    assert sum(each.n_calls for each in found.groups) == 20


def test_long_files_read_side_by_side_are_read_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    paths = [
        written(
            tmp_path / f"{k}.jsonl", *(call(n, tag=f"t{k}") for n in range(10 * k, 10 * k + 12))
        )
        for k in range(5)
    ]
    paths.append(written(tmp_path / "odd.jsonl", *(call(n) for n in range(9)), call(9, error="e")))
    paths.append(written(tmp_path / "bad.jsonl", *(call(n) for n in range(50, 60)), "{broken"))
    monkeypatch.setattr(read, "FILES_PER_CORE", 0)
    found, n_alike = as_long(monkeypatch, paths)
    assert (found, n_alike) == (as_short(*paths), 5)
    assert found.n_repeated == 4 * 2 + 10 + 2  # neighbours, all of odd.jsonl, two of bad.jsonl
    assert sum(found.n_bad.values()) == 1


def test_the_first_file_that_cannot_be_read_ends_the_reading_of_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    paths = [written(tmp_path / f"{k}.jsonl", call(k)) for k in range(40)]
    begun: list[str] = []

    def failing(reading: Any, engine: Any, sources: Any) -> None:
        begun.append(sources[0].path)
        if len(begun) == 1:
            raise KeyboardInterrupt
        engine.execute("SELECT count(*) FROM range(100000000) a, range(1000) b")

    monkeypatch.setattr(read, "FILES_PER_CORE", 0)
    monkeypatch.setattr(read._Reading, "_scan", failing)
    with pytest.raises(KeyboardInterrupt):
        as_long(monkeypatch, paths)
    assert len(begun) <= 2 * read.n_cores()


NAMES = st.sampled_from(["", "a", "b", None])
USAGES = st.fixed_dictionaries(
    {"prompt_tokens": st.integers(-1, 300_000)},
    optional={
        "completion_tokens": st.integers(0, 50) | st.none(),
        "prompt_tokens_details": st.fixed_dictionaries({"cached_tokens": st.integers(0, 50)}),
        "cost": st.integers(0, 3) | st.floats(0, 1),
        "service_tier": st.sampled_from(["flex", "default", "odd"]),
    },
)
ROWS = st.fixed_dictionaries(
    {"model": NAMES, "timestamp": st.sampled_from(["2026-11-01T12:00:00Z", "2026-11-01 13:00+01"])},
    optional={
        "request_id": st.sampled_from(["r1", "r2", "r3", None]),
        "tag": NAMES,
        "project": NAMES,
        "error": st.sampled_from([None, "e", {"code": 1}]),
        "usage": USAGES,
        "metadata": st.fixed_dictionaries({}, optional={"team": NAMES}),
    },
)


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(first=ROWS, more=st.lists(ROWS, max_size=8), n=st.integers(1, 4))
def test_any_records_are_read_the_same(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    first: dict[str, Any],
    more: list[dict[str, Any]],
    n: int,
) -> None:
    head = {**first, "usage": {"prompt_tokens": 1}}
    path = written(tmp_path / "log.jsonl", *[head] * n, *more)
    assert as_long(monkeypatch, [path])[0] == as_short(path)
