"""Load tests as a table for a terminal, in words, and as metrics for MLflow."""

from __future__ import annotations

from pipelines.core.results import BenchmarkResult, BenchmarkResults, LoadStep

QUANTILES = ("ttft", "latency", "tpot", "itl", "server_ttft", "server_latency")
"""Of a step; each becomes a metric for its p50, p95 and p99."""


def table(found: BenchmarkResults) -> str:
    """The capacities."""
    if not found.results:
        return "nothing to measure: benchmark.candidates names none, and all are rented"
    lines = [
        f"{'candidate':<22} {'tasks/s':>8} {'interval':>15} {'limited by':<14} "
        f"{'TTFT p95':>9} {'p95':>9} {'late':>9}"
    ]
    for name, result in found.results.items():
        step = result.at_capacity
        capacity = "none" if result.capacity_per_s is None else f"{result.capacity_per_s:.1f}"
        mark = " (simulated)" if result.simulated else " (toy)" if result.toy else ""
        lines.append(
            f"{name:<22} {capacity:>8} {_interval(result):>15} {result.limited_by:<14} "
            f"{seconds(step.ttft.p95 if step else None):>9} "
            f"{seconds(step.latency.p95 if step else None):>9} "
            f"{seconds(result.send_error_p99_s):>9}{mark}"
        )
    lines.append("late: how long after they were due requests left, 99th percentile")
    return "\n".join(lines)


def describe(result: BenchmarkResult) -> str:
    """The result in words, Markdown."""
    mark = "**SIMULATED** " if result.simulated else "**TOY** " if result.toy else ""
    limits = ", ".join(f"{name} {value:g} s" for name, value in result.limits.items())
    if result.capacity_per_s is None:
        return f"{mark}No rate holds {limits}: {result.limited_by}. Measured on {result.machine}."
    return (
        f"{mark}{result.title} carries {result.capacity_per_s:.2f} requests a second "
        f"({_interval(result)}) within {limits}; above that, {result.limited_by}. "
        f"{result.n_requests} requests, measured on {result.machine}."
    )


def figures(result: BenchmarkResult) -> dict[str, float | None]:
    """Metrics of the whole: capacity per second, and durations at it in seconds."""
    found: dict[str, float | None] = {
        "capacity_per_s": result.capacity_per_s,
        "capacity_low": result.capacity_low,
        "capacity_high": result.capacity_high,
        "send_error_p99_s": result.send_error_p99_s,
        "n_requests": float(result.n_requests),
        "spent_usd": None if result.spent_usd is None else float(result.spent_usd),
    }
    step = result.at_capacity
    if step is not None:
        for name in QUANTILES:
            quantiles = getattr(step, name)
            for which in ("p50", "p95", "p99"):
                found[f"{name}_{which}_s"] = getattr(quantiles, which)
        found["goodput_per_s"] = step.goodput_per_s
        found["client_cpu_share"] = step.client_cpu_share
    return found


def step_figures(step: LoadStep) -> dict[str, float | None]:
    """Metrics of one offered rate."""
    return {
        "step/offered_per_s": step.offered_per_s,
        "step/achieved_per_s": step.achieved_per_s,
        "step/goodput_per_s": step.goodput_per_s,
        "step/latency_p95_s": step.latency.p95,
        "step/ttft_p95_s": step.ttft.p95,
        "step/holds": float(step.holds),
        "step/send_error_p99_s": step.send_error_p99_s,
        "step/client_cpu_share": step.client_cpu_share,
    }


def seconds(value: float | None) -> str:
    """`0.123 s`, or that it is not known."""
    return "not known" if value is None else f"{value:.3f} s"


def _interval(result: BenchmarkResult) -> str:
    low = "?" if result.capacity_low is None else f"{result.capacity_low:.1f}"
    high = "?" if result.capacity_high is None else f"{result.capacity_high:.1f}"
    return f"{low} - {high}"
