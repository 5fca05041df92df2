"""ClapNQ (Rosenthal et al. 2024), folder of its dev files: questions that a passage answers or not.

The set calls for long answers, each from one Wikipedia passage. Half of the questions have none.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pipelines.data.formats import Rows, converted, json_lines
from pipelines.metrics.answer_facts import ABSTAINS

SPLITS = ("dev",)
FILES = ("clapnq_dev_answerable.jsonl", "clapnq_dev_unanswerable.jsonl")


def rows(path: Path, split: str) -> Rows:
    """Questions; target = the first answer with its passage's id, or that there is none."""
    for name in FILES:
        for place, row in converted(json_lines(path / name), _row):
            yield f"{name} {place}", row


def passages(path: Path) -> Rows:
    """The passages of all questions, each once."""
    seen: set[str] = set()
    for name in FILES:
        for place, passage in converted(json_lines(path / name), _passage):
            if isinstance(passage, dict):
                if passage["id"] in seen:
                    continue
                seen.add(passage["id"])
            yield f"{name} {place}", passage


def _row(raw: dict[str, Any]) -> dict[str, Any]:
    passage = _passage(raw)
    answers = [answer for each in raw["output"] if (answer := each["answer"].strip())]
    return {
        "id": raw["id"],
        "messages": [{"role": "user", "content": raw["input"]}],
        "target": f"{answers[0]} [{passage['id']}]" if answers else ABSTAINS,
        "context": [passage],
        "metadata": {
            "references": answers or [ABSTAINS],
            "passages": [passage["id"]] if answers else [],
        },
    }


def _passage(raw: dict[str, Any]) -> dict[str, Any]:
    [passage] = raw["passages"]
    title, text = passage["title"], passage["text"]
    name = hashlib.sha256(f"{title}\n{text}".encode()).hexdigest()[:10]
    return {"id": name, "title": title, "text": text}
