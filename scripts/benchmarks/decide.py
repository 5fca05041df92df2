"""The verdict's statistics: every outcome counted where one can, the rest simulated, and the clock.

Shares are in percent. A candidate "on the margin" is worse by exactly the margin: to accept it is
false, and may happen in 5 of 100 studies. Seeds are fixed: only seconds and MiB differ by run.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from evaluate import figure
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from pipelines.core.hardware import Figure
from pipelines.economics import cascade
from pipelines.economics.draws import Dollars, Draws, draw, pert
from pipelines.economics.expected_loss import (
    effective_margin,
    losses,
    saving,
    usd_per_good_task,
)
from pipelines.economics.plan import exact_power, needed_n
from pipelines.statistics import guards, sequential
from pipelines.statistics.intervals import tango, wilson
from pipelines.statistics.judge_correction import corrected_difference
from pipelines.statistics.multiplicity import fixed_sequence, holm
from pipelines.statistics.non_inferiority import (
    FEW_DIFFER,
    GRADES_DIFFER,
    compare,
    compare_estimate,
    score_intervals,
    score_p_values,
)

ALPHA = 0.05
STUDIES = 10_000
ENOUGH_DIFFER = 20
"""Items that differ on average, from which on the intervals are held to their nominal level."""
MANY_STUDIES, BATCH = 40_000, 1_000
"""Where they can be worked out together."""
CASCADE_STUDIES = 1_000
WORLDS = 2_000
N_DRAWS = 400
UNLIKELY = 1e-12
IN_FLIGHT, SLOWER = 256, 8.0
NAMES = ("incumbent", "a", "b", "c", "d")
Floats = NDArray[np.float64]
Rows = list[dict[str, Any]]
BOOTSTRAP = """
import json, resource, time
import numpy as np
from pipelines.economics.draws import bootstrap
scores = (np.random.default_rng(0).random((14_042, 10)) < 0.8).astype(float)
start = time.perf_counter()
bootstrap(scores, n_draws=10_000)
wall = time.perf_counter() - start
print(json.dumps([wall, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""
SCORES = """
import resource, sys
from pipelines.decide import main
sys.argv = ["decide", "--scores", sys.argv[1], "--incumbent", "model 0", "--margin", "0.03",
            "--error-cost", "0.05", "--requests-per-month", "100000"]
code = main()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file=sys.stderr)
sys.exit(code)
"""


def run() -> Rows:
    """All figures; a row with a `limit` is a bar."""
    start = time.perf_counter()
    parts: tuple[Callable[[], Rows], ...] = (
        _bootstrap, _tables, _counted, _clusters_and_grades, _several, _looks, _coverage, _power,
        _saved, _order, _judge, _cascade, _policies, _guards,
    )  # fmt: skip
    rows = [row for part in parts for row in part()]
    wall = time.perf_counter() - start
    return [
        figure("studies per cell: clusters, grades, looks", MANY_STUDIES),
        figure("studies per cell: candidates, order, judge, slices", STUDIES),
        figure("studies per cell: cascade", CASCADE_STUDIES),
        figure("worlds of the policies", WORLDS),
        *rows,
        figure("wall of all of this (s)", wall, limit=300),
    ]


def _bootstrap() -> Rows:
    """In a process of its own, for its memory."""
    done = subprocess.run([sys.executable, "-c", BOOTSTRAP], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wall, peak = json.loads(done.stdout)
    return [
        figure("bootstrap 14,042 x 10 x 10,000: wall (s)", wall, limit=10),
        figure("bootstrap: peak memory (MiB)", peak, limit=1024),
    ]


def _tables() -> Rows:
    """The whole command on tables of 10 candidates: `decide --scores`."""
    rows: Rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n_items, limit in ((14_042, 10), (100_000, 30)):
            path = Path(folder, f"{n_items}.csv")
            rng = np.random.default_rng(7)
            quality, usd = np.linspace(0.90, 0.86, 10), np.geomspace(0.01, 0.001, 10)
            right = rng.random((n_items, 1)) < quality
            with path.open("w") as file:
                file.write("example_id,candidate,score,usd,latency_s,confidence\n")
                for item, scores in enumerate(right):
                    file.writelines(
                        f"item {item},model {k},{int(score)},{usd[k]:.6f},0.5,{item % 97}\n"
                        for k, score in enumerate(scores)
                    )
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", SCORES, str(path)], capture_output=True, text=True
            )
            wall = time.perf_counter() - start
            assert done.returncode == 0, done.stderr
            peak = float(done.stderr.splitlines()[-1])
            name = f"--scores, {n_items * 10:,} rows"
            rows.append(figure(f"{name}: wall of the command (s)", wall, limit=limit))
            rows.append(figure(f"{name}: peak memory (MiB)", peak, limit=1024))
    return rows


def _counted() -> Rows:
    """False accepts of independent 0/1 items, over all outcomes."""
    cells = {
        _cell(n, psi, margin): _rejected(n, psi, -margin, margin)
        for n in (50, 100, 200, 500, 1000, 2000)
        for psi in (0.05, 0.10, 0.15, 0.20, 0.25, 0.30)
        for margin in (-0.05, -0.03, -0.01, 0.01, 0.02, 0.03, 0.04, 0.05)
    }
    return [
        worst(f"false accept, counted, worst of {len(cells)} cells", cells, limit=5.5),
        figure("false accept, counted, mean", float(np.mean([*cells.values()])), limit=5),
    ]


def _clusters_and_grades() -> Rows:
    """Studies on the margin: how often accepted, and how often the interval has the truth."""
    margin = 0.03
    clustered = {
        f"{n_groups} groups, ICC {icc:g}": _rates(_clusters(n_groups, icc, margin), margin)
        for n_groups in (20, 50, 200)
        for icc in (0.0, 0.1, 0.2)
    }
    graded = {
        f"n {n}, {psi:.0%} differ": _rates(_grades(n, psi, margin), margin)
        for n in (100, 200, 500, 1000)
        for psi in (0.1, 0.2, 0.3, 1.0)
    }
    rows: Rows = []
    for what, cells in (("clusters", clustered), ("grades", graded)):
        accepted = {cell: found.accepted for cell, found in cells.items()}
        covered = {cell: found.covered for cell, found in cells.items() if found.stated > 50}
        # Where half the studies have too few items that differ, those that state an interval are
        # a selection.
        nearly_all = {cell: covered[cell] for cell in covered if cells[cell].stated > 90}
        otherwise = sum(found.n_otherwise for found in cells.values())
        rows += [
            worst(f"false accept, {what}, worst of {len(cells)} cells", accepted, limit=5.5),
            figure(f"false accept, {what}, mean", float(np.mean([*accepted.values()]))),
            *_both_sides(f"90 % interval, {what}", nearly_all, 90),
            *_both_sides(f"90 % interval, {what}, where stated", covered, 90, within=None),
            figure(f"{what}: studies that `compare` tells otherwise", otherwise, limit=0),
        ]
    naive = {cell: found.naive for cell, found in clustered.items()}
    return [*rows, worst("false accept, clusters taken for items, worst", naive)]


def _several() -> Rows:
    """Candidates beside one incumbent on 1,000 items: is any of those on the margin accepted?"""
    rng, design, margin, psi = np.random.default_rng(3), sequential.plan(), 0.03, 0.2
    levels = np.array(design.levels)
    found: dict[str, dict[str, float]] = {}
    for k, n_good in ((1, 0), (5, 0), (5, 2), (10, 0), (10, 5)):
        truth = np.where(np.arange(k) < n_good, 0.03, -margin)
        right = rng.binomial(200, 0.8, (STUDIES, 5, 1))
        lost = rng.binomial(right, (psi - truth) / 2 / 0.8, (STUDIES, 5, k)).cumsum(1)
        won = rng.binomial(200 - right, (psi + truth) / 2 / 0.2, (STUDIES, 5, k)).cumsum(1)
        n = 200 * np.arange(1, 6)[:, None]
        p = score_p_values(won, lost, n, margin)
        cell = f"{k} candidates" + (f", {n_good} of them good" if n_good else "")
        for name, rule in (("fixed sequence", fixed_sequence), ("Holm", holm), ("none", np.array)):
            adjusted = np.array([[rule(look) for look in study] for study in p])[..., n_good:]
            once = (adjusted[:, -1] < ALPHA).any(1)
            at_looks = (adjusted < levels[:, None]).any((1, 2))
            found.setdefault(name, {})[cell] = 100 * float(once.mean())
            found.setdefault(f"{name}, five looks", {})[cell] = 100 * float(at_looks.mean())
    return [
        worst(f"any false accept of 1-10: {name}", cells)
        if name.startswith("none")
        else worst(f"any false accept of 1-10: {name}", cells, limit=5.5)
        for name, cells in found.items()
    ]


def _looks() -> Rows:
    """Five looks, going on in spite of futility."""
    rng, levels = np.random.default_rng(4), np.array(sequential.plan().levels)
    kept: dict[str, float] = {}
    peeked: dict[str, float] = {}
    for n in (200, 500, 1000, 2000):
        for psi in (0.05, 0.10, 0.20, 0.30):
            for margin in (0.01, 0.02, 0.03, 0.04, 0.05):
                p = _looked(rng, MANY_STUDIES, n // 5, psi, -margin, margin)
                kept[_cell(n, psi, margin)] = 100 * float((p < levels).any(1).mean())
                peeked[_cell(n, psi, margin)] = 100 * float((p < ALPHA).any(1).mean())
    return [
        worst(f"false accept, five looks, worst of {len(kept)} cells", kept, limit=5.5),
        figure("false accept, five looks, mean", float(np.mean([*kept.values()])), limit=5),
        worst("false accept, five looks at 5 % each, worst", peeked),
    ]


def _coverage() -> Rows:
    """Intervals of independent 0/1 items, over all outcomes."""
    rows: Rows = []
    for nominal in (90, 95):
        cells: dict[str, float] = {}
        few: set[str] = set()
        for n in (50, 100, 200, 500, 1000):
            for psi in (0.05, 0.10, 0.20, 0.30):
                for truth in (-0.03, 0.0, 0.03):
                    won, lost, weight = _outcomes(n, psi, truth, unlikely=1e-9)
                    low, high = score_intervals(won, lost, n, (1 - nominal / 100) / 2)
                    cell = f"n {n}, {psi:.0%} differ, truth {100 * truth:+.0f}"
                    cells[cell] = 100 * float(weight[(low <= truth) & (truth <= high)].sum())
                    if n * psi < ENOUGH_DIFFER:
                        few.add(cell)
        many = {cell: covered for cell, covered in cells.items() if cell not in few}
        rows += [
            *_both_sides(f"{nominal} %, 0/1, {ENOUGH_DIFFER} or more differ", many, nominal),
            # Where fewer differ no test can be exact, and it errs to the safe side.
            *_both_sides(f"{nominal} % interval, 0/1, every cell", cells, nominal, within=None),
        ]
    published: dict[str, float] = {}
    for n in (100, 500):
        for psi, truth in ((0.1, 0.0), (0.1, -0.03), (0.2, 0.0), (0.2, -0.03)):
            won, lost, weight = _outcomes(n, psi, truth, unlikely=1e-6)
            ends = np.array([tango(b, c, n) for b, c in zip(won, lost, strict=True)])
            held = weight[(ends[:, 0] <= truth) & (truth <= ends[:, 1])].sum() / weight.sum()
            published[f"n {n}, {psi:.0%} differ, truth {100 * truth:+.0f}"] = 100 * float(held)
    rates = np.linspace(0.5, 0.98, 97)
    of_mean: dict[str, float] = {}
    averaged: dict[str, float] = {}
    for n in (50, 100, 200, 500, 1000):
        right = np.arange(n + 1)
        low, high = np.array([wilson(k, n) for k in right.tolist()]).T
        held = [stats.binom.pmf(right, n, p) @ ((low <= p) & (p <= high)) for p in rates]
        averaged[f"n {n}"] = 100 * float(np.mean(held))
        of_mean |= {f"n {n}, p {p:g}": 100 * h for p, h in zip(rates, held, strict=True)}
    return [
        *rows,
        *_both_sides("95 % interval, Tango's, 0/1", published, 95),
        *_both_sides("95 % interval of a mean, averaged over p", averaged, 95),
        *_both_sides("95 % interval of a mean, every p", of_mean, 95, within=None),
    ]


def _power() -> Rows:
    """At the n that the formula plans for 80 %, the test's own power."""
    powers: dict[str, float] = {}
    counted: dict[str, float] = {}
    for margin, truth in (
        (0.02, 0.0), (0.02, 0.01), (0.02, -0.01), (0.03, 0.0), (0.03, 0.01), (0.03, -0.01),
        (0.05, 0.0), (0.01, 0.0),
    ):  # fmt: skip
        for psi in (0.05, 0.10, 0.20, 0.30):
            n = needed_n(margin, psi, truth, alpha=ALPHA)
            assert n is not None
            if n < 500:
                continue
            cell = f"{_cell(n, psi, margin)}, truth {100 * truth:+.0f}"
            power = powers[cell] = _rejected(n, psi, truth, margin)
            if n <= 2000:
                told = exact_power(n, margin, psi, truth, alpha=ALPHA)
                counted[cell] = abs(power - 100 * told)
    many = {cell: power for cell, power in powers.items() if ", 5% differ" not in cell}
    return [
        *_both_sides("10 % or more differ: power at the n planned for 80", many, 80, within=2),
        *_both_sides("5 % or more differ: power at that n", powers, 80, within=None),
        worst("power by plan.exact_power: off by (points)", counted, limit=2),
    ]


def _saved() -> Rows:
    """Items that five looks save of one test's n; margin 3 points, a tenth of the items differ."""
    rng, design, margin, psi = np.random.default_rng(5), sequential.plan(), 0.03, 0.1
    fixed = needed_n(margin, psi, alpha=ALPHA)
    assert fixed is not None
    assert design.futility is not None
    step = math.ceil(fixed * design.inflation / 5)
    rows: Rows = []
    off: dict[str, float] = {}
    for truth, at_least in (
        (-0.06, 61), (-0.03, None), (-0.01, None), (0.0, 12), (0.01, None), (0.02, 31),
    ):  # fmt: skip
        p = _looked(rng, MANY_STUDIES, step, psi, truth, margin)
        passed = p < np.array(design.levels)
        stopped = passed | (-special.ndtri(p) < np.array(design.futility))
        stopped[:, -1] = True
        look = stopped.argmax(1)
        used = 100 * step * float((look + 1).mean()) / fixed
        told = sequential.expected_n(design, fixed, design.drift * (truth + margin) / margin)
        cell = f"truth {100 * truth:+.0f}"
        off[cell] = abs(used - 100 * told / fixed)
        rows.append(figure(f"five looks, {cell}: items saved", 100 - used, at_least=at_least))
        if truth == 0:
            power = 100 * float(passed[np.arange(len(p)), look].mean())
            rows.append(figure("five looks, truth +0: power", power, at_least=78))
    return [*rows, worst("items used, off sequential.expected_n (points)", off)]


def _order() -> Rows:
    """What the candidate gets wrong takes eight times longer, and the file is not in random order.

    810 items, a tenth differing: the candidate wins by 2 points in the first half of the file and
    loses by 8 in the second. 256 are in flight; answers arrive when they are finished.
    """
    rng, margin, n, n_orders = np.random.default_rng(6), 0.03, 810, 500
    levels = np.array(sequential.plan().levels)
    ids = [f"item-{k}" for k in range(n)]
    place = {name: k for k, name in enumerate(ids)}
    p_won = np.where(np.arange(n) < n / 2, 0.06, 0.01)
    found: dict[str, list[Any]] = {"fixed order": [], "completion order": [], "file order": []}
    for seed in range(n_orders):
        asked = [place[name] for name in sequential.fixed_order(ids, seed)]
        u = rng.random((STUDIES // n_orders, n))
        won, lost = u < p_won, (u > 0.9 + p_won)
        wrong = lost | ((u > 0.5) & (u < 0.65))
        latency = rng.exponential(np.where(wrong, SLOWER, 1.0))
        arrived = np.take(asked, _arrivals(latency[:, asked]))
        for name, order in (
            ("fixed order", np.broadcast_to(asked, arrived.shape)),
            ("completion order", arrived),
            ("file order", np.broadcast_to(np.arange(n), arrived.shape)),
        ):
            at = np.arange(1, 6) * n // 5
            b, c = (np.take_along_axis(x, order, 1).cumsum(1)[:, at - 1] for x in (won, lost))
            p = score_p_values(b, c, at, margin)
            found[name].append((p < levels).any(1))
    shares = {name: 100 * float(np.mean(passed)) for name, passed in found.items()}
    return [
        figure("wrong is 8x slower: false accept, fixed order", shares["fixed order"], limit=5.5),
        figure("wrong is 8x slower: in completion order", shares["completion order"]),
        figure("wrong is 8x slower: in the order of the file", shares["file order"]),
    ]


def _judge() -> Rows:
    """A judge that prefers the candidate, which is on the margin; 1,000 items, a few labelled.

    Worlds: P(right) of the incumbent; of the candidate where the incumbent is right and where it is
    wrong; then what the judge passes of right and of wrong answers, the incumbent's and the
    candidate's.
    """
    worlds = {
        "good judge": ((0.80, 0.85, 0.35), (0.90, 0.15), (0.95, 0.35)),
        "good candidates": ((0.95, 0.955, 0.30), (0.98, 0.20), (0.99, 0.60)),
        "weak judge": ((0.70, 0.80, 0.30), (0.70, 0.45), (0.75, 0.60)),
    }
    rng = np.random.default_rng(7)
    rows: Rows = []
    alone: dict[str, float] = {}
    for n_labelled, limit in ((100, 6.5), (200, 5.8)):
        one_sided: dict[str, float] = {}
        stated: dict[str, float] = {}
        for world, ((p, if_right, if_wrong), theirs, ours) in worlds.items():
            margin = p - (p * if_right + (1 - p) * if_wrong)
            passed = np.zeros((STUDIES, 3), dtype=bool)
            for k in range(STUDIES):
                b = rng.random(1000) < p
                a = rng.random(1000) < np.where(b, if_right, if_wrong)
                verdicts = [rng.random(1000) < np.where(x, *j) for x, j in ((a, ours), (b, theirs))]
                found = corrected_difference(
                    (_named(verdicts[0]), _named(verdicts[1])),
                    (_named(a[:n_labelled]), _named(b[:n_labelled])),
                )
                assert found.corrected is not None
                assert found.judge_only is not None
                assert found.error is not None
                tested = compare_estimate(
                    found.corrected.mean,
                    found.error,
                    found.corrected.n,
                    found.n_groups,
                    margin,
                    skew=found.skew,
                )
                passed[k] = (
                    tested.passes,
                    found.corrected.low > -margin,
                    found.judge_only.low > -margin,
                )
            shares = 100 * passed.mean(0)
            one_sided[world], stated[world] = float(shares[0]), float(shares[1])
            alone[f"{world}, {n_labelled} labels"] = float(shares[2])
        rows += [
            worst(f"judge + {n_labelled} labels, one-sided 5 %, worst", one_sided, limit=limit),
            worst(f"judge + {n_labelled} labels, stated 95 % interval, worst", stated),
        ]
    return [*rows, worst("judge alone, 95 % interval, worst", alone)]


def _cascade() -> Rows:
    """Confidence x is uniform, the first model is right with P = x, the second with P = 0.9.

    An error costs $1, an escalation $0.10: the best threshold is 0.8.
    """

    def true_loss(threshold: float) -> float:
        t = min(max(threshold, 0.0), 1.0)
        return 0.2 * t + (1 - t) ** 2 / 2

    rng, stakes = np.random.default_rng(8), cascade.Stakes(usd_per_error=1, tasks_per_month=1)
    served: dict[str, float] = {}
    in_sample: dict[str, float] = {}
    for n in (100, 500, 1000):
        found = np.empty((CASCADE_STUDIES, 3))
        for k in range(CASCADE_STUDIES):
            x, u, v = rng.random((3, n))
            one, two = (u < x).astype(float), (v < 0.9).astype(float)
            made = cascade.evaluate(one, two, x, first_usd=0, second_usd=0.1, stakes=stakes)
            # The luck of a sample is the same under any threshold: it is measured at the best one.
            luck = np.where(x < 0.8, 1.1 - two, 1 - one).mean() - true_loss(0.8)
            losses_usd = made.served.loss_usd_per_task, made.in_sample.loss_usd_per_task
            found[k] = (*(usd - luck for usd in losses_usd), true_loss(made.threshold))
        ours, tuned, truth = found.mean(0)
        served[f"n {n}"] = 100 * float(ours / truth - 1)
        in_sample[f"n {n}"] = 100 * float(tuned / truth - 1)
    large = {cell: abs(off) for cell, off in served.items() if cell != "n 100"}
    return [
        worst("cascade, n >= 500: loss, cross-fitted, off by (%)", large, limit=1),
        figure("cascade, n 100: loss, cross-fitted, off by (%)", served["n 100"]),
        *(figure(f"cascade, {n}: loss, in sample, off by (%)", in_sample[n]) for n in in_sample),
    ]


def _policies() -> Rows:
    """Six rules in worlds of four cheaper candidates, of which 1,000 items are seen.

    True differences are normal, -2 points +- 3; the incumbent costs $10 per 1,000 requests, the
    others $1 to $9, known to 20 %. Hurt = the choice loses more dollars than the incumbent.
    """
    rng, n, stakes = np.random.default_rng(9), 1000, (0.2, 1.0, 5.0)
    found: dict[tuple[float, str], list[tuple[bool, bool, float]]] = {}
    for world in range(WORLDS):
        base = rng.uniform(0.75, 0.85)
        truth = np.clip(rng.normal(-0.02, 0.03, 4), -0.12, 0.08)
        psi = np.abs(truth) + rng.uniform(0.06, 0.14, 4)
        right = rng.random((n, 1)) < base
        p_right = np.where(right, 1 - (psi - truth) / 2 / base, (psi + truth) / 2 / (1 - base))
        scores = np.column_stack([right, rng.random((n, 4)) < p_right]).astype(float)
        likely = rng.uniform(0.001, 0.009, 4)
        ranges = [_about(usd) for usd in likely]
        usd = [pert(each, 1, [world, k])[0] for k, each in enumerate(ranges)]
        dollars = {
            name: Dollars(usd_per_task=each)
            for name, each in zip(NAMES, (Figure.of(0.01), *ranges), strict=True)
        }
        drawn = draw(NAMES, scores, dollars, Figure.of(1e6), n_draws=N_DRAWS, seed=world)
        quality, price = base + np.r_[0.0, truth], np.r_[0.01, usd]
        for v in stakes:
            loss = v * (1 - quality) + price
            for policy, chosen in _choices(scores, drawn, v).items():
                row = (
                    bool(loss[chosen] > loss[0]),
                    bool(quality[chosen] < base - 0.03),
                    1000 * float(loss[chosen] - loss.min()),
                )
                found.setdefault((v, policy), []).append(row)
    rows: Rows = []
    for (v, policy), each in found.items():
        hurt, inferior, regret = np.mean(each, axis=0).tolist()
        bar = 1 if policy == "gated" else None
        rows += [
            figure(f"V ${v:g}, {policy}: hurt (% of worlds)", 100 * hurt, limit=bar),
            figure(f"V ${v:g}, {policy}: > 3 points inferior (%)", 100 * inferior),
            figure(f"V ${v:g}, {policy}: regret ($ per 1,000)", regret),
        ]
    return rows


def _choices(scores: Floats, drawn: Draws, usd_per_error: float) -> dict[str, int]:
    """Column that each rule takes; 0 is the incumbent."""
    n, means = len(scores), scores.mean(0)
    usd = drawn.all_in_usd.mean(0)
    ends = np.array([wilson(int(right), n) for right in scores.sum(0)])
    won = ((scores[:, 1:] == 1) & (scores[:, :1] == 0)).sum(0)
    lost = ((scores[:, 1:] == 0) & (scores[:, :1] == 1)).sum(0)
    margins = [
        effective_margin(0.03, saving(drawn, name, NAMES[0]).low, usd_per_error)
        for name in NAMES[1:]
    ]
    found = losses(drawn, usd_per_error)
    loss = np.array([found.candidates[name].usd_per_1000_tasks.mean for name in NAMES])
    good = [usd_per_good_task(drawn, name) for name in NAMES]

    def cheapest(eligible: ArrayLike, price: Floats) -> int:
        return int(np.where(np.r_[True, np.asarray(eligible)], price, np.inf).argmin())

    def shown(margin: ArrayLike) -> ArrayLike:
        return holm(score_p_values(won, lost, n, margin).tolist()) < ALPHA

    return {
        "highest accuracy": int(means.argmax()),
        "lowest cost of pass": int(np.argmin([np.inf if g is None else g.usd for g in good])),
        "overlap, cheapest": cheapest(ends[1:, 1] >= ends[0, 0], usd),
        "non-inferior, cheapest": cheapest(shown(0.03), usd),
        "plug-in": NAMES.index(found.plug_in),
        "gated": cheapest(shown(margins), loss),
    }


def _guards() -> Rows:
    """Eight slices that lose exactly what the guard allows; rare errors, over all counts."""
    rng, margin, n, n_slices = np.random.default_rng(10), 0.05, 100, 8
    counts = rng.multinomial(n, [0.05, 0.10, 0.85], (STUDIES, n_slices))
    p = score_p_values(counts[..., 1], counts[..., 0], n, -margin)
    alarms = np.array([holm(study).min() < ALPHA for study in p])
    labels = [f"slice {k}" for k in np.repeat(np.arange(n_slices), n)]
    differ = 0
    for k in range(5):
        kinds = [np.repeat([0, 1, 2], each) for each in counts[k]]
        kind = np.concatenate(kinds)
        told = guards.slices((kind != 1) * 1.0, (kind != 0) * 1.0, labels, margin)
        differ += any(one.finding == "worse" for one in told) != bool(alarms[k])
    held: dict[str, float] = {}
    for n_items in (100, 1000):
        for rate in np.geomspace(1e-4, 0.05, 100).tolist():
            seen = np.arange(int(stats.binom.isf(UNLIKELY, n_items, rate)) + 2)
            high = np.array([guards.rare_errors(int(k), n_items).high for k in seen])
            chance = stats.binom.pmf(seen, n_items, rate)
            held[f"n {n_items}, rate {rate:.2g}"] = 100 * float(chance[high >= rate].sum())
    return [
        figure("8 slices: any false alarm", 100 * float(alarms.mean()), limit=5.5),
        figure("8 slices: studies that `slices` tells otherwise", differ, limit=0),
        worst("rare errors: least coverage of the 95 % bound", held, at_least=95),
    ]


def worst(
    name: str,
    cells: dict[str, float],
    *,
    limit: float | None = None,
    at_least: float | None = None,
    least: bool = False,
) -> dict[str, Any]:
    """The cell nearest to a bar or farthest beyond it, named there; the spread is of all cells."""
    pick = min if least or at_least is not None else max
    cell = pick(cells, key=lambda cell: cells[cell])
    row = figure(name, cells[cell], limit=limit, at_least=at_least, spread=[*cells.values()])
    if "limit" in row:
        row["limit"] += f" ({cell})"
    return row


def _both_sides(name: str, cells: dict[str, float], nominal: int, within: float | None = 1) -> Rows:
    """Least and most of all cells; without `within` they are no bars."""
    if within is None:
        return [worst(f"{name}, least", cells, least=True), worst(f"{name}, most", cells)]
    return [
        worst(f"{name}, least", cells, at_least=nominal - within),
        worst(f"{name}, most", cells, limit=nominal + within),
    ]


def _cell(n: int, psi: float, margin: float) -> str:
    return f"n {n}, {psi:.0%} differ, margin {100 * margin:g}"


def _outcomes(
    n: int, psi: float, truth: float, unlikely: float = UNLIKELY
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Items won, items lost and probability of the outcomes that are not too unlikely."""
    p_won, p_lost = max(0.0, (psi + truth) / 2), (psi - truth) / 2
    ranges = [
        np.arange(stats.binom.ppf(unlikely, n, p), stats.binom.isf(unlikely, n, p) + 1, dtype=int)
        for p in (p_won, p_lost)
    ]
    won, lost = (x.ravel() for x in np.meshgrid(*ranges))
    weight = stats.binom.pmf(lost, n, p_lost)
    weight *= stats.binom.pmf(won, n - lost, min(1.0, p_won / (1 - p_lost)))
    kept = weight > unlikely / 1000
    return won[kept], lost[kept], weight[kept]


def _rejected(n: int, psi: float, truth: float, margin: float) -> float:
    """P(H0 is rejected), over all outcomes, in percent."""
    won, lost, weight = _outcomes(n, psi, truth)
    return 100 * float(weight[score_p_values(won, lost, n, margin) < ALPHA].sum())


def _looked(
    rng: np.random.Generator, n_studies: int, step: int, psi: float, truth: float, margin: float
) -> Floats:
    """(studies, 5) P-values after `step`, 2 `step`, ... items."""
    shares = [max(0.0, (psi + truth) / 2), (psi - truth) / 2, 1 - psi]
    counts = rng.multinomial(step, shares, (n_studies, 5)).cumsum(1)
    return score_p_values(counts[..., 0], counts[..., 1], step * np.arange(1, 6), margin)


class Batch(NamedTuple):
    """Studies of one cell, and the first of them item by item, as `compare` takes it."""

    sums: Floats
    """(studies, groups), of the differences."""
    sizes: NDArray[np.int64]
    """(groups,), items."""
    differs: NDArray[np.bool_]
    """(studies, groups), whether an item differs."""
    counts: tuple[Floats, Floats]
    """(studies,), items won and lost."""
    first: tuple[Floats, Floats, NDArray[np.int64] | None]


class Rates(NamedTuple):
    """Percent of the studies of a cell."""

    accepted: float
    stated: float
    """Not refused for too few units; a study that is has no interval, nor is it accepted."""
    covered: float
    """Of the intervals that are stated."""
    naive: float
    """Accepted if no item were tied to another."""
    n_otherwise: int
    """First studies of batches whose interval from `compare` is another one."""


def _rates(batches: Iterable[Batch], margin: float) -> Rates:
    """Many cluster-robust t tests at once, on the margin."""
    found: list[NDArray[np.bool_]] = []
    n_otherwise = 0
    for sums, sizes, differs, (won, lost), first in batches:
        n, n_groups = sizes.sum(), len(sizes)
        mean = sums.sum(1) / n
        parts = ((sums - sizes * mean[:, None]) ** 2).sum(1)
        error = np.sqrt(n_groups / (n_groups - 1) * parts) / n
        centred = sums - sizes * mean[:, None]
        skew = (centred**3).mean(1) / (centred**2).mean(1) ** 1.5 / math.sqrt(n_groups)
        critical = float(stats.t.isf(ALPHA, n_groups - 1))
        skew = np.where(np.abs(skew) < 1e-9, 1e-9, skew)
        below, above = (
            3 / skew * (np.cbrt(1 + skew * (end - skew / 6)) - 1) for end in (critical, -critical)
        )
        low = mean - error * np.maximum(critical, below)
        high = mean + error * np.maximum(critical, -above)
        needed = GRADES_DIFFER if n_groups == n else FEW_DIFFER
        stated = differs.sum(1) >= needed
        naive = score_p_values(won, lost, n, margin) < ALPHA
        found.append(np.array([stated, low > -margin, high < -margin, naive]))
        told = compare(*first[:2], margin, alpha=ALPHA, groups=first[2])
        ends = [math.nan if end is None else end for end in (told.low, told.high)]
        ours = [low[0], high[0]] if stated[0] else [math.nan, math.nan]
        n_otherwise += not np.allclose(ends, ours, rtol=0, atol=1e-9, equal_nan=True)
    stated, above, below, naive = np.concatenate(found, axis=1)
    return Rates(
        accepted=100 * float((stated & above).mean()),
        stated=100 * float(stated.mean()),
        covered=100 * float((~above & ~below)[stated].mean()),
        naive=100 * float(naive.mean()),
        n_otherwise=n_otherwise,
    )


def _clusters(n_groups: int, icc: float, margin: float) -> Iterator[Batch]:
    """0/1 items in groups of 5 to 15 whose shares won and lost vary (Dirichlet), 20 % differing."""
    rng = np.random.default_rng([1, n_groups, round(100 * icc)])
    sizes = np.arange(n_groups) % 11 + 5
    groups = np.repeat(np.arange(n_groups), sizes)
    shares = np.array([(0.2 - margin) / 2, (0.2 + margin) / 2, 0.8])
    of_group = np.broadcast_to(shares, (BATCH, n_groups, 3))
    for _ in range(MANY_STUDIES // BATCH):
        if icc:
            of_group = rng.dirichlet(shares * (1 / icc - 1), (BATCH, n_groups))
        counts = rng.multinomial(np.broadcast_to(sizes, (BATCH, n_groups)), of_group)
        won, lost, _ = counts.astype(float).transpose(2, 0, 1)
        first = np.concatenate([np.repeat([1, -1, 0], each) for each in counts[0]])
        items = ((first >= 0).astype(float), (first <= 0).astype(float), groups)
        yield Batch(won - lost, sizes, won + lost > 0, (won.sum(1), lost.sum(1)), items)


def _grades(n: int, psi: float, margin: float) -> Iterator[Batch]:
    """Differences of 1 to 4 quarters on a share `psi` of independent items."""
    rng = np.random.default_rng([2, n, round(100 * psi)])
    p_better = (1 - margin / psi / 0.625) / 2
    for _ in range(MANY_STUDIES // BATCH):
        size = rng.integers(1, 5, (BATCH, n)) / 4 * (rng.random((BATCH, n)) < psi)
        delta = np.where(rng.random((BATCH, n)) < p_better, size, -size)
        won, lost = ((delta > 0).sum(1) * 1.0, (delta < 0).sum(1) * 1.0)
        items = (0.5 + delta[0] / 2, 0.5 - delta[0] / 2, None)
        yield Batch(delta, np.ones(n, dtype=int), delta != 0, (won, lost), items)


def _arrivals(latency: Floats) -> NDArray[np.int64]:
    """(studies, items) Places in the line of asking, in the order in which answers arrive."""
    n_studies, n = latency.shape
    free, done = np.zeros((n_studies, IN_FLIGHT)), np.empty((n_studies, n))
    rows = np.arange(n_studies)
    for k in range(n):
        slot = free.argmin(1)
        done[:, k] = free[rows, slot] + latency[:, k]
        free[rows, slot] = done[:, k]
    return done.argsort(1)


def _about(usd: float) -> Figure:
    low, likely, high = (round(usd * factor, 9) for factor in (0.8, 1.0, 1.2))
    return Figure.model_validate({"low": low, "likely": likely, "high": high})


def _named(values: NDArray[np.bool_]) -> dict[str, float | None]:
    return {str(k): value for k, value in enumerate(values.astype(float).tolist())}
