"""The search against queues whose capacity is known from theory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq

from pipelines.core.results import LoadStep
from pipelines.load.measures import measure
from pipelines.load.search import RESOLUTION, confirmed, find
from pipelines.load.send import Exchange

SERVICE_S = 0.1


def one_server(rate: float, seed: int, n: int = 20_000, limit_s: float = 1.0) -> LoadStep:
    """Poisson arrivals at one server that takes the same time for each: the queue M/D/1."""
    due = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, n))
    exchanges: list[Exchange] = []
    free_at = 0.0
    for k, at in enumerate(due):
        free_at = max(free_at, float(at)) + SERVICE_S
        about = {"example_id": f"{k}", "intended_s": at, "sent_s": at, "end_s": free_at}
        exchanges.append(Exchange.model_validate(about))
    return measure(exchanges, rate, seed, {"latency_p95_s": limit_s}, 0.0)


def waits_at_most(load: float, t: float) -> float:
    """Erlang's distribution of the wait in M/D/1, `t` in service times."""
    terms = (
        (load * (k - t)) ** k / math.factorial(k) * math.exp(-load * (k - t))
        for k in range(int(t) + 1)
    )
    return (1 - load) * sum(terms)


def test_the_capacity_of_a_queue_is_that_of_its_formula() -> None:
    limit_s = 0.5
    allowed = limit_s / SERVICE_S - 1  # service times to wait
    load: Any = brentq(lambda load: waits_at_most(load, allowed) - 0.95, 0.2, 0.95)
    known = float(load) / SERVICE_S
    assert 6 < known < 8.5  # of the 10 a second that the server can do
    found = find(
        lambda rate, seed: one_server(rate, seed, limit_s=limit_s),
        30.0, max_rate=1000, repeats=3, seed=0,
    )  # fmt: skip
    assert found.per_s is not None
    assert found.low is not None
    assert found.high is not None
    assert known / RESOLUTION < found.per_s < known * 1.03
    assert found.low <= known <= found.high
    assert found.high / found.low < 1.25
    assert found.limited_by == "latency_p95_s"
    assert len(found.steps) < 20


def test_a_limit_far_away_does_not_hide_an_overloaded_server() -> None:
    found = find(
        lambda rate, seed: one_server(rate, seed, n=2000, limit_s=3600.0),
        3.0, max_rate=1000, repeats=3, seed=0,
    )  # fmt: skip
    assert found.per_s is not None
    assert 9.0 < found.per_s < 10.5
    assert found.limited_by == "queue"


def test_a_wave_in_a_short_step_is_measured_again_for_longer() -> None:
    """At 85 % of what the server can do; a step is two seconds, or eight."""

    def step(rate: float, seed: int, times: int = 1) -> LoadStep:
        return one_server(rate, seed, n=60 * times)

    def n_held(rate: float) -> tuple[int, int]:
        again = [confirmed(step)(rate, seed) for seed in range(200)]
        return sum(step(rate, seed).holds for seed in range(200)), sum(s.holds for s in again if s)

    assert n_held(8.5) == (144, 180)
    assert n_held(12.0) == (19, 19)  # a fifth too much: time does not help


def test_a_limit_that_broke_is_not_measured_again() -> None:
    asked: list[int] = []

    def step(rate: float, seed: int, times: int) -> LoadStep | None:
        asked.append(times)
        return one_server(rate, seed, n=60, limit_s=0.05) if times == 1 else None

    found = confirmed(step)(8.5, 0)
    assert found is not None
    assert found.broke[0] == "latency_p95_s"
    assert asked == [1]


def test_what_the_budget_does_not_cover_for_longer_counts_as_it_was() -> None:
    short = next(s for seed in range(99) if not (s := one_server(8.5, seed, n=60)).holds)
    assert short.broke == ("queue",)
    assert confirmed(lambda _, __, times: short if times == 1 else None)(8.5, short.seed) == short


def scripted(holds: float, tried: list[tuple[float, int]] | None = None):
    """Rates up to `holds` hold; notes what was tried."""

    def step(rate: float, seed: int) -> LoadStep:
        if tried is not None:
            tried.append((rate, seed))
        limits = {"latency_p95_s": 1.0 if rate <= holds else 0.1}
        exchanges = [
            Exchange(example_id="e", intended_s=k / rate, sent_s=k / rate, end_s=k / rate + 0.5)
            for k in range(1, 61)
        ]
        return measure(exchanges, rate, seed, limits, 0.0)

    return step


@pytest.mark.parametrize("guess", [1.0, 20.0, 100.0])
def test_the_interval_holds_the_capacity_whatever_the_guess(guess: float) -> None:
    tried: list[tuple[float, int]] = []
    found = find(scripted(17.0, tried), guess, max_rate=500, repeats=3, seed=40)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 17.0 < found.high <= found.low * RESOLUTION * 1.0001
    assert found.per_s == found.low
    assert len(tried) == len(found.steps) <= 16
    assert {seed for _, seed in tried} == {40, 41, 42}
    # The later searches only look at where the first one ended.
    assert [seed for _, seed in tried].count(42) == 2


def test_the_interval_spans_what_the_seeds_found() -> None:
    carried = {0: 17.0, 1: 20.0, 2: 14.0}
    found = find(
        lambda rate, seed: scripted(carried[seed])(rate, seed),
        17.0, max_rate=500, repeats=3, seed=0,
    )  # fmt: skip
    assert found.low is not None
    assert found.per_s is not None
    assert found.high is not None
    assert 14.0 / RESOLUTION <= found.low <= 14.0
    assert 17.0 / RESOLUTION <= found.per_s <= 17.0
    assert 20.0 < found.high <= 20.0 * RESOLUTION


@pytest.mark.parametrize("guess", [5.0, 50.0, 5000.0])
def test_nothing_breaks_below_the_highest_rate(guess: float) -> None:
    found = find(scripted(1e9), guess, max_rate=50, repeats=2, seed=0)
    assert (found.per_s, found.low, found.high) == (50.0, 50.0, None)
    assert found.limited_by == "max_rate"
    assert max(step.offered_per_s for step in found.steps) == 50.0


def test_nothing_holds() -> None:
    found = find(scripted(0.0), 64.0, max_rate=500, repeats=3, seed=0)
    assert (found.per_s, found.low) == (None, 0.0)
    assert found.high is not None
    assert found.high >= 4.0  # a sixteenth of the guess
    assert found.limited_by == "latency_p95_s"


def test_a_spent_budget_keeps_what_was_found() -> None:
    left = iter(range(4))
    step = scripted(17.0)
    found = find(
        lambda rate, seed: None if next(left, None) is None else step(rate, seed),
        10.0, max_rate=500, repeats=3, seed=0,
    )  # fmt: skip
    assert found.limited_by == "budget"
    assert len(found.steps) == 4
    assert found.per_s is not None
    assert 10.0 <= found.per_s <= 17.0
    assert found.high is None
