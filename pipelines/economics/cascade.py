"""The cheap model answers first, the dear one where it was unsure: quality, dollars, threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import ConfigDict, Field

from pipelines.core.records import Difference, Estimate, Record
from pipelines.statistics.intervals import difference, estimate

N_FOLDS = 5
SEED = 0
MAX_POINTS = 101
"""Of the curve; a chart shows no more."""
Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Flags = NDArray[np.bool_]


class Stakes(Record):
    """What an error and the two systems cost."""

    usd_per_error: float = Field(ge=0, allow_inf_nan=False)
    """What a wrong answer costs that nobody notices."""
    tasks_per_month: int = Field(gt=0)
    first_usd_per_month: float = Field(default=0, ge=0, allow_inf_nan=False)
    """What running the first model costs however many calls it answers."""
    second_usd_per_month: float = Field(default=0, ge=0, allow_inf_nan=False)


class Arm(Record):
    """One way of answering all requests."""

    escalated_share: float
    """Of the requests: those that the second model answers."""
    quality: float
    usd_per_task: float
    """Of the calls alone; an escalated request pays both models."""
    usd_per_month: float
    """Of the calls and of running every system that the arm needs."""
    loss_usd_per_task: float
    """Expected loss: usd_per_error (1 - quality) + usd_per_month / tasks_per_month."""


class Saving(Record):
    """Expected loss of one model alone less that of the cascade, in dollars per task.

    With its 95 % interval, paired by item. Above 0 the cascade is better, the price of running both
    systems included.
    """

    mean: float
    low: float
    high: float


class Cascade(Record):
    """What a cascade does to quality and dollars, beside each of its two models alone."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    n: int
    n_unknown: int
    """Items without a confidence; they are always escalated."""
    threshold: float
    """To deploy, from all items: escalate below it; -inf = nothing, inf = everything."""
    fold_thresholds: tuple[float, ...]
    """Those that `served` was measured with."""
    served: Arm
    """Every item under a threshold that was chosen without it."""
    in_sample: Arm
    """`threshold` on the items it was chosen on: too good to be true."""
    first: Arm
    """The first model alone."""
    second: Arm
    """The second model alone: the incumbent."""
    quality: Estimate
    """Of `served`. It knows nothing of how uncertain the threshold is: in simulations it held the
    truth in 91 to 92 of 100 cases with 100 items, in 93 to 95 with 500."""
    difference: Difference
    """Quality of `served` - that of the second model alone, paired by item."""
    saving_to_first: Saving
    saving_to_second: Saving
    apgr: float | None
    """Average performance gap recovered (RouteLLM): the mean over all escalated shares of
    (quality - first) / (second - first); 0.5 = no better than escalating by lot. None = the second
    model is not the better one."""
    cpt_50: float | None
    """Call-performance threshold (RouteLLM): the smallest escalated share that recovers 50 %."""
    cpt_80: float | None
    curve: tuple[Arm, ...]
    """All thresholds, from nothing escalated, not even what is unknown, to everything."""

    @property
    def optimism_usd_per_task(self) -> float:
        """How much smaller the expected loss looks on the items the threshold was chosen on."""
        return self.served.loss_usd_per_task - self.in_sample.loss_usd_per_task


def evaluate(
    first: ArrayLike,
    second: ArrayLike,
    confidence: ArrayLike,
    *,
    first_usd: ArrayLike,
    second_usd: ArrayLike,
    stakes: Stakes,
    groups: Sequence[str | None] | None = None,
) -> Cascade:
    """Work a cascade out of the two models' answers to the same items; no call is made.

    A request is escalated when the first model's confidence is below a threshold or unknown. The
    threshold minimises the expected loss; each item is served under the one that was chosen on
    the other folds.

    Args:
        first: [items] quality of the first model's answers, in [0, 1].
        second: [items] quality of the second model's answers.
        confidence: [items] of the first model, higher = surer; what is not finite is unknown.
        first_usd: [items] or one figure: dollars per task, without what `stakes` holds.
        second_usd: [items] or one figure.
        stakes: what an error and the systems cost.
        groups: [items] ties those that are not independent, None = independent; folds keep them
            together.

    Raises:
        ValueError: the arrays do not fit together, or hold what is no quality or no price.
    """
    one, two = _column("first", first, most=1), _column("second", second, most=1)
    n = len(one)
    one_usd, two_usd = _column("first_usd", first_usd, n), _column("second_usd", second_usd, n)
    sure = np.asarray(confidence, dtype=np.float64)
    groups = [None] * n if groups is None else groups
    if not len(two) == sure.size == len(groups) == n:
        raise ValueError(
            f"first has {n} items, second {len(two)}, confidence {sure.size}, groups "
            f"{len(groups)}: give each of them one value per item"
        )
    level = np.where(np.isfinite(sure), sure, -np.inf).reshape(n)
    v, tasks = stakes.usd_per_error, stakes.tasks_per_month
    both = stakes.first_usd_per_month + stakes.second_usd_per_month
    gain, fold = v * (two - one) - two_usd, _folds(groups)
    thresholds = [_fit(level[fold != k], gain[fold != k]) for k in range(int(fold.max()) + 1)]
    threshold = _fit(level, gain)
    escalated = _escalated(level, np.array(thresholds)[fold])
    served, served_usd = np.where(escalated, two, one), one_usd + escalated * two_usd
    quality = estimate(_named(served), _named_groups(groups))
    gap = difference(_named(served), _named(two), _named_groups(groups))
    assert quality is not None, "there are items"
    assert gap is not None, "there are items"
    lost = v * (1 - served) + served_usd + both / tasks

    def saving(right: Floats, usd: Floats, fixed: float) -> Saving:
        return _saving(v * (1 - right) + usd + fixed / tasks, lost, groups)

    def cascade(escalated: Flags) -> Arm:
        right, usd = np.where(escalated, two, one), one_usd + escalated * two_usd
        return _arm(escalated.mean(), right.mean(), usd.mean(), both, stakes)

    points = _points(level, one, two, one_usd, two_usd)
    apgr, cpt_50, cpt_80 = _recovery(points)
    shown = np.linspace(0, len(points) - 1, min(MAX_POINTS, len(points))).round().astype(np.intp)
    return Cascade(
        n=n,
        n_unknown=int(np.isneginf(level).sum()),
        threshold=threshold,
        fold_thresholds=tuple(thresholds),
        served=cascade(escalated),
        in_sample=cascade(_escalated(level, threshold)),
        first=_arm(0, one.mean(), one_usd.mean(), stakes.first_usd_per_month, stakes),
        second=_arm(1, two.mean(), two_usd.mean(), stakes.second_usd_per_month, stakes),
        quality=quality,
        difference=gap,
        saving_to_first=saving(one, one_usd, stakes.first_usd_per_month),
        saving_to_second=saving(two, two_usd, stakes.second_usd_per_month),
        apgr=apgr,
        cpt_50=cpt_50,
        cpt_80=cpt_80,
        curve=tuple(_arm(share, right, usd, both, stakes) for share, right, usd in points[shown]),
    )


def _column(name: str, values: ArrayLike, n: int | None = None, most: float = np.inf) -> Floats:
    """[items] `values`, one figure repeated when `n` is given."""
    column = np.asarray(values, dtype=np.float64)
    if n is not None and column.ndim == 0:
        column = np.full(n, column)
    if column.ndim != 1 or (n is not None and len(column) != n):
        wanted = "one value per item" if n is None else f"one figure, or one for each of {n} items"
        raise ValueError(f"{name} has the shape {column.shape}: give {wanted}")
    wrong = np.flatnonzero(~(np.isfinite(column) & (column >= 0) & (column <= most)))
    if len(wrong):
        what = "a quality in [0, 1]" if most == 1 else "an amount of dollars"
        raise ValueError(
            f"{name}: {column[wrong[0]]} at item {wrong[0]} is not {what}; leave items of which "
            "something is not known out of all arrays"
        )
    return column


def _folds(groups: Sequence[str | None]) -> Ints:
    """[items] The number of each item's fold: the same at every call, about equally large.

    Groups are shuffled; then the largest first goes to the fold that has the fewest items.
    """
    seen: dict[int | str, int] = {}
    group = np.array(
        [seen.setdefault(k if g is None else g, len(seen)) for k, g in enumerate(groups)]
    )
    if len(seen) < 2:
        raise ValueError(
            f"{len(groups)} items in {len(seen)} groups: a threshold needs one group to be chosen "
            "on and another one to be tried on"
        )
    sizes = np.bincount(group)
    shuffled = np.random.default_rng(SEED).permutation(len(sizes))
    filled = np.zeros(min(N_FOLDS, len(sizes)), dtype=np.intp)
    fold = np.empty(len(sizes), dtype=np.intp)
    for g in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold[g] = filled.argmin()
        filled[fold[g]] += sizes[g]
    return fold[group]


def _fit(level: Floats, gain: Floats) -> float:
    """The threshold below which escalating saves most in sum; of equal ones the lowest.

    Args:
        level: [items] confidence, -inf = unknown.
        gain: [items] dollars of expected loss that escalating saves, negative = costs.
    """
    order = np.argsort(level, kind="stable")
    level, n_unknown = level[order], int(np.isneginf(level).sum())
    cuts = _cuts(level)
    cuts = cuts[cuts >= n_unknown]
    best = int(cuts[np.argmax(_sums(gain[order])[cuts])])
    if best == len(level):
        return float("inf")
    return float("-inf") if best == n_unknown else float(level[best])


def _escalated(level: Floats, threshold: float | Floats) -> Flags:
    return (level < threshold) | np.isneginf(level)


def _cuts(level: Floats) -> Ints:
    """Numbers of the least sure items that can be escalated: ties go together.

    Args:
        level: [items] confidence, rising.
    """
    inner = np.flatnonzero(level[1:] != level[:-1]) + 1
    return np.concatenate([[0], inner, [len(level)]]).astype(np.intp)


def _sums(values: Floats) -> Floats:
    """[items + 1] Sums of the first 0, 1, 2, ... values."""
    return np.concatenate([[0.0], np.cumsum(values)])


def _points(level: Floats, one: Floats, two: Floats, one_usd: Floats, two_usd: Floats) -> Floats:
    """[points, 3] Escalated share, quality, dollars per task for every share there can be.

    Items of unknown confidence come first, as equally unsure, so that the first point is the first
    model alone.
    """
    order, n = np.argsort(level, kind="stable"), len(level)
    cuts = _cuts(level[order])
    quality = one.mean() + _sums((two - one)[order])[cuts] / n
    usd = one_usd.mean() + _sums(two_usd[order])[cuts] / n
    return np.column_stack([cuts / n, quality, usd])


def _recovery(points: Floats) -> tuple[float | None, float | None, float | None]:
    """APGR, CPT(50 %) and CPT(80 %), on straight lines between the points."""
    shares, quality = points[:, 0], points[:, 1]
    room = float(quality[-1] - quality[0])
    if room < 1e-9:
        return None, None, None
    recovered = (quality - quality[0]) / room

    def share_for(part: float) -> float:
        k = int(np.argmax(recovered >= part))
        return float(np.interp(part, recovered[k - 1 : k + 1], shares[k - 1 : k + 1]))

    area = float((np.diff(shares) * (recovered[1:] + recovered[:-1]) / 2).sum())
    return area, share_for(0.5), share_for(0.8)


def _arm(share: float, quality: float, usd: float, fixed: float, stakes: Stakes) -> Arm:
    month = usd * stakes.tasks_per_month + fixed
    return Arm(
        escalated_share=float(share),
        quality=float(quality),
        usd_per_task=float(usd),
        usd_per_month=float(month),
        loss_usd_per_task=float(
            stakes.usd_per_error * (1 - quality) + month / stakes.tasks_per_month
        ),
    )


def _saving(alone: Floats, together: Floats, groups: Sequence[str | None]) -> Saving:
    """Mean of `alone - together`; the interval of a difference wants values in [0, 1]."""
    most = float(max(alone.max(), together.max())) or 1.0
    found = difference(_named(alone / most), _named(together / most), _named_groups(groups))
    assert found is not None, "there are items"
    return Saving(mean=most * found.mean, low=most * found.low, high=most * found.high)


def _named(values: Floats) -> dict[str, float | None]:
    return {str(k): value for k, value in enumerate(values.tolist())}


def _named_groups(groups: Sequence[str | None]) -> dict[str, str]:
    return {str(k): group for k, group in enumerate(groups) if group is not None}
