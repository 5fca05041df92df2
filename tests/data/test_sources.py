"""Rows are read whole; every bad one is named with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.core.errors import DataError
from pipelines.core.workload import DataSource
from pipelines.data.sources import load_eval, load_training, rows_sha256

TURN = '{"role": "user", "content": "hi"}'
ANSWER = '{"role": "assistant", "content": "refund"}'


def source(path: Path, **more: str) -> DataSource:
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
