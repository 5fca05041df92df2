"""Recorded verdicts of judges beside human labels: the public sets EVOUNA and LLMBar."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, StrictBool, ValidationError

from pipelines.core.errors import DataError
from pipelines.core.paths import shown
from pipelines.core.records import Record
from pipelines.data.formats import read_text

SYSTEMS = ("fid", "gpt35", "chatgpt", "gpt4", "newbing")
"""Who answered EVOUNA's questions: a small fine-tuned reader and four models of 2023."""
COLUMNS = (
    "subset",
    "item",
    "human_label",
    "judge_model",
    "prompt_strategy",
    "winner_order1",
    "winner_swapped",
)
"""Of LLMBar's judgements.csv; any other is refused."""
MAX_SHOWN = 20
"""Problems printed of one file; the rest are counted."""

Label = Annotated[StrictBool | None, BeforeValidator(lambda v: None if v == "nan" else v)]
"""Missing is null in one of EVOUNA's files and "nan" in the other."""
PREFERENCES = {"1": 1.0, "2": 0.0, "": None}
"""LLMBar's: 1.0 = the file's first answer, 0.0 = its second; None = the judge's text had none."""


class LabelledAnswer(Record):
    """One system's answer to a question of EVOUNA (Wang et al. 2023), judged by a human."""

    id: str
    question_id: str
    """Five answers share it: the group of an interval."""
    system: str
    question: str
    golds: tuple[str, ...]
    """Every spelling of the reference answer; none where the file has none."""
    answer: str | None
    right: Label
    """The human label; None = none was given."""
    improper: StrictBool
    """The question has no fixed answer; the authors leave these rows out."""


class PairVerdict(Record):
    """One judge's two verdicts on a pair of LLMBar (Zeng et al. 2024), beside the human's."""

    pair_id: str
    """Subset and position; the same pair for all judges and prompts."""
    subset: str
    judge: str
    prompt: str
    human: float
    """1.0 = the file's first answer is better, 0.0 = its second."""
    first_order: float | None
    """The same, from the judge; None = its text could not be read."""
    swapped_order: float | None
    """With the second answer shown first; 1.0 still means the file's first answer."""
    instruction: str
    answers: tuple[str, str]

    @property
    def lengths(self) -> tuple[int, int]:
        """Characters of the two answers."""
        return len(self.answers[0]), len(self.answers[1])


def load_evouna(folder: Path) -> dict[str, list[LabelledAnswer]]:
    """All answers of `NQ.json` and `TQ.json`, by the file's stem.

    Raises:
        DataError: a file is absent or rows are bad; lists them with their lines.
    """
    return {name: _evouna(folder / f"{name}.json", name) for name in ("NQ", "TQ")}


def load_llmbar(folder: Path) -> list[PairVerdict]:
    """All rows of `judgements.csv`, with the lengths of the answers from the subsets' files.

    Raises:
        DataError: a file is absent or rows are bad; lists them with their lines.
    """
    path = folder / "judgements.csv"
    rows: list[PairVerdict] = []
    problems: list[str] = []
    subsets: dict[str, dict[str, dict[str, Any]]] = {}
    reader = csv.DictReader(read_text(path).splitlines(keepends=True))
    for row in reader:
        place = f"line {reader.line_num}"
        if set(row) != set(COLUMNS) or None in row.values():
            problems.append(f"{place}: has not the columns {', '.join(COLUMNS)}")
            continue
        subset, item = row["subset"], row["item"]
        if subset not in subsets:
            file = folder / (subset.replace("/", "__").replace("^", "") + ".json")
            subsets[subset] = {str(k): pair for k, (_, pair) in enumerate(_items(file))}
        try:
            pair = subsets[subset][item]
            if str(pair["label"]) != row["human_label"]:
                raise ValueError(f"human_label {row['human_label']}, the set has {pair['label']}")
            verdict = {
                "pair_id": f"{subset}/{item}",
                "subset": subset,
                "judge": row["judge_model"],
                "prompt": row["prompt_strategy"],
                "human": PREFERENCES[row["human_label"]],
                "first_order": PREFERENCES[row["winner_order1"]],
                "swapped_order": PREFERENCES[row["winner_swapped"]],
                "instruction": pair["input"],
                "answers": (pair["output_1"], pair["output_2"]),
            }
            rows.append(PairVerdict.model_validate(verdict))
        except (ValueError, KeyError, TypeError) as error:
            problems.append(f"{place}: {_complaint(error)}")
    _refuse(path, problems, rows)
    return rows


def _evouna(path: Path, name: str) -> list[LabelledAnswer]:
    rows: list[LabelledAnswer] = []
    problems: list[str] = []
    for number, (line, row) in enumerate(_items(path), start=1):
        for system in SYSTEMS:
            try:
                answer = {
                    "id": f"{name}-{number:04d}-{system}",
                    "question_id": f"{name}-{number:04d}",
                    "system": system,
                    "question": row["question"],
                    "golds": [g for g in (row["golden_answer"] or "").split("/") if g.strip()],
                    "answer": row[f"answer_{system}"],
                    "right": row[f"judge_{system}"],
                    "improper": row["improper"],
                }
                rows.append(LabelledAnswer.model_validate(answer))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                problems.append(f"line {line}: {system}: {_complaint(error)}")
    _refuse(path, problems, rows)
    return rows


def _items(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON array, each with the line on which it starts."""
    text = read_text(path)
    try:
        if not isinstance(json.loads(text), list):
            raise DataError(f"{shown(path)}: expected a JSON array")
    except json.JSONDecodeError as error:
        raise DataError(
            f"{shown(path)}: line {error.lineno}: not valid JSON: {error.msg}"
        ) from None
    between, decoder, line, counted = re.compile(r"[\s,]*"), json.JSONDecoder(), 1, 0
    end = text.index("[") + 1
    while True:
        start = end + len(cast(re.Match[str], between.match(text, end)).group())
        if text[start] == "]":
            return
        line, counted = line + text.count("\n", counted, start), start
        item, end = decoder.raw_decode(text, start)
        yield line, item


def _complaint(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()
        )
    return f"no {error}" if isinstance(error, KeyError) else str(error)


def _refuse(path: Path, problems: list[str], rows: Sequence[Record]) -> None:
    if not rows and not problems:
        problems = ["no rows"]
    if problems:
        more = [f"... and {len(problems) - MAX_SHOWN} more"] if len(problems) > MAX_SHOWN else []
        listed = "\n  ".join(problems[:MAX_SHOWN] + more)
        raise DataError(f"{shown(path)}: {len(problems)} problem(s)\n  {listed}")
