"""Rows of MLflow data sets are read by name; bad records are named together."""

from __future__ import annotations

from typing import Any

import pytest
from mlflow import MlflowClient

from pipelines.core.errors import DataError, UserError
from pipelines.tracking import datasets

QUOTED = "the bank's rows"


def stored(name: str, *records: dict[str, Any]) -> None:
    MlflowClient().create_dataset(name).merge_records(list(records))


def test_records_become_rows(store_uri: str) -> None:
    stored(
        QUOTED,
        {"inputs": {"question": "Where?"}, "expectations": {"expected_response": "shipping"}},
        {
            "inputs": {"messages": [{"role": "user", "content": "Card lost"}]},
            "outputs": {"response": "lost"},
        },
    )
    rows, digest = datasets.training_rows(QUOTED)
    assert {tuple(turn.content for turn in row.messages) for row in rows} == {
        ("Where?", "shipping"),
        ("Card lost", "lost"),
    }
    assert {row.source for row in rows} == {f"mlflow-dataset:{QUOTED}"}
    assert datasets.training_rows(QUOTED) == (rows, digest)


def test_bad_records_are_named_together_and_so_are_the_sets_there_are(store_uri: str) -> None:
    stored(
        "bad",
        {"inputs": {"question": "Where?"}},
        {"inputs": {"a": "x", "b": "y"}, "expectations": {"answer": "z"}},
        {"inputs": {"question": "Where now?"}, "expectations": {"answer": " "}},
    )
    with pytest.raises(DataError) as caught:
        datasets.training_rows("bad")
    message = str(caught.value)
    assert "mlflow-dataset:bad: 3 problem(s)" in message
    for each in ("no answer: one of", "no question: `messages`", "the assistant's turn is empty"):
        assert each in message
    with pytest.raises(UserError, match="no such data set; it has: bad"):
        datasets.training_rows("good")
