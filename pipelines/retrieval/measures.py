"""How good a ranking is, against the ids that answer the question."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple


class Measures(NamedTuple):
    """Each in [0, 1], higher is better."""

    recall_at_k: float
    """Share of the gold passages among the first k."""
    ndcg_at_10: float
    """Discounted gain of the first ten over that of the best ranking (Järvelin 2002), gain 1."""
    reciprocal_rank: float
    """1 / position of the first gold passage among all found; 0 when none is."""


def measure(found: Sequence[str], gold: Collection[str], k: int) -> Measures:
    """Measures of one ranking.

    Args:
        found: ids, best first, without repetition.
        gold: ids that answer the question; at least one.
        k: passages that the model is shown.
    """
    hits = [each in gold for each in found]
    gain = sum(hit / math.log2(rank + 2) for rank, hit in enumerate(hits[:10]))
    best = sum(1 / math.log2(rank + 2) for rank in range(min(10, len(gold))))
    first = next((rank for rank, hit in enumerate(hits, start=1) if hit), None)
    return Measures(
        recall_at_k=sum(hits[:k]) / len(gold),
        ndcg_at_10=gain / best,
        reciprocal_rank=1 / first if first else 0.0,
    )
