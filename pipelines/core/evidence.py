"""What was measured of several candidates on the same items: the raw material of a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.core.results import Kind

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Corrected:
    """What human labels on some of the items make of what a judge scored on all of them."""

    quality: float
    """Mean of the candidate, in [0, 1]."""
    quality_error: float
    """Its standard error."""
    difference: float | None = None
    """Candidate - incumbent; None of the incumbent, and where too few items have both labels."""
    difference_error: float = 0.0
    n_groups: int = 0
    """Independent units with both labels."""
    skew: float = 0.0
    """Of the difference: the units' skewness over the root of their number."""


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
    confidence_usd: Mapping[str, float] = field(default_factory=dict[str, float])
    """Candidate -> dollars per task that it takes to know the confidence, beside the answer."""
    groups: NDArray[np.int64] | None = None
    """Items that share a number are not independent of each other, shape (items,)."""
    slices: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict[str, NDArray[np.bool_]])
    """Name of a part of the items -> which items are in it, shape (items,)."""
    kinds: Mapping[str, Kind] = field(default_factory=dict[str, Kind])
    """Candidate -> rented, owned or a baseline; empty = nobody said."""
    usd_draws: Mapping[str, Floats] = field(default_factory=dict[str, Floats])
    """Candidate -> dollars per task, its share of what does not grow with the volume included, in
    equally likely states of the world, shape (n_draws,): in place of what its calls cost."""
    corrected: Mapping[str, Corrected] = field(default_factory=dict[str, Corrected])
    """Candidate -> what human labels make of its scores."""
    out: Mapping[str, str] = field(default_factory=dict[str, str])
    """Candidate -> why it may not be chosen, where something else than these figures says so."""
    n_asked: Mapping[str, int] = field(default_factory=dict[str, int])
    """Candidate -> items that it was to answer, where its evaluation was stopped before all."""
    levels: Mapping[str, float] = field(default_factory=dict[str, float])
    """Candidate -> one-sided level of the look at which its evaluation was stopped."""

    def column(self, candidate: str) -> int:
        """Where a candidate stands.

        Raises:
            ValueError: there is no such candidate.
        """
        return self.candidates.index(candidate)
