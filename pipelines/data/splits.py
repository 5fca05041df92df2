"""Make a training split without duplicates and without anything from the eval set."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.core.prompt import question_in
from pipelines.core.records import Example, Message, TrainingRow
from pipelines.core.row_file import taken
from pipelines.data import near_copies


@dataclass(frozen=True)
class Split:
    """Rows that may be trained on, and what was taken out."""

    rows: Sequence[TrainingRow]
    n_duplicates: int
    n_conflicts: int
    n_leaked: int
    n_near_duplicates: int = 0


def clean_split(
    rows: Sequence[TrainingRow],
    items: Sequence[Example],
    near_copy: float,
    *,
    near_duplicates: bool = False,
) -> Split:
    """Drop repeated questions and near-copies of eval items; the first of a repetition stays.

    Args:
        rows: as read.
        items: the eval set.
        near_copy: Jaccard similarity of the sets of shingles from which a row is a copy.
        near_duplicates: whether near-copies of another row with the same answer go, too.
    """
    asked = [normalise(item.messages) for item in items]
    return _split(rows, asked, near_copy, near_duplicates)


def without_copies(
    rows: Sequence[TrainingRow], of: Sequence[TrainingRow], near_copy: float
) -> Sequence[TrainingRow]:
    """The rows, none of them twice, without those whose question is (nearly) one asked in `of`."""
    asked = [normalise(row.messages[:-1]) for row in of]
    return _split(rows, asked, near_copy, near_duplicates=False).rows


def _split(
    rows: Sequence[TrainingRow], asked: Sequence[str], near_copy: float, near_duplicates: bool
) -> Split:
    """`clean_split`, given the normalised questions of the eval set."""
    kinds = near_copies.find_copies(
        ((normalise(row.messages[:-1]), row.messages[-1].content) for row in rows),
        asked,
        near_copy,
        nearly=near_duplicates,
    )
    count = np.bincount(kinds, minlength=5).tolist()
    return Split(
        rows=taken(rows, np.flatnonzero(kinds == near_copies.KEPT)),
        n_duplicates=count[near_copies.DUPLICATE],
        n_conflicts=count[near_copies.CONFLICT],
        n_leaked=count[near_copies.LEAKED],
        n_near_duplicates=count[near_copies.NEAR_DUPLICATE],
    )


def normalise(messages: Sequence[Message]) -> str:
    """The user's words in lower case, without passages, punctuation and repeated spaces."""
    text = " ".join(question_in(m.content)[1] for m in messages if m.role == "user")
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded))
