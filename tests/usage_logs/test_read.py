from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow
import pytest

from pipelines.core.errors import ConfigError, DataError
from pipelines.core.usage_log import GroupedBy, UsageLog
from pipelines.usage_logs import engine
from pipelines.usage_logs.prompts import prompts
from pipelines.usage_logs.read import N_LISTED, read

FIXTURES = Path(__file__).parent / "fixtures"
UNREADABLE = "no JSON object, or one without model, time and tokens"
NOON = 1793534400 // 3600
"""2026-11-01, 12 o'clock UTC."""


def call(number: int = 0, **more: Any) -> dict[str, Any]:
    """100 tokens in, 10 out."""
    return {
        "timestamp": "2026-11-01T12:00:00Z",
        "request_id": f"req_{number}",
        "model": "m",
        "usage": {"prompt_tokens": 100, "completion_tokens": 10},
        **more,
    }


def text(*rows: Mapping[str, Any] | str) -> str:
    return "".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in rows)


def written(folder: Path, *rows: Mapping[str, Any] | str, name: str = "log.jsonl") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text(*rows))
    return path


def read_one(*paths: Path, group_by: GroupedBy | None = None, **more: Any) -> UsageLog:
    return read(paths, thresholds=(), group_by=group_by, **more)


def n_calls(log: UsageLog) -> int:
    return sum(each.n_calls for each in log.groups)


def places(log: UsageLog) -> list[tuple[str, int, str]]:
    return [(Path(each.file).name, each.line, each.reason) for each in log.bad_rows]


def test_bad_rows_are_counted_by_reason_and_named_by_line(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        call(1),
        "",
        '{"broken": ',
        call(2, model=None),
        call(3, timestamp="yesterday"),
        call(4, usage={"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details":
                       {"cached_tokens": 6}}),
        call(5, usage={"prompt_tokens": -5, "completion_tokens": 1}),
        call(6, usage={"prompt_tokens": 10**15, "completion_tokens": 1}),
        call(7, usage={"prompt_tokens": 5, "completion_tokens": 1,
                       "completion_tokens_details": {"reasoning_tokens": 2}}),
        call(8, service_tier="scale"),
        "[1, 2]",
        call(9),
    )  # fmt: skip
    log = read_one(path)
    assert n_calls(log) == 2
    assert log.n_rows == 11
    assert sum(log.n_bad.values()) == 9
    assert log.files[0].n_rows == 11
    assert log.files[0].n_bad == 9
    assert sorted(places(log), key=lambda place: place[1]) == [
        ("log.jsonl", 3, UNREADABLE),
        ("log.jsonl", 4, "no model"),
        ("log.jsonl", 5, "no timestamp, or one that cannot be read"),
        ("log.jsonl", 6, "an impossible count: cached and written tokens exceed the input"),
        ("log.jsonl", 7, "a negative count"),
        ("log.jsonl", 8, "an impossible count: more than 1,000,000,000 tokens in one call"),
        ("log.jsonl", 9, "an impossible count: reasoning tokens exceed the output"),
        ("log.jsonl", 10, "an unknown service tier, or capacity paid by the hour"),
        ("log.jsonl", 11, UNREADABLE),
    ]


def test_only_the_first_bad_rows_of_a_reason_are_listed_across_files(tmp_path: Path) -> None:
    first = written(tmp_path, call(), *["{"] * (N_LISTED - 1), name="a.jsonl")
    second = written(tmp_path, call(1), *["{"] * 5, name="b.jsonl")
    log = read_one(first, second)
    assert log.n_bad == {UNREADABLE: N_LISTED + 4}
    assert len(log.bad_rows) == N_LISTED
    assert places(log)[0][:2] == ("a.jsonl", 2)
    assert places(log)[-1][:2] == ("b.jsonl", 2)


def test_lines_are_right_far_into_a_file(tmp_path: Path) -> None:
    rows: list[dict[str, Any] | str] = [call(n, note="x" * 300) for n in range(150_000)]
    rows[131_071] = "{"
    rows[140_000] = call(7)
    log = read_one(written(tmp_path, *rows))
    assert places(log) == [("log.jsonl", 131_072, UNREADABLE)]
    [again] = log.repeated
    assert again.line == 140_001
    assert again.reason.endswith("log.jsonl:8")
    assert n_calls(log) == 149_998


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_lines_are_counted_whatever_they_hold(tmp_path: Path, ending: str) -> None:
    raw = text(call(1, tag="5 \u20ac"), "", "  ", "\U0001f600 {broken \u20ac", call(3)).encode()
    packed = {".gz": gzip.compress, ".zst": lambda each: pyarrow.compress(each, "zstd", True)}
    path = tmp_path / f"log.jsonl{ending}"
    path.write_bytes(packed[ending](raw) if ending else raw)
    log = read_one(path)
    assert n_calls(log) == 2
    assert places(log) == [(path.name, 4, UNREADABLE)]


def test_a_repeated_request_counts_once_across_files_and_formats(tmp_path: Path) -> None:
    chat = {"id": "chatcmpl-1", "created": 1793534400, "model": "gpt-6.1-sol",
            "usage": {"prompt_tokens": 1200, "completion_tokens": 300}}  # fmt: skip
    own = written(tmp_path, chat, call(2), call(2), name="own.jsonl")
    log = read_one(own, FIXTURES / "litellm.jsonl")
    assert log.n_repeated == 2
    assert n_calls(log) == 2 + 3
    assert [(Path(each.file).name, each.line) for each in log.repeated] == [
        ("own.jsonl", 3),
        ("litellm.jsonl", 1),
    ]
    assert log.repeated[1].reason.endswith("own.jsonl:1")
    [sol] = [each for each in log.groups if each.model == "gpt-6.1-sol" and not each.n_failed
             and each.workload == "gpt-6.1-sol"]  # fmt: skip
    assert sol.input_tokens == 1200


def test_of_a_repeated_request_the_row_with_tokens_counts(tmp_path: Path) -> None:
    log = read_one(written(tmp_path, call(1, usage=None), call(1), call(1, usage=None)))
    [group] = log.groups
    assert (group.n_calls, group.input_tokens, group.n_without_usage) == (1, 100, 0)
    assert log.n_repeated == 2


def test_an_export_read_twice_counts_once(tmp_path: Path) -> None:
    for name in ("openai_usage.json", "openai_costs.json", "otlp.jsonl"):
        once = read_one(FIXTURES / name)
        copy = tmp_path / name
        copy.write_bytes((FIXTURES / name).read_bytes())
        twice = read_one(FIXTURES / name, copy)
        assert twice.groups == once.groups
        assert twice.billed == once.billed
        assert twice.hourly == once.hourly
        assert twice.n_repeated == once.n_rows - sum(once.n_bad.values())


def test_ids_that_are_mere_numbers_are_compared_within_their_file(tmp_path: Path) -> None:
    first = written(tmp_path, call(request_id=1), call(request_id=2), name="a.jsonl")
    second = written(tmp_path, call(request_id=1), call(request_id=1), name="b.jsonl")
    log = read_one(first, second)
    assert log.n_repeated == 1
    assert n_calls(log) == 3


LINES = "columns = {{'line': 'VARCHAR'}}, delim = '', quote = '', escape = '', header = false"
COPIES = {
    "zst": ("FROM read_csv('{0}', " + LINES + ", auto_detect = false)",
            "FORMAT CSV, HEADER false, QUOTE '', DELIMITER '\x01', COMPRESSION zstd"),
    "parquet": ("FROM read_json('{0}')", "FORMAT PARQUET"),
    "csv": ("SELECT * REPLACE (to_json(usage) AS usage) FROM read_json('{0}')", "FORMAT CSV"),
}  # fmt: skip
"""What the engine copies, and how it writes it."""


@pytest.mark.parametrize("ending", ["gz", "json", *COPIES])
def test_every_way_a_file_may_lie_on_disk(tmp_path: Path, ending: str) -> None:
    rows = [call(n) for n in range(3)]
    broken = ["{"] if ending in ("gz", "zst") else []
    path = tmp_path / f"log.{ending}"
    if ending == "gz":
        path.write_bytes(gzip.compress(text(*rows, *broken).encode()))
    elif ending == "json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        plain = written(tmp_path, *rows, *broken)
        what, how = COPIES[ending]
        duckdb.connect().execute(f"COPY ({what.format(plain)}) TO '{path}' ({how})")
    log = read_one(path)
    [group] = log.groups
    assert (group.n_calls, group.input_tokens, group.output_tokens) == (3, 300, 30)
    assert [each.line for each in log.bad_rows] == ([4] if broken else [])


def test_names_with_quotes_patterns_and_a_byte_order_mark(tmp_path: Path) -> None:
    names = ["o'brien; DROP TABLE grouped --.jsonl", "day=[1]*?.jsonl", 'a"b{c}.jsonl']
    paths = [written(tmp_path, call(n), name=name) for n, name in enumerate(names)]
    marked = tmp_path / "windows.jsonl"
    marked.write_bytes(b"\xef\xbb\xbf" + text(call(7), "{").replace("\n", "\r\n").encode())
    log = read_one(*paths, marked)
    assert n_calls(log) == 4
    assert [Path(each.file).name for each in log.files] == [*names, "windows.jsonl"]
    assert places(log) == [("windows.jsonl", 2, UNREADABLE)]


def test_hostile_names_are_data(tmp_path: Path) -> None:
    name = "'); DROP TABLE grouped; --<script>" + "x" * 300
    [group] = read_one(written(tmp_path, call(tag=name, model=name, region=name))).groups
    assert (group.workload, group.model, group.region) == (name, name, name)


def test_a_folder_is_read_and_what_is_unknown_in_it_is_named(tmp_path: Path) -> None:
    written(tmp_path, call(1), name="day=1/a.jsonl")
    written(tmp_path, call(2), name="day=2/a.jsonl")
    written(tmp_path, "no log, but a letter", name="readme.txt")
    written(tmp_path, call(3), name=".hidden.jsonl")
    written(tmp_path, name="empty.jsonl")
    log = read_one(tmp_path, tmp_path / "day=1" / "a.jsonl")
    assert n_calls(log) == 2
    assert [Path(each).name for each in log.skipped] == ["empty.jsonl", "readme.txt"]
    assert n_calls(read([str(tmp_path / "day=*" / "*.jsonl")], thresholds=())) == 2


def test_an_unknown_file_names_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"letter.txt: .* no known format; known are .*LiteLLM"):
        read_one(written(tmp_path, "no log, but a letter", name="letter.txt"))
    with pytest.raises(DataError, match="no such file"):
        read_one(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="no known format"):
        read_one(tmp_path)


def test_a_broken_archive_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl.gz"
    path.write_bytes(gzip.compress(text(*(call(n) for n in range(5000))).encode())[:-3000])
    with pytest.raises(DataError, match=r"log\.jsonl\.gz") as caught:
        read_one(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "named", "by"),
    [
        ({"tag": "t", "project": "p", "key": "k"}, "t", "tag"),
        ({"tag": "", "project": "p", "key": "k"}, "p", "project"),
        ({"key": "k"}, "k", "key"),
        ({"metadata": {"feature": "f"}}, "f", "tag"),
        ({}, "m", "model"),
    ],
)
def test_the_most_telling_name_is_taken(
    tmp_path: Path, row: dict[str, Any], named: str, by: str
) -> None:
    [group] = read_one(written(tmp_path, call(**row))).groups
    assert (group.workload, group.grouped_by) == (named, by)


def test_a_grouping_that_was_asked_for_comes_first(tmp_path: Path) -> None:
    path = written(tmp_path, call(1, tag="t", project="p"), call(2, tag="t"))
    log = read_one(path, group_by="project")
    assert {(each.workload, each.grouped_by) for each in log.groups} == {
        ("p", "project"),
        ("m", "model"),
    }
    with pytest.raises(ConfigError, match="tag, project, key, prompt, model"):
        read(["x"], thresholds=(), group_by="colour")  # pyright: ignore[reportArgumentType]


def test_prompts_stay_out_unless_asked_for() -> None:
    path = FIXTURES / "requests.jsonl"
    assert "support mail" not in repr(read_one(path))
    shown = read_one(path, show_prompts=True)
    assert "You sort support mail. Be brief." in {each.workload for each in shown.groups}
    assert "parcel" not in repr(shown)


def test_calls_are_counted_by_the_hour(tmp_path: Path) -> None:
    times = ("12:00:00Z", "12:59:59.999Z", "14:30:00+01:00", "12:15:00")
    rows = [call(n, timestamp=f"2026-11-01T{time}", tag="t") for n, time in enumerate(times)]
    log = read_one(written(tmp_path, *rows))
    assert log.hourly == {"t": {NOON: 3, NOON + 1: 1}}


@pytest.mark.parametrize(
    "moment", [1793534400, 1793534400.5, 1793534400123, 1793534400123456, 1793534400123456789]
)
def test_epochs_are_told_by_their_length(tmp_path: Path, moment: float) -> None:
    log = read_one(written(tmp_path, call(timestamp=moment)))
    assert log.hourly == {"m": {NOON: 1}}


def test_the_largest_threshold_below_the_prompt_is_kept(tmp_path: Path) -> None:
    rows = [call(n, usage={"prompt_tokens": tokens, "completion_tokens": 1})
            for n, tokens in enumerate((200_000, 200_001, 272_001))]  # fmt: skip
    log = read([written(tmp_path, *rows)], thresholds=(200_000, 272_000))
    assert {each.context_over: each.input_tokens for each in log.groups} == {
        0: 200_000, 200_000: 200_001, 272_000: 272_001,
    }  # fmt: skip


def test_a_table_row_that_does_not_fit_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(
        "date,model,input_tokens,output_tokens\n2026-11-01,m,100,10\n"
        "2026-11-01,m,100,10,7,8,9\n2026-11-02,m,100,10\n"
    )
    log = read_one(path)
    assert n_calls(log) == 2
    assert log.n_rows == 3
    assert places(log) == [("log.csv", 3, "a row that does not fit the table")]


def test_names_that_differ_from_call_to_call_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, *(call(n, tag=f"session-{n}") for n in range(11)))
    monkeypatch.setattr("pipelines.usage_logs.read.MAX_GROUPS", 10)
    with pytest.raises(DataError, match=r"11 groups .* group by another"):
        read_one(path)
    assert n_calls(read_one(path, group_by="model")) == 11


def test_nothing_is_left_behind_and_nothing_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with engine.opened(1.0) as (opened, folder):
        settings = dict(opened.execute("SELECT name, value FROM duckdb_settings()").fetchall())
        assert folder.parent == tmp_path
    assert settings["autoinstall_known_extensions"] == "false"
    assert settings["autoload_known_extensions"] == "false"
    assert settings["memory_limit"] == "1.0 GiB"
    read_one(FIXTURES)
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_one_clear_error(tmp_path: Path) -> None:
    path = written(tmp_path, *(call(n) for n in range(20)))
    with pytest.raises(DataError, match="memory are not enough"):
        read_one(path, memory_gib=0.001)


def test_all_fixtures_together_are_the_sum_of_each() -> None:
    together = read_one(FIXTURES)
    alone = [read_one(path) for path in sorted(FIXTURES.iterdir())]
    assert together.n_rows == sum(each.n_rows for each in alone)
    # chatcmpl-1 is in two of them
    assert together.n_repeated == sum(each.n_repeated for each in alone) + 1
    assert n_calls(together) == sum(map(n_calls, alone)) - 1
    assert len(together.billed) == 5


def test_sampled_prompts_are_those_of_the_workload() -> None:
    drawn = list(prompts([FIXTURES], "faq", 5))
    [(messages, answer)] = drawn
    assert [(turn.role, turn.content) for turn in messages] == [
        ("system", "Answer from the handbook."),
        ("user", "May I work from abroad?"),
    ]
    assert answer == "Up to 30 days."
    assert list(prompts([FIXTURES], "claims' OR true --", 5)) == []


@pytest.mark.parametrize(
    ("name", "workload", "question", "answer"),
    [
        ("exchanges.jsonl", "prompt 4cfcf2d18bd9", "How many days off?", "Thirty."),
        ("bedrock.jsonl", "claims", "Broken glass.", "glass"),
        ("gemini.jsonl", "search", "blue shoes", "ok"),
        ("requests.jsonl", "You sort support mail. Be brief.", "Where is my parcel?", "shipping"),
    ],
)
def test_prompts_of_every_shape(name: str, workload: str, question: str, answer: str) -> None:
    [(messages, text_)] = prompts([FIXTURES / name], workload, 3)
    assert (messages[-1].content, text_) == (question, answer)


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "1960-01-01", "9999-01-01", "", 0, -5])
def test_impossible_moments_are_bad_rows(tmp_path: Path, moment: object) -> None:
    log = read_one(written(tmp_path, call(1, timestamp=moment), call(2)))
    assert n_calls(log) == 1
    assert places(log) == [("log.jsonl", 1, "no timestamp, or one that cannot be read")]


def test_a_document_on_one_long_line_is_read(tmp_path: Path) -> None:
    page = json.loads((FIXTURES / "openai_usage.json").read_text())
    page["note"] = "x" * 40_000_000
    path = tmp_path / "usage.json"
    path.write_text(json.dumps(page))
    assert read_one(path).groups == read_one(FIXTURES / "openai_usage.json").groups
