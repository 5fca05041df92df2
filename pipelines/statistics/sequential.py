"""Stopping early without paying for the looks: a group-sequential design and a fixed order."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from pipelines.core.records import Record

Floats = NDArray[np.float64]
NODES, WEIGHTS = np.polynomial.legendre.leggauss(96)
"""Per look: bounds are right to 1e-7, for up to 20 looks."""
FAR = 9.0
"""Standard errors beyond which a density is taken as 0."""


class Design(Record):
    """When to look and where to stop, for a one-sided test of H0: true difference <= -margin.

    At look k, z = (mean difference + margin) / its standard error. Stop and reject H0 when
    z >= efficacy[k]; one may stop and keep the incumbent when z < futility[k]. Not to stop there
    costs no error: the bounds for efficacy are computed as if there were no futility.
    """

    fractions: tuple[float, ...]
    """Share of the maximal n at each look; the last is 1."""
    alpha: float
    power: float
    efficacy: tuple[float, ...]
    futility: tuple[float, ...] | None
    """The last equals the last of `efficacy`: there is no way on. None = none planned."""
    drift: float
    """Expected z at the maximal n if the planned difference is true."""

    @property
    def inflation(self) -> float:
        """Maximal n over the n of one test at the end with the same alpha and power."""
        fixed = stats.norm.ppf(1 - self.alpha) + stats.norm.ppf(self.power)
        return float((self.drift / fixed) ** 2)

    @property
    def levels(self) -> tuple[float, ...]:
        """One-sided alpha of each look on its own: a comparison made at look k uses it."""
        return tuple(float(level) for level in stats.norm.sf(self.efficacy))


class Crossings(NamedTuple):
    """Probabilities by look of the first crossing of a bound."""

    efficacy: Floats
    futility: Floats
    """At the last look: of ending there without a rejection."""


def plan(n_looks: int = 5, alpha: float = 0.05, power: float = 0.8) -> Design:
    """Equally spaced looks with O'Brien-Fleming-type spending of alpha and of 1 - power.

    Spent by share t of the n: 2 - 2 Phi(z_(1 - alpha/2) / sqrt(t)) (Lan and DeMets 1983).

    Raises:
        ValueError: less than one look or more than 20, or alpha or power is out of range.
    """
    if not 1 <= n_looks <= 20:
        raise ValueError(f"{n_looks} looks: between 1 and 20 can be planned")
    if not 0 < alpha <= 0.2 or not 0.5 <= power < 1:
        raise ValueError(f"alpha {alpha} must be in (0, 0.2] and power {power} in [0.5, 1)")
    fractions = np.arange(1, n_looks + 1) / n_looks
    return spending_design(
        fractions, obrien_fleming(alpha, fractions), obrien_fleming(1 - power, fractions)
    )


def obrien_fleming(total: float, fractions: Sequence[float] | Floats) -> Floats:
    """Error spent up to each share of the n; all of `total` at 1."""
    return 2 * special.ndtr(-stats.norm.isf(total / 2) / np.sqrt(np.asarray(fractions)))


def spending_design(
    fractions: Sequence[float] | Floats,
    alpha_spent: Sequence[float] | Floats,
    beta_spent: Sequence[float] | Floats,
    *,
    stop_for_futility: bool = True,
) -> Design:
    """Bounds that spend the given errors, by the recursion of Armitage, McPherson and Rowe (1969).

    Args:
        fractions: share of the maximal n at each look, rising to 1.
        alpha_spent: probability of a false rejection up to each look, rising.
        beta_spent: probability of a miss under the planned difference up to each look, rising.
        stop_for_futility: without it only the last of `beta_spent` counts.
    """
    t = np.asarray(fractions, dtype=float)
    alphas = np.diff(np.asarray(alpha_spent, dtype=float), prepend=0.0)
    betas = np.diff(np.asarray(beta_spent, dtype=float), prepend=0.0)
    alpha, beta = float(alpha_spent[-1]), float(beta_spent[-1])
    efficacy = _spend(t, alphas)
    fixed = float(stats.norm.isf(alpha) + stats.norm.isf(beta))

    def futility(drift: float) -> Floats:
        if not stop_for_futility:
            return np.full(len(t), -np.inf)
        return -_spend(t, betas[:-1], -drift, below=-efficacy)

    def missed(drift: float) -> float:
        lower = np.append(futility(drift)[: len(t) - 1], efficacy[-1])
        return float(_cross(t, lower, efficacy, drift).futility.sum()) - beta

    drift = fixed
    if len(t) > 1:
        drift = float(optimize.brentq(missed, fixed * 0.999, 2 * fixed, xtol=1e-10))  # pyright: ignore[reportArgumentType]
    lower = [*futility(drift)[: len(t) - 1].tolist(), float(efficacy[-1])]
    return Design(
        fractions=tuple(t.tolist()),
        alpha=alpha,
        power=1 - beta,
        efficacy=tuple(efficacy.tolist()),
        futility=tuple(lower) if stop_for_futility else None,
        drift=drift,
    )


def crossings(design: Design, drift: float, *, obey_futility: bool = True) -> Crossings:
    """Where a study ends, if the expected z at the maximal n is `drift`.

    0 = the true difference is -margin; `design.drift` = it is the planned one; in between and
    beyond in proportion to (true difference + margin).
    """
    upper = np.array(design.efficacy)
    lower = np.full(len(upper), -np.inf)
    if obey_futility and design.futility is not None:
        lower = np.array(design.futility)
    lower[-1] = upper[-1]
    return _cross(np.array(design.fractions), lower, upper, drift)


def expected_n(design: Design, n_fixed: float, drift: float) -> float:
    """Mean number of items until the study stops, both bounds obeyed.

    Args:
        design: the design.
        n_fixed: items that one test at the end would need.
        drift: see `crossings`.
    """
    stops = crossings(design, drift)
    share = float((np.array(design.fractions) * (stops.efficacy + stops.futility)).sum())
    return share * design.inflation * n_fixed


def repeated_interval(
    design: Design, look: int, mean: float, standard_error: float
) -> tuple[float, float]:
    """Interval of look 1, 2, ...: those of all looks hold at once, whenever one stops.

    Each end holds with 1 - alpha (Jennison and Turnbull 1989). Of 0/1 scores, rather compare the
    prefix at alpha = design.levels[look - 1]: that is the same with the score test.
    """
    half = design.efficacy[look - 1] * standard_error
    return mean - half, mean + half


def fixed_order(ids: Iterable[str], seed: int) -> tuple[str, ...]:
    """The random order of which every look is a prefix: by the SHA-256 of seed and id.

    It depends on nothing else, such as the order in which answers arrive: deciding on the first
    answers to arrive favours items that are answered fast.

    Raises:
        ValueError: an id occurs twice.
    """
    found = sorted(ids, key=lambda i: _digest(f"{seed}\n{i}"))
    for one, other in itertools.pairwise(found):
        if one == other:
            raise ValueError(f"the id {one!r} occurs twice; an order needs unique ids")
    return tuple(found)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class _Alive(NamedTuple):
    """Density of z at one look over the studies that go on, on quadrature nodes."""

    z: Floats
    mass: Floats
    """Density times weight."""
    fraction: float


def _above(bound: float, t: float, drift: float, alive: _Alive | None) -> float:
    """P(still alive before this look, z >= bound at it)."""
    if alive is None:
        return float(special.ndtr(drift * math.sqrt(t) - bound))
    step = t - alive.fraction
    moved = alive.z * math.sqrt(alive.fraction) + drift * step
    return float(alive.mass @ special.ndtr((moved - bound * math.sqrt(t)) / math.sqrt(step)))


def _go_on(lower: float, upper: float, t: float, drift: float, alive: _Alive | None) -> _Alive:
    centre = drift * math.sqrt(t)
    low, high = max(lower, centre - FAR), min(upper, centre + FAR)
    half = max(0.0, high - low) / 2
    z = low + half * (NODES + 1)
    if alive is None:
        density = np.exp(-((z - centre) ** 2) / 2) / math.sqrt(2 * math.pi)
    else:
        step = t - alive.fraction
        moved = alive.z * math.sqrt(alive.fraction) + drift * step
        gap = (z[:, None] * math.sqrt(t) - moved[None, :]) / math.sqrt(step)
        density = np.exp(-(gap**2) / 2) @ alive.mass * math.sqrt(t / step / (2 * math.pi))
    return _Alive(z, density * WEIGHTS * half, t)


def _spend(
    fractions: Floats, errors: Floats, drift: float = 0.0, below: Floats | None = None
) -> Floats:
    """Upper bounds that are crossed first at look k with probability errors[k].

    `below` are lower bounds that end a study, too; a bound never falls under them.
    """
    bounds, alive = np.empty(len(errors)), None
    for k, error in enumerate(errors):
        t, floor = float(fractions[k]), -np.inf if below is None else float(below[k])
        least, most = max(floor, -FAR - abs(drift)), FAR + abs(drift)
        bounds[k] = most if _above(most, t, drift, alive) > error else least
        if _above(most, t, drift, alive) < error < _above(least, t, drift, alive):

            def excess(b: float, t: float = t, error: float = error, alive=alive) -> float:
                return _above(b, t, drift, alive) - error

            bounds[k] = float(optimize.brentq(excess, least, most, xtol=1e-12))  # pyright: ignore[reportArgumentType]
        alive = _go_on(floor, float(bounds[k]), t, drift, alive)
    return bounds


def _cross(fractions: Floats, lower: Floats, upper: Floats, drift: float) -> Crossings:
    up, down, alive = np.empty(len(upper)), np.empty(len(upper)), None
    for k, t in enumerate(fractions.tolist()):
        up[k] = _above(float(upper[k]), t, drift, alive)
        before = 1.0 if alive is None else float(alive.mass.sum())
        down[k] = before - _above(float(lower[k]), t, drift, alive)
        alive = _go_on(float(lower[k]), float(upper[k]), t, drift, alive)
    return Crossings(up, down)
