"""The columns of a table of scores: their names, what each may hold, and the SQL that reads it."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence
from typing import get_args

from pipelines.core.errors import DataError
from pipelines.core.results import Kind

NEEDED = ("example_id", "candidate", "score")
TEXTS = ("example_id", "candidate", "group", "slice", "kind", "currency")
LARGEST = sys.float_info.max
NUMBERS = {
    "score": (0.0, 1.0, "a number from 0 to 1, true or false, or empty where nothing was scored"),
    "usd": (0.0, LARGEST, "dollars as a plain number of 0 or more, without a sign of a currency"),
    "latency_s": (0.0, LARGEST, "seconds, 0 or more"),
    "confidence": (-LARGEST, LARGEST, "a number"),
    "input_tokens": (0.0, LARGEST, "a number of 0 or more"),
    "output_tokens": (0.0, LARGEST, "a number of 0 or more"),
}
"""Columns of numbers -> least, most, and what is expected in words."""
KNOWN = (*TEXTS, *NUMBERS)
CHOICES = {"currency": ("USD",), "kind": get_args(Kind)}
"""Columns of texts -> all that they may say."""
CASES = {"currency": "upper", "kind": "lower"}
MEANT = {
    "id": "example_id",
    "item": "example_id",
    "item_id": "example_id",
    "question_id": "example_id",
    "task_id": "example_id",
    "doc_id": "example_id",
    "model": "candidate",
    "model_name": "candidate",
    "system": "candidate",
    "accuracy": "score",
    "correct": "score",
    "passed": "score",
    "exact_match": "score",
    "cost": "usd",
    "cost_usd": "usd",
    "price": "usd",
    "latency": "latency_s",
    "duration_s": "latency_s",
    "cluster": "group",
    "category": "slice",
    "probability": "confidence",
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
}
"""What others call a column -> our name for it."""
MAX_LISTED = 50
"""Names listed in a message."""


def value(name: str) -> str:
    """SQL of a column's value: NULL where it is blank, infinite where it is no finite number."""
    text = f"""nullif(trim(CAST("{name}" AS VARCHAR), ' \t\r\n'), '')"""
    if name in TEXTS:
        return f"{CASES.get(name, '')}({text})"
    number = f"TRY_CAST({text} AS DOUBLE)"
    if name == "score":
        number = f"coalesce({number}, CAST(TRY_CAST({text} AS BOOLEAN) AS DOUBLE))"
    return f"CASE WHEN {text} IS NOT NULL THEN if(isfinite({number}), {number}, 'inf') END"


def ignored(name: str, found: Sequence[str]) -> list[str]:
    """Columns of the file `name` that are not read, in words.

    Raises:
        DataError: one that is needed is missing, or one that is read is there twice.
    """
    meant = {each: _meant(each, found) for each in found if each not in KNOWN}
    if missing := [each for each in NEEDED if each not in found]:
        renames = [f"{quoted(each)} to {known}" for each, known in meant.items() if known]
        advice = f"rename {', '.join(renames)}" if renames else "add it"
        listed = ", ".join(map(quoted, found[:MAX_LISTED])) or "none"
        raise DataError(f"{name}: no column {', '.join(missing)}; it has {listed}; {advice}")
    if twice := [each for each in KNOWN if found.count(each) > 1]:
        raise DataError(f"{name}: column {', '.join(twice)} is there twice; keep one")
    return [
        quoted(each) + (f" (did you mean {known}?)" if known else "")
        for each, known in meant.items()
    ]


def _meant(name: str, found: Sequence[str]) -> str | None:
    """The absent column of ours that somebody else's name stands for."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    near = [MEANT[plain]] if plain in MEANT else difflib.get_close_matches(plain, KNOWN, 1, 0.75)
    return near[0] if near and near[0] not in found else None


def quoted(text: str, length: int = 60) -> str:
    """`text` in quotes, cut, without anything that a terminal obeys."""
    return repr(text if len(text) <= length else f"{text[: length - 1]}\N{HORIZONTAL ELLIPSIS}")
