"""A data set is rows: one that comes as a program is refused, and the program does not run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.core.errors import DataError
from pipelines.core.workload import DataSource
from pipelines.data.sources import load_training

SCRIPT = """
import pathlib
pathlib.Path({marker!r}).touch()
import datasets

class Rows(datasets.GeneratorBasedBuilder):
    def _info(self):
        return datasets.DatasetInfo()

    def _split_generators(self, _):
        return [datasets.SplitGenerator("train")]

    def _generate_examples(self):
        yield 0, {{"text": "x"}}
"""


@pytest.mark.parametrize(
    "name", ["rows.py", "rows.pkl", "rows.pt", "rows.arrow", "rows", "r.jsonl.py"]
)
def test_only_rows_are_read(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "ran"
    (tmp_path / name).write_text(SCRIPT.format(marker=str(marker)))
    with pytest.raises(DataError, match=r"expected \.jsonl, \.csv or \.parquet"):
        load_training(DataSource(path=str(tmp_path / name)))
    assert not marker.exists()


def test_a_program_in_place_of_a_hub_set_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_FOLDER", raising=False)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder, marker = tmp_path / "rows", tmp_path / "ran"
    folder.mkdir()
    (folder / "rows.py").write_text(SCRIPT.format(marker=str(marker)))
    source = DataSource(
        path="$NO_SUCH_FOLDER/rows", hub=str(folder), hub_split="train", text="text", target="text"
    )
    with pytest.raises(DataError, match="cannot be loaded from the hub"):
        load_training(source)
    assert not marker.exists()
