"""PubMedQA (Jin et al. 2019), folder of the labelled set: yes, no or maybe from an abstract.

The abstracts come without their conclusion, which is what the question asks for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.data.formats import Rows, converted, read_json

SPLITS = ("train", "test")
QUESTIONS, TEST_IDS = "ori_pqal.json", "test_ground_truth.json"


def rows(path: Path, split: str) -> Rows:
    """Questions; target = the decision. The test split is the published one."""
    questions = read_json(path / QUESTIONS, dict)
    test_ids = read_json(path / TEST_IDS, dict)
    for name in test_ids:
        if name not in questions:
            yield f"{TEST_IDS} {name}", f"is no question of {QUESTIONS}"
    chosen = (name for name in questions if (name in test_ids) == (split == "test"))
    yield from converted(((f"{QUESTIONS} {n}", (n, questions[n])) for n in chosen), _row)


def passages(path: Path) -> Rows:
    """The abstracts of both splits."""
    questions = read_json(path / QUESTIONS, dict)
    yield from converted(((f"{QUESTIONS} {n}", (n, raw)) for n, raw in questions.items()), _passage)


def _row(named: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    name, raw = named
    return {
        "id": name,
        "messages": [{"role": "user", "content": raw["QUESTION"]}],
        "target": raw["final_decision"],
        "context": [_passage(named)],
        "metadata": {"passages": [name]},
    }


def _passage(named: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    name, raw = named
    return {"id": name, "title": "Abstract", "text": "\n".join(raw["CONTEXTS"])}
