"""Make a training split without duplicates and without anything from the eval set."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

from pipelines.core.prompt import question_in
from pipelines.core.records import Example, Message, TrainingRow

NGRAM = 5
"""Characters per shingle: long enough that sharing 80 % means the same sentence."""
BLOCK = 2_000
"""Training rows compared at a time; bounds memory at BLOCK x len(eval) numbers."""


@dataclass(frozen=True)
class Split:
    """Rows that may be trained on, and what was taken out."""

    rows: list[TrainingRow]
    n_duplicates: int
    n_conflicts: int
    n_leaked: int


def clean_split(rows: Sequence[TrainingRow], items: Sequence[Example], near_copy: float) -> Split:
    """Drop repeated questions and near-copies of eval items; the first of a repetition stays.

    Args:
        rows: as read.
        items: the eval set.
        near_copy: Jaccard similarity of character 5-gram sets from which a row is a copy.
    """
    unique: dict[str, TrainingRow] = {}
    n_duplicates = n_conflicts = 0
    for row in rows:
        question = normalise(row.messages[:-1])
        if (kept := unique.get(question)) is None:
            unique[question] = row
        elif kept.messages[-1].content.strip() == row.messages[-1].content.strip():
            n_duplicates += 1
        else:
            n_conflicts += 1
    questions = list(unique)
    similarity = max_similarity(questions, [normalise(item.messages) for item in items])
    kept = [unique[q] for q, s in zip(questions, similarity, strict=True) if s < near_copy]
    return Split(kept, n_duplicates, n_conflicts, len(questions) - len(kept))


def normalise(messages: Sequence[Message]) -> str:
    """The user's words in lower case, without passages, punctuation and repeated spaces."""
    text = " ".join(question_in(m.content)[1] for m in messages if m.role == "user")
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded))


def max_similarity(texts: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """Highest Jaccard similarity of each text to any of `others`; Float[Array, "texts"]."""
    if not texts or not others:
        return np.zeros(len(texts))
    # Marks on both ends give short texts shingles, too. Not blanks: the vectorizer collapses them.
    start, end = "^" * (NGRAM - 1), "$" * (NGRAM - 1)
    vectorizer = CountVectorizer(analyzer="char", ngram_range=(NGRAM, NGRAM), binary=True)
    theirs: Any = vectorizer.fit_transform(start + t + end for t in others)
    their_sizes = theirs.sum(axis=1).A1
    best = np.zeros(len(texts))
    all_grams = CountVectorizer(analyzer="char", ngram_range=(NGRAM, NGRAM), binary=True)
    all_mine: Any = all_grams.fit_transform(start + t + end for t in texts)
    sizes = all_mine.sum(axis=1).A1
    mine = vectorizer.transform(start + t + end for t in texts)
    for at in range(0, len(texts), BLOCK):
        shared = (mine[at : at + BLOCK] @ theirs.T).toarray()
        union = sizes[at : at + BLOCK, None] + their_sizes[None, :] - shared
        best[at : at + BLOCK] = (shared / union).max(axis=1)
    return best
