"""What a step shows, against figures worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipelines.core.records import Usage
from pipelines.load.measures import (
    latency_s,
    measure,
    needed,
    quantiles,
    send_error_p99_s,
    server_latency_s,
    server_ttft_s,
    tpot_s,
    trend,
    ttft_s,
)
from pipelines.load.send import Exchange


def tokens(n: int | None) -> Usage | None:
    return None if n is None else Usage(input_tokens=4, output_tokens=n)


def exchange(due: float, latency: float, **more: Any) -> Exchange:
    """Sent when it was due, first token after half of its latency."""
    about: dict[str, Any] = {
        "example_id": "e",
        "intended_s": due,
        "sent_s": due,
        "first_token_s": due + latency / 2,
        "end_s": due + latency,
        "usage": tokens(11),
    }
    return Exchange(**(about | more))


def steady(n: int, rate: float = 10.0, latency: float = 0.5) -> list[Exchange]:
    return [exchange((k + 1) / rate, latency) for k in range(n)]


def failed(due: float) -> Exchange:
    return Exchange(example_id="e", intended_s=due, sent_s=due, end_s=due + 0.1, error="HTTP 500")


def test_both_clocks() -> None:
    late = exchange(1.0, 0.0, sent_s=1.25, first_token_s=1.5, end_s=3.5)
    assert (ttft_s(late), latency_s(late)) == (0.5, 2.5)
    assert (server_ttft_s(late), server_latency_s(late)) == (0.25, 2.25)
    assert tpot_s(late) == pytest.approx(2.0 / 10)
    assert (ttft_s(failed(1.0)), latency_s(failed(1.0)), server_latency_s(failed(1.0))) == (
        None,
        None,
        None,
    )


@pytest.mark.parametrize("n", [None, 0, 1])
def test_an_answer_of_one_token_has_no_time_per_token(n: int | None) -> None:
    assert tpot_s(exchange(0.0, 1.0, usage=tokens(n))) is None


def test_percentiles_are_none_until_there_are_enough() -> None:
    assert [needed(share) for share in (0.5, 0.95, 0.99)] == [5, 59, 299]
    few = quantiles([0.1 * k for k in range(1, 59)])
    assert few.n == 58
    assert few.p50 == pytest.approx(2.9)
    assert few.p95 is None
    enough = quantiles([float(k) for k in range(1, 101)])
    assert (enough.p50, enough.p95, enough.p99) == (50.0, 95.0, None)
    assert quantiles([float(k) for k in range(1, 301)]).p99 == 297.0


def test_a_failed_request_is_longer_than_any_other() -> None:
    values = [float(k) for k in range(1, 91)]
    found = quantiles(values, n_failed=10)
    assert (found.n, found.p50, found.p95) == (90, 50.0, None)
    assert quantiles(values[:80], n_failed=3).p95 == 79.0  # rank ceil(0.95 * 83)


def test_a_limit_holds_when_95_of_100_keep_it() -> None:
    limits = {"latency_p95_s": 1.0}
    slow = [exchange(k + 100.0, 3.0) for k in range(5)]
    step = measure(steady(95) + slow, 10.0, 0, limits, 0.0)
    assert "latency_p95_s" not in step.broke
    step = measure([*steady(94), *slow, exchange(110.0, 3.0)], 10.0, 0, limits, 0.0)
    assert "latency_p95_s" in step.broke
    assert not step.holds


def test_a_failed_request_keeps_no_limit() -> None:
    limits = {"latency_p95_s": 1.0}
    some = [*steady(98), failed(20.0), failed(21.0)]
    assert measure(some, 10.0, 0, limits, 0.0).broke == ()
    more = [*steady(94), *(failed(20.0 + k) for k in range(6))]
    step = measure(more, 10.0, 0, limits, 0.0)
    assert step.broke == ("latency_p95_s", "errors")
    assert (step.n, step.n_answered) == (100, 94)
    assert step.latency.p95 is None


def test_the_limit_on_time_per_token_leaves_short_answers_out() -> None:
    short = [exchange(k / 10, 9.0, usage=tokens(1)) for k in range(1, 51)]
    long = [exchange(5 + k / 10, 1.0) for k in range(1, 51)]  # 0.05 s a token
    assert measure(short + long, 10.0, 0, {"tpot_p95_s": 0.06}, 0.0).broke == ()
    assert measure(short + long, 10.0, 0, {"tpot_p95_s": 0.04}, 0.0).broke == ("tpot_p95_s",)
    # Without any figure nothing can be said to hold.
    assert measure(short, 10.0, 0, {"tpot_p95_s": 9.0}, 0.0).broke == ("tpot_p95_s",)


def test_goodput_and_rates() -> None:
    limits = {"latency_p95_s": 1.0, "ttft_p95_s": 0.4}
    requests = [*steady(60), *(exchange(6 + k / 10, 0.9) for k in range(1, 41))]
    step = measure(requests, 10.0, 3, limits, 0.25)
    assert step.realised_per_s == pytest.approx(10.0)
    assert step.goodput_per_s == pytest.approx(6.0)  # the 40 slower ones miss the TTFT
    assert step.achieved_per_s == pytest.approx(100 / 10.8)  # from 0.1 to 10.9
    assert (step.seed, step.client_cpu_share) == (3, 0.25)
    assert step.wall_s == pytest.approx(10.9)


def test_a_growing_queue_is_seen_by_its_slope() -> None:
    # 12.5 a second arrive, 10 are answered: the latency rises by 0.25 s a second.
    growing = [exchange(k / 12.5, 0.5 + 0.25 * k / 12.5) for k in range(1, 101)]
    found = trend(growing)
    assert found is not None
    assert found[0] == pytest.approx(0.8)
    assert found[1] < 1e-6
    assert measure(growing, 12.5, 0, {"latency_p95_s": 60.0}, 0.0).broke == ("queue",)


def test_a_slope_below_two_percent_is_no_growing_queue() -> None:
    drifting = [exchange(k / 10, 0.5 + 0.01 * k / 10) for k in range(1, 101)]
    step = measure(drifting, 10.0, 0, {"latency_p95_s": 60.0}, 0.0)
    assert step.completed_share == pytest.approx(1 / 1.01)
    assert step.trend_p is not None
    assert step.trend_p < 1e-6
    assert step.holds


def test_chance_is_no_growing_queue() -> None:
    dice = np.random.default_rng(0)
    seen = 0
    for _ in range(300):
        noisy = [exchange(k / 10, float(dice.exponential(0.3))) for k in range(1, 61)]
        seen += "queue" in measure(noisy, 10.0, 0, {"latency_p95_s": 60.0}, 0.0).broke
    assert seen <= 26  # alpha is 5 %; 27 or more of 300 have a probability of 0.2 %


def test_a_steep_slope_of_too_few_answers_is_not_judged() -> None:
    assert trend([exchange(k / 10, 0.1 * k) for k in range(19)]) is None


def test_a_late_sender_is_said() -> None:
    on_time = [exchange(k / 10, 0.5, sent_s=k / 10 + 0.001) for k in range(1, 101)]
    assert send_error_p99_s(on_time) == pytest.approx(0.001)
    late = [exchange(k / 10, 0.5, sent_s=k / 10 + 0.3) for k in range(1, 101)]
    step = measure(late, 10.0, 0, {"latency_p95_s": 2.0}, 0.0)
    assert step.broke == ("sender",)
    assert step.send_error_p99_s == pytest.approx(0.3)
