"""What a good mean can hide: a slice that got worse, and errors too rare to have been seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipelines.core.records import Record
from pipelines.statistics.multiplicity import holm
from pipelines.statistics.non_inferiority import MIN_UNITS, Floats, PairedComparison, compare


class SliceGuard(Record):
    """One slice of the items, tested for being worse than the guard allows."""

    name: str
    comparison: PairedComparison
    """Of this slice alone, with its own interval: not corrected for the number of slices."""
    p_worse: float | None
    """Of H0: true difference >= -margin, Holm-adjusted over judged slices. None = not judged."""
    finding: Literal["worse", "not shown worse", "too few items"]
    reason: str = ""
    """Why it was not judged."""


class RareErrors(Record):
    """How many catastrophic errors there may be, given those that were seen."""

    n_seen: int
    n: int
    rate: float
    high: float
    """One-sided 95 % upper bound of the true rate."""
    method: Literal["rule of three", "Clopper-Pearson"]


def slices(
    ours: Floats,
    theirs: Floats,
    labels: Sequence[str],
    margin: float,
    *,
    alpha: float = 0.05,
    groups: NDArray[np.int64] | None = None,
    min_items: int = MIN_UNITS,
) -> tuple[SliceGuard, ...]:
    """Every slice against the guard margin, by name; P(any false alarm) <= alpha.

    Args:
        ours: the candidate's scores in [0, 1], shape (n,).
        theirs: the incumbent's on the same items, shape (n,).
        labels: the slice of each item, length n.
        margin: the loss in a slice that is not worth an alarm, in [0, 1).
        alpha: of all slices together, one-sided.
        groups: items that share a number are not independent, shape (n,).
        min_items: slices with fewer are named and not judged.

    Raises:
        ValueError: lengths differ, or as `compare`.
    """
    if len(labels) != len(ours):
        raise ValueError(f"{len(labels)} slice labels for {len(ours)} items")
    if margin < 0:
        raise ValueError(f"guard margin {margin} is negative; 0.05 = a loss of five points")
    ours, theirs, names = np.asarray(ours), np.asarray(theirs), np.asarray(labels)
    found: list[tuple[str, PairedComparison, float | None, str]] = []
    for name in sorted(set(labels)):
        here = names == name
        side = None if groups is None else np.asarray(groups)[here]
        both = compare(ours[here], theirs[here], margin, alpha=alpha, groups=side)
        reason = both.reason
        if both.n < min_items:
            reason = f"too few items: {both.n}, and {min_items} are needed"
        worse = compare(theirs[here], ours[here], -margin, alpha=alpha, groups=side)
        found.append((name, both, None if reason else worse.p_value, reason))
    judged = [p for _, _, p, _ in found if p is not None]
    adjusted = iter(holm(judged).tolist())
    return tuple(
        SliceGuard(name=name, comparison=both, p_worse=None, finding="too few items", reason=reason)
        if p is None
        else SliceGuard(
            name=name,
            comparison=both,
            p_worse=(p_worse := next(adjusted)),
            finding="worse" if p_worse < alpha else "not shown worse",
        )
        for name, both, p, reason in found
    )


def rare_errors(n_seen: int, n: int) -> RareErrors:
    """Upper bound of a rate: 3 / n when nothing was seen, else exact (Clopper and Pearson 1934).

    Items must be independent; of dependent ones, pass the number of groups and of groups hit.

    Raises:
        ValueError: no items, or more errors than items.
    """
    if not 0 <= n_seen <= n or n < 1:
        raise ValueError(f"{n_seen} errors among {n} items cannot be")
    exact = 1.0 if n_seen == n else float(stats.beta.ppf(0.95, n_seen + 1, n - n_seen))
    return RareErrors(
        n_seen=n_seen,
        n=n,
        rate=n_seen / n,
        high=exact if n_seen else min(1.0, 3 / n),
        method="Clopper-Pearson" if n_seen else "rule of three",
    )
