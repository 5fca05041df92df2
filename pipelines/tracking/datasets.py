"""Training rows from a data set of the tracking store, by its name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import EvaluationDataset
from pydantic import ValidationError

from pipelines.core.errors import DataError, UserError
from pipelines.core.records import TrainingRow

ANSWERS = ("expected_response", "response", "answer", "target", "content", "output")
"""Keys under which a record's answer stands, in its expectations first, then in its outputs."""
PAGE = 50
"""Data sets asked for at once."""
MAX_SHOWN = 20
"""Problems printed; the rest are counted."""


def training_rows(name: str) -> tuple[list[TrainingRow], str]:
    """The records of an MLflow evaluation data set as rows, and the digest of all of them.

    A record's question is `messages` in its inputs, or their only text; its answer one of
    `ANSWERS`. Records that were made from a trace name it as `request_id`.

    Raises:
        UserError: there is no such data set.
        DataError: records cannot be learned from; lists them.
    """
    there = _all()
    if name not in there:
        raise UserError(
            f"mlflow-dataset:{name}: the tracking store has no such data set; it has: "
            f"{', '.join(sorted(there)) or 'none'}"
        )
    records = there[name].to_df().to_dict("records")
    records.sort(key=lambda each: (each["created_time"], each["dataset_record_id"]))
    rows: list[TrainingRow] = []
    problems: list[str] = []
    digest = hashlib.sha256()
    for number, record in enumerate(records, start=1):
        place = f"record {number} ({record['dataset_record_id']})"
        told = [record.get(key) for key in ("inputs", "expectations", "outputs")]
        digest.update(json.dumps(told, sort_keys=True, default=str).encode() + b"\n")
        try:
            rows.append(_row(record, f"mlflow-dataset:{name}"))
        except ValidationError as error:
            problems += [f"{place}: {each['msg']}" for each in error.errors()]
        except ValueError as error:
            problems.append(f"{place}: {error}")
    if not rows and not problems:
        problems = ["no records"]
    if problems:
        more = [f"... and {len(problems) - MAX_SHOWN} more"] if len(problems) > MAX_SHOWN else []
        listed = "\n  ".join([*problems[:MAX_SHOWN], *more])
        raise DataError(f"mlflow-dataset:{name}: {len(problems)} problem(s)\n  {listed}")
    return rows, digest.hexdigest()


def _all() -> dict[str, EvaluationDataset]:
    """Every data set of the store, by name."""
    client = MlflowClient()
    found: dict[str, EvaluationDataset] = {}
    token: str | None = None
    while True:
        page = client.search_datasets(max_results=PAGE, page_token=token)
        found.update((each.name, each) for each in page)
        token = page.token
        if not token:
            return found


def _row(record: Mapping[str, Any], source: str) -> TrainingRow:
    """One record.

    Raises:
        ValueError: it has no question or no answer that is a text.
    """
    expectations, outputs, made_from = (
        record.get(key) for key in ("expectations", "outputs", "source_id")
    )
    answer = _answer(expectations) or _answer(outputs)
    if answer is None:
        raise ValueError(f"no answer: one of {', '.join(ANSWERS)} in its expectations")
    return TrainingRow.model_validate(
        {
            "id": record["dataset_record_id"],
            "messages": [*_turns(record["inputs"]), {"role": "assistant", "content": answer}],
            "source": source,
            "request_id": made_from if isinstance(made_from, str) else None,
        }
    )


def _turns(inputs: Any) -> Sequence[Any]:
    if isinstance(inputs, Mapping):
        if isinstance(turns := inputs.get("messages"), list):
            return turns
        texts = [value for value in inputs.values() if isinstance(value, str)]
        if len(inputs) == 1 and texts:
            return [{"role": "user", "content": texts[0]}]
    raise ValueError("no question: `messages`, or one text, in its inputs")


def _answer(told: Any) -> str | None:
    if isinstance(told, str):
        return told
    if isinstance(told, Mapping):
        return next((told[key] for key in ANSWERS if isinstance(told.get(key), str)), None)
    return None
