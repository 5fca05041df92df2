"""What was measured of an owned candidate, where that was on the machine that is priced."""

from __future__ import annotations

from decimal import Decimal

from pipelines.core import machine
from pipelines.core.candidate import Baseline, Own
from pipelines.core.hardware import Figure
from pipelines.core.own_costs import Spent
from pipelines.core.results import BenchmarkResult, EvaluateResult, FinetuneResult
from pipelines.core.workload import Workload
from pipelines.economics import own_cost
from pipelines.economics.own_cost import Owning
from pipelines.economics.training_cost import n_machines


def calls_per_s(
    candidate: Own | Baseline,
    load: BenchmarkResult | None,
    reached_per_s: float | None,
    concurrency: int,
) -> Figure | str:
    """Calls per second of one machine, or why they are not known.

    Args:
        candidate: with the hardware that it is priced as.
        load: its load test; None = not made.
        reached_per_s: by an evaluation on this machine, in place of a load test; None = nothing
            was answered.
        concurrency: calls of that evaluation at a time.
    """
    measured_on = load.machine if load else machine.here()
    gpu = candidate.hardware.gpu
    if isinstance(candidate, Own) and not machine.has(gpu, measured_on):
        return (
            f"it is priced as {candidate.hardware.name} ({gpu or 'no GPU'}) and was measured on "
            f"{measured_on}"
        )
    if load is None:
        if reached_per_s is None:
            return "nothing was answered"
        source = f"what the evaluation reached, {concurrency} at a time: no load test was made"
        return Figure.of(reached_per_s).model_copy(update={"source": source})
    if load.capacity_per_s is None or not load.capacity_low:
        return f"its load test found no rate that surely holds ({load.limited_by})"
    return Figure(
        low=Decimal(repr(load.capacity_low)),
        likely=Decimal(repr(load.capacity_per_s)),
        high=Decimal(repr(load.capacity_high or load.capacity_per_s)),
        source=f"load test on {load.machine}, run {load.run_id}",
    )


def spent(candidate: Own, trained: FinetuneResult, judge_usd: Decimal | None) -> Spent:
    """What one round of tuning took; hours count once for each machine that trained.

    Args:
        candidate: with the hardware that training hours are priced by.
        trained: how its adapter came about.
        judge_usd: paid for judging its answers; None = not known, or simulated.
    """
    same = trained.machine and machine.has(candidate.hardware.gpu, trained.machine)
    n = n_machines(trained.n_processes, candidate.hardware.n_gpus)
    return Spent(training_hours=n * trained.train_s / 3600 if same else None, judge_usd=judge_usd)


def owning(workload: Workload, result: EvaluateResult) -> Owning | None:
    """What an owned candidate's bill depends on; None when rented or not measured."""
    if result.hardware is None or result.cost.capacity_per_s is None:
        return None
    return own_cost.owning(
        result.cost.capacity_per_s,
        result.hardware,
        workload.traffic,
        workload.own_costs,
        result.tuned,
        result.spent,
    )
