"""Rows of a file are the rows that were written, in any selection, and few bytes of memory each."""

from __future__ import annotations

import gc
import os
import tempfile
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from pipelines.core.errors import DataError
from pipelines.core.records import Example, Message, TrainingRow
from pipelines.core.row_file import RowFile, lines, spooled, taken


def row(text: str, answer: str = "ok") -> TrainingRow:
    return TrainingRow(
        messages=(Message(role="user", content=text), Message(role="assistant", content=answer))
    )


ROWS = [
    row("a\nb\u2028c\x00 é😀").model_copy(
        update={
            "metadata": {"n": 10**30, "x": 0.1, "y": -0.0, "list": [1, None, {"k": True}]},
            "answered_at": datetime(2026, 11, 1, 10, 0, 0, 123456, tzinfo=UTC),
            "group": "g",
        }
    ),
    row(""),
    row("third " * 1000),
    row("fourth"),
]


def test_what_is_read_is_what_was_written() -> None:
    rows = spooled(iter(ROWS))
    assert list(rows) == ROWS
    assert [rows[k] for k in range(4)] == ROWS
    assert [rows[k] for k in (-1, -4)] == [ROWS[3], ROWS[0]]
    assert (
        list(lines(rows))
        == list(lines(ROWS))
        == [r.model_dump_json().encode() + b"\n" for r in ROWS]
    )
    with pytest.raises(IndexError):
        rows[4]


def test_rows_are_taken_from_what_was_taken() -> None:
    rows = spooled(ROWS)
    some = taken(rows, np.array([3, 0, 2]))
    assert isinstance(some, RowFile)
    assert list(some) == [ROWS[3], ROWS[0], ROWS[2]]
    assert list(taken(some, np.array([2, 0]))) == [ROWS[2], ROWS[3]]
    assert list(some[1:]) == [ROWS[0], ROWS[2]]
    assert list(lines(some[:1])) == [ROWS[3].model_dump_json().encode() + b"\n"]
    assert taken(ROWS, np.array([3, 0])) == [ROWS[3], ROWS[0]]
    nothing = taken(rows, np.zeros(0, int))
    assert (len(nothing), list(nothing), bool(nothing)) == (0, [], False)


def test_more_rows_than_are_looked_up_at_once() -> None:
    rows = spooled(row(str(k)) for k in range(10_000))
    odd = rows.take(np.flatnonzero(np.arange(10_000) % 2))
    assert [int(each.messages[0].content) for each in odd] == [*range(1, 10_000, 2)]


def test_two_readers_do_not_disturb_each_other() -> None:
    rows = spooled(ROWS)
    pairs = list(zip(rows, taken(rows, np.array([3, 2, 1, 0])), strict=True))
    assert pairs == list(zip(ROWS, ROWS[::-1], strict=True))


def test_a_view_keeps_the_file_and_the_last_one_gives_it_back(tmp_path: Path) -> None:
    def held() -> set[str]:
        links = (f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd"))
        names = {os.readlink(each) for each in links if os.path.lexists(each)}
        return {each for each in names if str(tmp_path) in each}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path))
        view = spooled(ROWS)[2:]
    gc.collect()
    assert list(view) == ROWS[2:]
    assert len(held()) == 1
    assert list(tmp_path.iterdir()) == [], "the file has no name that a kill could leave behind"
    del view
    gc.collect()
    assert held() == set()


def test_memory_does_not_grow_with_the_texts() -> None:
    tracemalloc.start()
    try:
        rows = spooled(row("x" * 10_000) for _ in range(2_000))
        n_read = sum(len(each.messages[0].content) for each in rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n_read == 20_000_000
    assert peak < 1_000_000


def test_a_row_that_is_no_text_and_a_full_disk_are_one_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(DataError, match="row 2: .*surrogates"):
        spooled([ROWS[0], row("\ud800")])
    with pytest.raises(DataError, match="row 1: .*surrogates"):
        list(lines([Example(id="\ud800", messages=(), target="")]))
    full = Path("/dev/full").open("r+b", buffering=0)  # noqa: SIM115 - its owner closes it
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: full)
    with pytest.raises(DataError, match=r"cannot be kept there: .*No space left.*set TMPDIR"):
        spooled(ROWS)
