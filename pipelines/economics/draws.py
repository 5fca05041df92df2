"""What is not known exactly, as draws: quality from items, dollars and volume from ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special  # pyright: ignore[reportMissingTypeStubs]

from pipelines.core.hardware import Amount, Figure
from pipelines.core.records import Record

Array = NDArray[np.float64]
N_DRAWS = 10_000
BLOCK = 4_000_000
"""Counts at a time: 32 MB, and few enough products of matrices, whose threads wait for each other.
"""
DECIMALS = 12
"""Of a drawn quality: fewer than a float has, more than any set of items tells."""
MIN_UNITS = 20
"""With fewer independent items or groups the bootstrap's intervals are too short."""


class Dollars(Record):
    """What one candidate costs."""

    usd_per_task: Amount = Figure.of(0)
    """What grows with the volume: tokens, calls."""
    fixed_usd: Amount = Figure.of(0)
    """What does not, over the period in which the volume is done: machines, people, tuning."""
    moves_with: str | None = None
    """Candidates with the same word stand on the same inputs, such as one machine's price: where
    one is dear, so are the others. None = independent of all others."""


@dataclass(frozen=True)
class Draws:
    """Equally likely states of the world; a row is one of them, column j is `names[j]`."""

    names: tuple[str, ...]
    quality: Array
    """(n_draws, n_candidates), in [0, 1]; within a row all have met the same items."""
    usd_per_task: Array
    """(n_draws, n_candidates), without the fixed dollars."""
    fixed_usd: Array
    """(n_draws, n_candidates)."""
    volume: Array
    """(n_draws,), tasks in the period of `fixed_usd`; above 0."""

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"a name stands twice: {', '.join(self.names)}")
        shape = (len(self.volume), len(self.names))
        for field in ("quality", "usd_per_task", "fixed_usd"):
            if (found := getattr(self, field).shape) != shape:
                raise ValueError(
                    f"{field} is {found}: {len(self.volume)} draws of the volume and "
                    f"{len(self.names)} candidates ask for {shape}"
                )
        if not (self.volume > 0).all():
            raise ValueError("volume: every draw of it must be above 0")

    @property
    def all_in_usd(self) -> Array:
        """(n_draws, n_candidates): dollars per task with its share of the fixed ones."""
        return self.usd_per_task + self.fixed_usd / self.volume[:, None]

    def column(self, name: str) -> int:
        """Where a candidate stands.

        Raises:
            ValueError: it is not there.
        """
        if name not in self.names:
            raise ValueError(f"no draws of {name!r}; there are {', '.join(self.names)}")
        return self.names.index(name)


def draw(
    names: Sequence[str],
    scores: ArrayLike,
    dollars: Mapping[str, Dollars],
    volume: Figure,
    *,
    groups: Sequence[str | None] | None = None,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> Draws:
    """Draw all that is uncertain about the candidates together.

    The items and the volume are drawn once for all candidates. Another candidate, or another order
    of them, changes nothing in the draws of the rest.

    Args:
        names: of the candidates.
        scores: (n_items, n_candidates), the items that every candidate has a score for.
        dollars: by candidate.
        volume: tasks in the period of the fixed dollars.
        groups: see `bootstrap`.
        n_draws: how many.
        seed: the same seed gives the same draws.

    Raises:
        ValueError: names, scores and dollars do not fit, the volume may be 0; or see `bootstrap`.
    """
    rows = np.asarray(scores, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != len(names):
        raise ValueError(f"scores are {rows.shape}: give one column for each of {', '.join(names)}")
    if absent := [name for name in names if name not in dollars]:
        raise ValueError(f"dollars: none are given for {', '.join(absent)}")
    if volume.low <= 0:
        raise ValueError(f"volume: {volume.low} at its low end; it must be above 0")

    def spread(figure: Figure, *inputs: str) -> Array:
        return pert(figure, n_draws, [seed, *"\0".join(inputs).encode()])

    def owner(name: str) -> tuple[str, str]:
        word = dollars[name].moves_with
        return ("candidate", name) if word is None else ("shared", word)

    return Draws(
        names=tuple(names),
        quality=bootstrap(rows, groups, n_draws=n_draws, seed=seed),
        usd_per_task=np.column_stack(
            [spread(dollars[name].usd_per_task, "per task", *owner(name)) for name in names]
        ),
        fixed_usd=np.column_stack(
            [spread(dollars[name].fixed_usd, "fixed", *owner(name)) for name in names]
        ),
        volume=spread(volume, "volume"),
    )


def bootstrap(
    scores: ArrayLike,
    groups: Sequence[str | None] | None = None,
    *,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> Array:
    """Means of resampled items, the same items for every candidate: (n_draws, n_candidates).

    Of G independent units, G - 1 are drawn with replacement: the variance of the draws is then that
    of the usual, unbiased standard error of the mean, with G - 1 in its denominator (Rao and Wu
    1988). With groups of unequal size, means are ratios of two resampled sums.

    Args:
        scores: (n_items, n_candidates), each in [0, 1].
        groups: one per item; items of one group are drawn together. None = every item, or the item
            at that place, is independent.
        n_draws: how many.
        seed: the same seed gives the same draws.

    Raises:
        ValueError: a score is missing or not in [0, 1], the groups do not fit the items, there are
            fewer than two units, or no draws are asked for.
    """
    rows = np.asarray(scores, dtype=np.float64)
    if rows.ndim != 2:
        raise ValueError(
            f"scores are {rows.shape}: give one row per item, one column per candidate"
        )
    bad = ~((rows >= 0) & (rows <= 1))
    if bad.any():
        item, candidate = (int(k) for k in np.argwhere(bad)[0])
        raise ValueError(
            f"scores: item {item}, candidate {candidate} is {rows[item, candidate]}; give only "
            "items that every candidate has a score in [0, 1] for"
        )
    if n_draws < 1:
        raise ValueError(f"n_draws: {n_draws}; at least 1 is needed")
    unit = _units(len(rows), groups)
    n_units = int(unit.max()) + 1 if len(unit) else 0
    if n_units < 2:
        raise ValueError(f"{n_units} independent items or groups: at least 2 are needed")
    sums = np.zeros((n_units, rows.shape[1] + 1))
    np.add.at(sums, unit, np.column_stack([rows, np.ones(len(rows))]))
    rng = np.random.default_rng(seed)
    found = np.empty((n_draws, rows.shape[1] + 1))
    counts = np.empty((min(n_draws, max(1, BLOCK // n_units)), n_units))
    for start in range(0, n_draws, len(counts)):
        n = min(len(counts), n_draws - start)
        for k in range(n):
            drawn = rng.integers(0, n_units, size=n_units - 1)
            counts[k] = np.bincount(drawn, minlength=n_units)
        found[start : start + n] = counts[:n] @ sums
    # Products of matrices round each column its own way; equal candidates must stay equal.
    return np.round(found[:, :-1] / found[:, -1:], DECIMALS)


def doubts(
    names: Sequence[str], scores: ArrayLike, groups: Sequence[str | None] | None = None
) -> tuple[str, ...]:
    """Where the bootstrap is surer than it should be, in words; empty = nowhere.

    Resampling shows only what the items at hand show: few units make it too sure, and where nothing
    varies it sees no doubt at all.

    Args:
        names: of the candidates.
        scores: (n_items, n_candidates).
        groups: see `bootstrap`.
    """
    rows = np.asarray(scores, dtype=np.float64)
    n_units = len(set(_units(len(rows), groups).tolist()))
    found: list[str] = []
    if n_units < MIN_UNITS:
        found.append(
            f"only {n_units} independent items or groups (at least {MIN_UNITS} are needed): the "
            "intervals are too short"
        )
    for j, name in enumerate(names):
        if (rows[:, j] == rows[0, j]).all():
            found.append(f"{name} has the same score on every item: its quality seems certain")
        same = [names[k] for k in range(j) if (rows[:, j] == rows[:, k]).all()]
        if same:
            found.append(f"{name} scores like {same[0]} on every item: no difference can be drawn")
    return tuple(found)


def pert(figure: Figure, n_draws: int, seed: int | Sequence[int]) -> Array:
    """Draws of a figure: PERT, the beta distribution on [low, high] with its mode at `likely`.

    Its mean is (low + 4 likely + high) / 6. The ends of our figures are where every input is at its
    best or worst at once, which is rare: of a symmetric figure, 3.5 % of the draws lie in the
    lowest sixth, of a triangle's 5.6 %. Two figures drawn with one seed are high and low together.

    Args:
        figure: low, likely, high; equal ones give a constant.
        n_draws: how many.
        seed: the same seed gives the same quantiles.
    """
    low, likely, high = (float(end) for end in (figure.low, figure.likely, figure.high))
    if low == high:
        return np.full(n_draws, low)
    rise, fall = ((likely - low) / (high - low), (high - likely) / (high - low))
    quantile = np.random.default_rng(seed).random(n_draws)
    share: Array = special.betaincinv(1 + 4 * rise, 1 + 4 * fall, quantile)
    return low + (high - low) * share


def _units(n_items: int, groups: Sequence[str | None] | None) -> NDArray[np.intp]:
    """(n_items,): number of the independent unit that each item belongs to."""
    if groups is None:
        return np.arange(n_items)
    if len(groups) != n_items:
        raise ValueError(f"groups: {len(groups)} for {n_items} items")
    index: dict[object, int] = {}
    return np.array(
        [index.setdefault(i if g is None else g, len(index)) for i, g in enumerate(groups)],
        dtype=np.intp,
    )
