"""What one step of load shows: latencies on both clocks, goodput, whether the queue grew."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from pipelines.core.results import LoadStep, Quantiles
from pipelines.load.send import Exchange

SHARE = 0.95
"""Of the requests that must keep a limit."""
MIN_COMPLETED = 0.98
"""Rate of completion over rate of arrival, and answered over all requests."""
TREND_ALPHA = 0.05
"""A rising latency is believed below this one-sided p-value."""
TREND_BATCHES = 10
"""Requests that follow one another wait for the same queue; means of batches hardly do."""
MAX_SEND_ERROR_S, MAX_SEND_ERROR = 0.01, 0.1
"""Requests that leave later than this, or than this share of the tightest limit if that is more,
were not the load that was meant. Less than that is inside the user's latency, on the safe side."""


Timed = Callable[[Exchange], float | None]


def ttft_s(exchange: Exchange) -> float | None:
    """Due to first token; None without one."""
    first = exchange.first_token_s
    return None if first is None else first - exchange.intended_s


def latency_s(exchange: Exchange) -> float | None:
    """Due to the end of the answer; None for a failed request."""
    return None if exchange.error else exchange.end_s - exchange.intended_s


def server_ttft_s(exchange: Exchange) -> float | None:
    """Sent to first token."""
    first, sent = exchange.first_token_s, exchange.sent_s
    return None if first is None or sent is None else first - sent


def server_latency_s(exchange: Exchange) -> float | None:
    """Sent to the end of the answer."""
    sent = exchange.sent_s
    return None if exchange.error or sent is None else exchange.end_s - sent


def tpot_s(exchange: Exchange) -> float | None:
    """Seconds per output token after the first; None for fewer than two tokens."""
    usage, first = exchange.usage, exchange.first_token_s
    if usage is None or usage.output_tokens < 2 or first is None:
        return None
    return (exchange.end_s - first) / (usage.output_tokens - 1)


OF_LIMIT: Mapping[str, Timed] = {
    "ttft_p95_s": ttft_s,
    "tpot_p95_s": tpot_s,
    "latency_p95_s": latency_s,
}


def needed(share: float) -> int:
    """Values that a percentile needs: the largest of them is above it with 95 % confidence."""
    return math.ceil(math.log(0.05) / math.log(share))


def quantiles(values: Sequence[float], n_failed: int = 0) -> Quantiles:
    """50th, 95th and 99th percentile; None with fewer than 5, 59 and 299 values.

    Args:
        values: seconds.
        n_failed: requests that never got there: longer than any value. A percentile among them
            is None.
    """
    ordered, n = sorted(values), len(values) + n_failed
    found: dict[str, float | None] = {}
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        rank = math.ceil(share * n)
        found[name] = ordered[rank - 1] if n >= needed(share) and rank <= len(ordered) else None
    return Quantiles(n=len(values), **found)


def trend(exchanges: Sequence[Exchange]) -> tuple[float, float] | None:
    """How the latency of what was answered goes with time.

    In a growing queue the latency rises by `b` seconds a second, and answers come at 1 / (1 + b)
    of the rate of the arrivals.

    Returns:
        1 / (1 + b), at most 1, and the one-sided p-value of a rise; None for fewer than two
        answers in each batch.
    """
    points = [(e.intended_s, late) for e in exchanges if (late := latency_s(e)) is not None]
    if len(points) < 2 * TREND_BATCHES:
        return None
    batches = [np.mean(batch, axis=0) for batch in np.array_split(np.array(points), TREND_BATCHES)]
    times, latencies = np.array(batches).T
    line: Any = stats.theilslopes(latencies, times)
    rising: Any = stats.kendalltau(times, latencies, alternative="greater")
    p = float(rising.pvalue)
    return 1 / (1 + max(0.0, float(line.slope))), 1.0 if math.isnan(p) else p


def measure(
    exchanges: Sequence[Exchange],
    offered_per_s: float,
    seed: int,
    limits: Mapping[str, float],
    client_cpu_share: float,
) -> LoadStep:
    """The figures of one step.

    A limit holds when 95 of 100 requests keep it, failed ones never do. The queue grew when
    answers fall behind arrivals by more than 2 % and that is not chance: a short step shows a
    slope of either sign by itself. A failed request is not in the trend.

    Args:
        exchanges: in the order of their due times, at least one.
        offered_per_s: the rate that was meant.
        seed: of the arrivals.
        limits: `ttft_p95_s`, `tpot_p95_s`, `latency_p95_s` -> seconds.
        client_cpu_share: processor seconds of this process over wall seconds.
    """
    n = len(exchanges)
    answered = [e for e in exchanges if e.error is None]
    last_due, end = exchanges[-1].intended_s, max(e.end_s for e in exchanges)
    found = trend(exchanges)
    send_error = send_error_p99_s(exchanges)
    broke = [name for name, limit in limits.items() if not _kept(exchanges, name, limit)]
    if len(answered) < MIN_COMPLETED * n:
        broke.append("errors")
    if found is not None and found[0] < MIN_COMPLETED and found[1] < TREND_ALPHA:
        broke.append("queue")
    tightest = min((limit for name, limit in limits.items() if name != "tpot_p95_s"), default=0.0)
    if send_error > max(MAX_SEND_ERROR_S, MAX_SEND_ERROR * tightest):
        broke.append("sender")
    n_good = sum(_good(e, limits) for e in answered)
    n_failed = n - len(answered)

    def of(timed: Timed, failed: int = 0) -> Quantiles:
        return quantiles([s for e in answered if (s := timed(e)) is not None], failed)

    return LoadStep(
        offered_per_s=offered_per_s,
        realised_per_s=n / last_due if last_due else None,
        seed=seed,
        n=n,
        n_answered=len(answered),
        holds=not broke,
        broke=tuple(broke),
        ttft=of(ttft_s, n_failed),
        latency=of(latency_s, n_failed),
        server_ttft=of(server_ttft_s, n_failed),
        server_latency=of(server_latency_s, n_failed),
        tpot=of(tpot_s),
        itl=quantiles([gap for e in answered for gap in e.gaps_s]),
        goodput_per_s=n_good / last_due if last_due else None,
        achieved_per_s=len(answered) / (end - exchanges[0].intended_s),
        completed_share=found[0] if found else None,
        trend_p=found[1] if found else None,
        send_error_p99_s=send_error,
        client_cpu_share=client_cpu_share,
        wall_s=end,
    )


def send_error_p99_s(exchanges: Sequence[Exchange]) -> float:
    """How late requests left, the sample's 99th percentile; 0 when none reached a socket."""
    late = [e.sent_s - e.intended_s for e in exchanges if e.sent_s is not None]
    return float(np.quantile(late, 0.99, method="lower")) if late else 0.0


def _kept(exchanges: Sequence[Exchange], name: str, limit: float) -> bool:
    """True when 95 of 100 requests keep the limit; of TPOT, those that have one."""
    values = [OF_LIMIT[name](e) for e in exchanges if e.error is None]
    judged = [v for v in values if v is not None]
    n = len(judged) if name == "tpot_p95_s" else len(values)
    n += sum(e.error is not None for e in exchanges)
    return bool(judged) and sum(v <= limit for v in judged) >= SHARE * n


def _good(exchange: Exchange, limits: Mapping[str, float]) -> bool:
    """True when an answer kept all limits; one without TPOT cannot miss that."""
    for name, limit in limits.items():
        value = OF_LIMIT[name](exchange)
        if value is None and name == "tpot_p95_s":
            continue
        if value is None or value > limit:
            return False
    return True
