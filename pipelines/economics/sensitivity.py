"""Which input changes the answer: the rule run again with one of them changed at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

from pipelines.core.decision import Scenario, Sensitivity
from pipelines.core.evidence import Evidence
from pipelines.core.hardware import Figure
from pipelines.core.results import EvaluateResult
from pipelines.core.ruling import Ruling, RulingVerdict
from pipelines.core.study import Study
from pipelines.economics import own_cost, own_measured, symbols
from pipelines.economics.own_cost import Owning
from pipelines.economics.rule_words import verdict_words
from pipelines.economics.study_rule import ruled

N_DRAWS, FEWEST_DRAWS, DRAWN_ITEMS = 1000, 200, 3_000_000
"""Of each changed world: enough to see who wins; fewer where there are many items."""
N_SYMBOLS = 5
"""Inputs of the tornado that are tried."""
TIMES = 3
"""From here on a change is told as a multiple, below as a percentage."""
UTILISATIONS = (0.05, 0.2, 0.5, 1.0)
HALVINGS = 10
"""Of the gap that holds a flip, on a scale of ratios."""
API, VOLUME, UTILISATION = "prices of rented candidates", "volume", "utilisation of own machines"

Answer = tuple[RulingVerdict, str | None]


class World(NamedTuple):
    """What is changed; by default nothing."""

    api: float = 1.0
    """Times today's prices of what is rented."""
    volume: float = 1.0
    """Times the study's volume."""
    utilisation: float | None = None
    """Share of the machines' capacity that calls use, whatever the traffic's shape; None = an
    output of the fleet."""
    symbol: tuple[str, Decimal] | None = None
    """An input of owning, and its value."""


def sensitivity(
    study: Study, evidence: Evidence, results: Mapping[str, EvaluateResult]
) -> tuple[Sensitivity, ...]:
    """The verdict when prices, volume, utilisation or an input of the bill of owning change.

    Args:
        study: gives requirements, traffic and costs.
        evidence: as the verdict was given on.
        results: give what owning costs.
    """
    owned = {
        name: own
        for name, result in results.items()
        if not study.candidates[name].control_of
        and (own := own_measured.owning(study.workload, result)) is not None
    }
    asked = _Asked(study, evidence, owned)
    found = [
        asked.about(API, [0.5], lambda x: World(api=x), (0.01, 1, 100)),
        asked.about(VOLUME, [0.1, 10], lambda x: World(volume=x), (0.001, 1, 1000)),
    ]
    if owned:
        found.append(
            asked.about(
                UTILISATION, UTILISATIONS, lambda x: World(utilisation=x), (0.01, None, 1.0)
            )
        )
    for symbol, figure in _largest(asked).items():
        low, likely, high = (float(end) for end in (figure.low, figure.likely, figure.high))
        found.append(
            asked.about(
                symbol,
                [low, high],
                lambda x, symbol=symbol: World(symbol=(symbol, Decimal(repr(x)))),
                (low, likely, high),
            )
        )
    return tuple(found)


def words(found: Sensitivity) -> str:
    """From where on an input gives another answer, as the end of "the answer changes when"."""
    assert found.flips_at is not None
    assert found.flips_to is not None
    then = f"then {verdict_words(*found.flips_to)}"
    flips_at, today = found.flips_at, found.today
    assert today is not None
    if found.input not in (API, VOLUME):
        now = symbols.amount(found.input, today)
        at = symbols.amount(found.input, flips_at)
        return f"{symbols.in_words(found.input)}: {at} in place of {now}, {then}"
    if flips_at >= TIMES:
        return f"{found.input}: {flips_at:.3g} times today's, {then}"
    return f"{found.input}: {abs(flips_at - 1):.0%} {'more' if flips_at > 1 else 'less'}, {then}"


class _Asked:
    """The rule, asked about changed worlds."""

    def __init__(self, study: Study, evidence: Evidence, owned: Mapping[str, Owning]) -> None:
        self.study = study
        self.n_draws = max(FEWEST_DRAWS, min(N_DRAWS, DRAWN_ITEMS // len(evidence.ids)))
        self.evidence = replace(
            evidence,
            usd_draws={k: each[: self.n_draws] for k, each in evidence.usd_draws.items()},
        )
        self.owned = owned
        self.tasks = study.workload.traffic.tasks_per_month
        self.bill = {
            name: float(own_cost.usd_per_month(own, self.tasks, own.at("likely"))) / self.tasks
            for name, own in owned.items()
        }
        self.now = self.answer(World())

    def about(
        self,
        name: str,
        tried: Sequence[float],
        world: Callable[[float], World],
        span: tuple[float, float | None, float],
    ) -> Sensitivity:
        """One input: the answer at some values, and the value nearest to today's that flips it.

        Args:
            name: of the input.
            tried: its values.
            world: value -> what is changed.
            span: its lowest value, today's, and its highest; None = today's is no one value.
        """
        scenarios: list[Scenario] = []
        for value in tried:
            verdict, chosen = self.answer(world(value))
            changed = (verdict, chosen) != self.now
            scenarios.append(Scenario(value=value, verdict=verdict, chosen=chosen, changes=changed))
        low, today, high = span
        flips: list[float] = []
        if today is not None:
            for end in (low, high):
                known = [s for s in scenarios if s.changes and (s.value < today) == (end < today)]
                far = min((s.value for s in known), key=lambda x: abs(math.log(x / today)),
                          default=end) if today > 0 and end > 0 else end  # fmt: skip
                if far != today and self.answer(world(far)) != self.now:
                    flips.append(self._between(world, today, far))
        nearest = min(flips, key=lambda x: _far(x, today), default=None)
        return Sensitivity(
            input=name,
            today=today,
            scenarios=tuple(scenarios),
            flips_at=nearest,
            flips_to=None if nearest is None else self.answer(world(nearest)),
        )

    def _between(self, world: Callable[[float], World], same: float, other: float) -> float:
        """The value between two answers that is nearest to the second one's start."""
        by_ratio = same > 0 and other > 0
        for _ in range(HALVINGS):
            middle = math.sqrt(same * other) if by_ratio else (same + other) / 2
            if self.answer(world(middle)) == self.now:
                same = middle
            else:
                other = middle
        return other

    def answer(self, world: World) -> Answer:
        """Verdict and choice in a changed world."""
        ruling = self.ruling(world)
        return ruling.verdict, ruling.chosen

    def ruling(self, world: World) -> Ruling:
        """The rule's word in a changed world."""
        base = self.evidence
        assert base.usd is not None
        usd, draws = base.usd.copy(), dict(base.usd_draws)
        for j, name in enumerate(base.candidates):
            if name in self.owned:
                times = self._usd_per_task(self.owned[name], world) / self.bill[name]
                usd[:, j] *= times
                draws[name] = draws[name] * times
            elif base.kinds.get(name) == "rent":
                usd[:, j] *= world.api
        return ruled(
            self.study,
            replace(base, usd=usd, usd_draws=draws),
            requests_per_month=max(1, round(self.tasks * world.volume)),
            n_draws=self.n_draws,
        )

    def _usd_per_task(self, own: Owning, world: World) -> float:
        tasks = self.tasks * world.volume
        at = own.at("likely")
        if world.symbol is not None and world.symbol[0] in at:
            at = {**at, world.symbol[0]: world.symbol[1]}
        if world.utilisation is None:
            return float(own_cost.usd_per_month(own, tasks, at)) / tasks
        beside = float(sum(own_cost.beside_machines(at).values(), Decimal(0)))
        return own_cost.usd_per_task_at(world.utilisation, at) + beside / tasks


def _largest(asked: _Asked) -> dict[str, Figure]:
    """The inputs of owning that change the bill most, over all own candidates."""
    found: dict[str, tuple[float, Figure]] = {}
    for own in asked.owned.values():
        likely = own.at("likely")
        for symbol, figure in own.symbols.items():
            if figure.low == figure.high:
                continue
            low, high = (
                own_cost.usd_per_month(own, asked.tasks, {**likely, symbol: end})
                for end in (figure.low, figure.high)
            )
            width = abs(float(high - low))
            if width > found.get(symbol, (0.0, figure))[0]:
                found[symbol] = (width, figure)
    ordered = sorted(found, key=lambda symbol: -found[symbol][0])
    return {symbol: found[symbol][1] for symbol in ordered[:N_SYMBOLS]}


def _far(value: float, today: float | None) -> float:
    if not today or value <= 0:
        return abs(value - (today or 0.0))
    return abs(math.log(value / today))
