"""What was measured of several candidates on the same items: the raw material of a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.core.results import Kind

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """Scores, dollars and seconds, shape (items, candidates); NaN = not known."""

    candidates: tuple[str, ...]
    """Names, in the order of the columns."""
    ids: tuple[str, ...]
    """Items, in the order of the rows."""
    scores: Floats
    """In [0, 1]."""
    usd: Floats | None = None
    """Dollars of each call."""
    latency_s: Floats | None = None
    confidence: Floats | None = None
    """How sure the candidate was of its answer; higher = surer, on any scale."""
    groups: NDArray[np.int64] | None = None
    """Items that share a number are not independent of each other, shape (items,)."""
    slices: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict[str, NDArray[np.bool_]])
    """Name of a part of the items -> which items are in it, shape (items,)."""
    kinds: Mapping[str, Kind] = field(default_factory=dict[str, Kind])
    """Candidate -> rented, owned or a baseline; empty = nobody said."""

    def column(self, candidate: str) -> int:
        """Where a candidate stands.

        Raises:
            ValueError: there is no such candidate.
        """
        return self.candidates.index(candidate)
