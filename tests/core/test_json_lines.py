"""JSON Lines: a line without end is refused by its number, before it fills the memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from pipelines.core import json_lines
from pipelines.core.errors import DataError
from pipelines.core.records import Passage


def test_a_line_of_a_gigabyte_is_named_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.write(b'{"id": "1", "title": "", "text": "x"}\n{"id": "2", "title": "')
        file.truncate(1024**3)  # a hole: it takes no room on the disk
    tracemalloc.start()
    with pytest.raises(DataError, match=r"rows\.jsonl: 1 problem\(s\)\s+line 2: longer than 16,"):
        json_lines.read(path, Passage)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * json_lines.MAX_LINE_BYTES


def test_a_line_of_the_longest_length_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = b'{"id": "1", "title": "", "text": "x"}'
    (tmp_path / "rows.jsonl").write_bytes(line + b"\n" + line)
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", len(line) + 1)
    assert len(json_lines.read(tmp_path / "rows.jsonl", Passage)) == 2
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", len(line))
    with pytest.raises(DataError, match="line 1: longer than 37 bytes"):
        json_lines.read(tmp_path / "rows.jsonl", Passage)
