"""Rows are read whole; every bad one is named with file and line."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from pipelines.core.errors import DataError
from pipelines.core.workload import DataSource, LoggedCalls
from pipelines.data.sources import load_eval, load_training, rows_sha256

TURN = '{"role": "user", "content": "hi"}'
ANSWER = '{"role": "assistant", "content": "refund"}'


def source(path: Path, **more: Any) -> DataSource:
    return DataSource(path=str(path), **more)


def test_chat_rows_are_read(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(f'{{"messages": [{TURN}, {ANSWER}]}}\n\n')
    [row] = load_training(source(path))
    assert row.messages[-1].content == "refund"


def test_every_bad_training_row_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(
        f'{{"messages": [{TURN}, {ANSWER}]}}\n'
        f'{{"messages": [{TURN}]}}\n'
        '{"messages": [\n'
        f'{{"messages": [{TURN}, {{"role": "robot", "content": "x"}}]}}\n'
    )
    with pytest.raises(DataError) as caught:
        load_training(source(path))
    message = str(caught.value)
    assert "train.jsonl: 3 problem(s)" in message
    assert "line 2: the last message must be the assistant's" in message
    assert "line 3: not valid JSON" in message
    assert "line 4: messages.1.role" in message


def test_eval_ids_must_be_unique_and_targets_present(tmp_path: Path) -> None:
    path = tmp_path / "eval.jsonl"
    path.write_text(
        f'{{"id": "a", "messages": [{TURN}], "target": "x"}}\n'
        f'{{"id": "a", "messages": [{TURN}], "target": "y"}}\n'
        f'{{"id": "b", "messages": [{TURN}]}}\n'
        f'{{"id": "c", "messages": [{TURN}], "target": " "}}\n'
    )
    with pytest.raises(DataError) as caught:
        load_eval(source(path))
    message = str(caught.value)
    assert "line 2: id: 'a' stands already at line 1" in message
    assert "line 3: target: Field required" in message
    assert "line 4: target: is empty" in message


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_file_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "eval.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match="no rows"):
        load_eval(source(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl: no such file"):
        load_eval(source(tmp_path / "nowhere.jsonl"))


def test_csv_columns_become_turns_and_quoted_newlines_survive(tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    path.write_text('text,category\n"two\nlines",card\nplain,pin\n')
    rows = load_eval(source(path, text="text", target="category"))
    assert [r.messages[0].content for r in rows] == ["two\nlines", "plain"]
    assert [r.id for r in rows] == ["test-00001", "test-00002"]
    assert [r.target for r in rows] == ["card", "pin"]


def test_a_missing_csv_column_lists_the_columns(tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    path.write_text("text,label\na,b\n")
    with pytest.raises(DataError, match="no column category; it has: text, label"):
        load_eval(source(path, text="text", target="category"))


def test_only_twenty_problems_are_printed_and_the_rest_counted(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("nonsense\n" * 25)
    with pytest.raises(DataError, match=r"25 problem\(s\)(.|\n)*and 5 more"):
        load_training(source(path))


def test_an_unset_folder_variable_without_a_hub_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SOME_FOLDER", raising=False)
    with pytest.raises(DataError, match=r"\$SOME_FOLDER is not set"):
        load_eval(DataSource(path="$SOME_FOLDER/x.csv", text="text", target="category"))


def test_an_unreachable_hub_says_which_folder_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_FOLDER", raising=False)
    with pytest.raises(DataError, match=r"set SOME_FOLDER to the folder that holds x\.csv"):
        load_eval(
            DataSource(path="$SOME_FOLDER/x.csv", text="text", target="y", hub="nobody/nothing")
        )


def test_the_digest_changes_with_a_row_and_with_the_order(tmp_path: Path) -> None:
    path = tmp_path / "eval.jsonl"
    one = f'{{"id": "a", "messages": [{TURN}], "target": "x"}}\n'
    two = f'{{"id": "b", "messages": [{TURN}], "target": "y"}}\n'
    path.write_text(one + two)
    rows = load_eval(source(path))
    assert rows_sha256(rows) == rows_sha256(list(rows))
    assert rows_sha256(rows) != rows_sha256(rows[::-1])
    assert rows_sha256(rows) != rows_sha256(rows[:1])


def table(path: Path, **columns: list[object]) -> Path:
    parquet.write_table(pyarrow.table(columns), path)
    return path


def test_parquet_columns_become_turns(tmp_path: Path) -> None:
    path = table(
        tmp_path / "train.parquet", text=["card lost", "pin"], category=["lost", "pin"],
        licence=["MIT", None], other=[1, 2],
    )  # fmt: skip
    rows = load_training(source(path, text="text", target="category"))
    assert [(r.id, r.messages[0].content, r.messages[-1].content) for r in rows] == [
        ("train-00001", "card lost", "lost"),
        ("train-00002", "pin", "pin"),
    ]
    assert [r.licence for r in rows] == ["MIT", None]


def test_parquet_conversations_are_read_and_other_columns_left(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "refund"}]
    path = table(tmp_path / "train.parquet", messages=[turns, turns[:1]], score=[0.1, 0.2])
    with pytest.raises(DataError, match="1 problem(.|\n)*row 2: the last message must be"):
        load_training(source(path))
    path = table(tmp_path / "train.parquet", messages=[turns], score=[0.1])
    assert load_training(source(path))[0].messages[-1].content == "refund"


def test_bad_parquet_is_one_error(tmp_path: Path) -> None:
    path = table(tmp_path / "train.parquet", text=["a", None, "b"], category=["x", "y", None])
    with pytest.raises(
        DataError, match=r"2 problem(.|\n)*row 2: text is null(.|\n)*row 3: category"
    ):
        load_training(source(path, text="text", target="category"))
    with pytest.raises(DataError, match="no column label; it has: text, category"):
        load_training(source(path, text="text", target="label"))
    path.write_text("no table")
    with pytest.raises(DataError, match=r"train\.parquet: not a Parquet file"):
        load_training(source(path, text="text", target="category"))


def test_rows_state_their_licence_else_the_source_does(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(
        f'{{"messages": [{TURN}, {ANSWER}], "licence": "CC0-1.0", "answered_by": "a person"}}\n'
        f'{{"messages": [{TURN}, {ANSWER}], "answered_at": "2026-11-01T10:00:00Z"}}\n'
    )
    rows = load_training(source(path, licence="MIT", answered_by="gpt-6"))
    assert [(r.licence, r.answered_by) for r in rows] == [("CC0-1.0", "a person"), ("MIT", "gpt-6")]


def test_a_time_without_a_zone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(f'{{"messages": [{TURN}, {ANSWER}], "answered_at": "2026-11-01T10:00:00"}}\n')
    with pytest.raises(DataError, match="line 1: answered_at: Input should have timezone info"):
        load_training(source(path))


def test_columns_beside_text_and_target_tell_where_a_row_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("text,label,group,licence,answered_by\na,x,g1,MIT,gpt-6\nb,y,,,\n")
    first, second = load_training(source(path, text="text", target="label"))
    assert (first.group, first.licence, first.answered_by) == ("g1", "MIT", "gpt-6")
    assert (second.group, second.licence, second.answered_by) == (None, None, None)
    assert [item.group for item in load_eval(source(path, text="text", target="label"))] == [
        None
    ] * 2


def test_logs_are_no_eval_set(tmp_path: Path) -> None:
    logged = DataSource(path=str(tmp_path / "log.jsonl"), calls=LoggedCalls())
    with pytest.raises(DataError, match="logged calls are read for `prepare.train` only"):
        load_eval(logged)
    with pytest.raises(ValueError, match="leave out format, text, target and hub"):
        DataSource(path="mlflow:claims", text="a", target="b")


@pytest.mark.parametrize("name", ["train.jsonl", "train.csv"])
def test_a_line_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("pipelines.data.formats.MAX_LINE_BYTES", 20)
    path = tmp_path / name
    path.write_text("text,label\n" + "x" * 20 + ",a\n")
    with pytest.raises(DataError, match="line 2: longer than 20 bytes"):
        load_training(source(path, text="text", target="label"))


@pytest.mark.parametrize("name", ["train.jsonl", "train.csv"])
def test_a_gigabyte_without_a_line_end_is_never_in_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        file.write(b"text,label\n")
        file.truncate(1 << 30)  # zeros that take no room on the disk
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=rf"{name}: line 2: longer than 16,777,216 bytes"):
            load_training(source(path, text="text", target="label"))
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024**2
    finally:
        tracemalloc.stop()


def test_a_line_is_as_long_as_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(f'{{"messages": [{ANSWER.replace("refund", "é" * 40)}]}}\n', encoding="utf-8")
    size = path.stat().st_size
    monkeypatch.setattr("pipelines.data.formats.MAX_LINE_BYTES", size)
    assert len(load_training(source(path))) == 1
    monkeypatch.setattr("pipelines.data.formats.MAX_LINE_BYTES", size - 1)
    with pytest.raises(DataError, match="line 1: longer than"):
        load_training(source(path))


def test_what_is_no_utf_8_is_named_with_the_line_before(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"messages": []}\n' * 20_000 + b"\xff\n")
    with pytest.raises(DataError, match=r"UTF-8 text after line 1\d{4}: invalid start byte"):
        load_training(source(path))


def test_half_a_character_pair_and_endless_digits_are_one_error(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    good = f'{{"messages": [{TURN}, {ANSWER}]}}\n'
    path.write_text(good + good.replace("hi", "\\ud800"))
    with pytest.raises(DataError, match="row 2: .*surrogates not allowed; correct it, or leave"):
        load_training(source(path))
    path.write_text(good + '{"messages": ' + "1" * 5000 + "}\n")
    with pytest.raises(DataError, match="line 2: not valid JSON: .*digits"):
        load_training(source(path))
