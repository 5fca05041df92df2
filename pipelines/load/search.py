"""Capacity: the highest offered rate that holds, found in few steps, with an interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median_low

from pipelines.core.results import LoadStep

RESOLUTION = 1.1
"""A search ends when the rate that broke is at most this much above the one that held."""
STRIDE, MAX_STRIDE = 1.4, 2.0
"""Factor of the first search from rate to rate until one holds and one breaks."""
LOWEST = 1 / 16
"""Of the first guess: where that does not hold, there is no capacity."""

UNCLEAR, LONGER = {"queue", "sender"}, 4
"""What a short step alone cannot tell, and how many times as long one can: in two seconds a wave
looks like a growing queue, and a pause of the machine like a sender that cannot keep up."""

Measure = Callable[[float, int], LoadStep | None]
"""Takes an offered rate and a seed; None when the budget allows no more."""


@dataclass(frozen=True)
class Capacity:
    """What the searches found; rates in requests per second."""

    per_s: float | None
    """Median over the searches of the highest rate that held; None when that is none at all."""
    low: float | None
    high: float | None
    """Lowest rate that broke, highest over the searches; None when nothing broke in one of them."""
    limited_by: str
    steps: tuple[LoadStep, ...]


@dataclass
class _Bracket:
    """One search: what held, what broke, and why it ended."""

    held: float = 0.0
    broke: float | None = None
    cut: bool = False
    """The budget ended it."""


def find(measure: Measure, guess: float, *, max_rate: float, repeats: int, seed: int) -> Capacity:
    """Search `repeats` times, each time with another seed; the later ones begin where one ended.

    The interval goes from the lowest rate that held to the highest that broke. Over k searches it
    covers the median of what further searches would find with probability 1 - 2^(1-k), and the
    width of the last bracket comes on top.

    Args:
        measure: makes a step.
        guess: where the first search begins; none goes below a sixteenth of it.
        max_rate: no higher one is offered.
        repeats: searches.
        seed: of the first one; the others count up.
    """
    guess = min(guess, max_rate)
    steps: list[LoadStep] = []
    brackets: list[_Bracket] = []
    for k in range(repeats):
        held = [b.held for b in brackets if b.held]
        start, stride = (median_low(held), RESOLUTION) if held else (guess, STRIDE)
        brackets.append(
            _search(measure, start, stride, (LOWEST * guess, max_rate), seed + k, steps)
        )
        if brackets[-1].cut or not brackets[-1].held:
            break  # where not even a low rate holds, another seed changes nothing
    lows = [b.held for b in brackets if b.held or not b.cut]
    highs = [b.broke for b in brackets if not b.cut]
    per_s = median_low(lows) if lows else 0.0
    return Capacity(
        per_s=per_s or None,
        low=min(lows) if lows else None,
        high=None if not highs or None in highs else max(x for x in highs if x is not None),
        limited_by=_reason(brackets, steps, per_s),
        steps=tuple(steps),
    )


def confirmed(measure: Callable[[float, int, int], LoadStep | None]) -> Measure:
    """Measure again, for longer, where every limit was kept and the rate broke all the same.

    At 85 % of what a server can do, 28 of 100 steps of 60 requests look like a growing queue,
    and 10 when they are measured again; a fifth above it, no more hold than before.

    Args:
        measure: makes a step of so many times the usual length.
    """

    def step(rate: float, seed: int) -> LoadStep | None:
        short = measure(rate, seed, 1)
        if short is None or short.holds or not UNCLEAR.issuperset(short.broke):
            return short
        return measure(rate, seed, LONGER) or short

    return step


def _search(
    measure: Measure,
    rate: float,
    stride: float,
    within: tuple[float, float],
    seed: int,
    steps: list[LoadStep],
) -> _Bracket:
    """Stride up or down until one rate held and one broke, then halve the gap (of logarithms)."""
    found = _Bracket()
    min_rate, max_rate = within
    while rate >= min_rate:
        step = measure(rate, seed)
        if step is None:
            found.cut = True
            break
        steps.append(step)
        if step.holds:
            found.held = rate
        else:
            found.broke = rate
        if found.broke is None:
            if found.held >= max_rate:
                break
            rate = min(found.held * stride, max_rate)
        elif not found.held:
            rate = found.broke / stride
        elif found.broke <= found.held * RESOLUTION * (1 + 1e-9):
            break
        else:
            rate = math.sqrt(found.held * found.broke)
        stride = min(stride * stride, MAX_STRIDE)
    return found


def _reason(brackets: list[_Bracket], steps: list[LoadStep], per_s: float) -> str:
    """The most frequent thing that broke above the capacity."""
    if any(bracket.cut for bracket in brackets):
        return "budget"
    reasons = Counter(
        why for step in steps if not step.holds and step.offered_per_s > per_s for why in step.broke
    )
    return reasons.most_common(1)[0][0] if reasons else "max_rate"
