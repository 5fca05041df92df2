"""When a candidate has been asked enough: looks at prefixes of an order fixed beforehand.

The items stand in one random order that depends on nothing but their ids, groups whole. After each
fifth of it (`evaluate.looks: 5`) all of the prefix has been asked, nothing after it has, and the
candidate is compared with the incumbent on that prefix. Which answers came first, or fast, cannot
matter. A call that failed is missing from the look and does not delay it.

Each candidate spends the whole alpha over its own looks, as if it were the only one; several
candidates are the affair of the decision, whose fixed sequence holds as it is. The margin is the
policy's, `max_quality_loss`: what a candidate saves, and so the margin that its dollars leave, is
known at the end. The decision tests that margin again, at the level of the last look
(`LooksResult.level`), which is right however it came to stop there. Of a judged quality the looks
see the judges alone; human labels correct the decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pipelines.core.candidate import Rent
from pipelines.core.records import Example
from pipelines.core.results import LooksResult, LooksStop
from pipelines.core.study import Study
from pipelines.statistics.non_inferiority import PairedComparison, compare
from pipelines.statistics.sequential import Design, fixed_order, obrien_fleming, spending_design

ALPHA, POWER = 0.05, 0.8
"""One-sided error of all looks together, and what the bounds for futility leave of the power."""
SEED = 0
"""Of the order: the same for every study, so that nobody can choose one."""


@dataclass(frozen=True)
class Schedule:
    """When to look."""

    ends: tuple[int, ...]
    """Items asked at each look, rising; the last = all."""
    design: Design
    margin: float


@dataclass(frozen=True)
class Look:
    """What was seen at one look; `stopped` is None when the candidate goes on."""

    comparison: PairedComparison
    stopped: LooksStop | None


def applies(study: Study, name: str) -> bool:
    """Whether a candidate may be stopped early.

    Neither the incumbent, which all are compared with, nor a control, nor recorded answers that no
    judge sees: nothing would be saved.
    """
    candidate = study.candidates[name]
    if study.evaluate.looks == 1 or name == study.incumbent or candidate.control_of is not None:
        return False
    judged = any(spec.judges for spec in study.workload.metrics.values())
    return judged or not (isinstance(candidate, Rent) and candidate.recorded)


def ordered(examples: Sequence[Example]) -> list[Example]:
    """All items in the fixed random order; those of a group stand together."""
    units: dict[str, list[Example]] = {}
    for example in examples:
        units.setdefault(_unit(example), []).append(example)
    return [example for unit in fixed_order(units, SEED) for example in units[unit]]


def schedule(examples: Sequence[Example], n_looks: int, margin: float) -> Schedule:
    """Looks after equal shares of the items, each moved to the end of the group it falls into.

    The bounds are those of the shares that come out. Where long groups bring two looks closer
    together than half a share, one of them is left out.

    Args:
        examples: in the order of `ordered`.
        n_looks: most looks, the one at the end included.
        margin: the loss of quality that is good enough.
    """
    n = len(examples)
    units = [_unit(example) for example in examples]
    borders = [k for k in range(1, n) if units[k] != units[k - 1]]
    ends, room = [0], n / n_looks / 2
    for share in range(1, n_looks):
        end = next((k for k in borders if k * n_looks >= share * n), n)
        if end - ends[-1] >= room and n - end >= room:
            ends.append(end)
    ends = [*ends[1:], n]
    fractions = [end / n for end in ends]
    design = spending_design(
        fractions, obrien_fleming(ALPHA, fractions), obrien_fleming(1 - POWER, fractions)
    )
    return Schedule(tuple(ends), design, margin)


def take(
    plan: Schedule,
    look: int,
    examples: Sequence[Example],
    ours: Mapping[str, float | None],
    theirs: Mapping[str, float | None],
) -> Look:
    """Compare on the prefix of look 1, 2, ... and say whether that is enough.

    Args:
        plan: when to look.
        look: which one it is.
        examples: all items in their order; only the prefix is read.
        ours: example id -> score of the candidate; None or absent = not scored.
        theirs: the same of the incumbent.
    """
    rows = [
        (a, b, _unit(example))
        for example in examples[: plan.ends[look - 1]]
        if (a := ours.get(example.id)) is not None and (b := theirs.get(example.id)) is not None
    ]
    comparison = compare(
        np.array([a for a, _, _ in rows]),
        np.array([b for _, b, _ in rows]),
        plan.margin,
        alpha=plan.design.levels[look - 1],
        groups=np.unique([unit for _, _, unit in rows], return_inverse=True)[1],
    )
    return Look(comparison, stop(plan.design, look, comparison.p_value))


def stop(design: Design, look: int, p_value: float | None) -> LooksStop | None:
    """Why to stop at look 1, 2, ...; None = go on.

    Args:
        design: the bounds.
        look: which one it is.
        p_value: of H0: the true difference is -margin or less; None = too few units to test.
    """
    if look == len(design.efficacy):
        return "all asked"
    if p_value is None:
        return None
    if p_value < design.levels[look - 1]:
        return "non-inferior"
    if design.futility is not None and p_value > stats.norm.sf(design.futility[look - 1]):
        return "futile"
    return None


def result(plan: Schedule, taken: Sequence[Look], n_asked: int) -> LooksResult:
    """What `decide` and the reader need to know; `n_asked` items were to be asked."""
    last = taken[-1] if taken else None
    seen = last.comparison if last else None
    return LooksResult(
        looks_planned=len(plan.ends),
        looks_done=len(taken),
        items_planned=plan.ends[-1],
        items_asked=n_asked,
        stopped=(last and last.stopped) or "budget",
        margin=plan.margin,
        alpha=ALPHA,
        level=seen.alpha if seen else None,
        mean=seen.mean if seen else None,
        low=seen.low if seen else None,
        high=seen.high if seen else None,
        reason=seen.reason if seen else "",
    )


def words(looks: LooksResult) -> str:
    """When and why it was stopped, and what that saved, for a terminal."""
    done, planned = looks.looks_done, looks.looks_planned
    if looks.stopped == "budget":
        return f"the budget was reached after {done} of {planned} looks"
    margin = f"{100 * looks.margin:.1f} points"
    seen = looks.reason or "nothing could be compared"
    if looks.mean is not None and looks.low is not None and looks.high is not None:
        low, high = 100 * looks.low, 100 * looks.high
        seen = f"{100 * looks.mean:+.1f} points, {low:+.1f} to {high:+.1f} at this look's level"
    if looks.stopped == "all asked":
        return f"all {looks.items_planned:,} items were asked, {planned} looks ({seen})"
    why = {
        "non-inferior": f"shown to be at most {margin} worse",
        "futile": f"too unlikely to be shown at most {margin} worse",
    }[looks.stopped]
    return (
        f"stopped at look {done} of {planned}, {why} ({seen}): {looks.items_asked:,} of "
        f"{looks.items_planned:,} items were asked, {looks.share_saved:.1%} of the calls saved"
    )


def _unit(example: Example) -> str:
    return f"item {example.id}" if example.group is None else f"group {example.group}"
