"""Signatures and the audit trail: what they cost beside a call to a model."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evaluate import figure

ROOT = Path(__file__).parents[2]
MIB = 2**20
REPEATS = 5
N_LINES = 2_000
WRITER = """
import sys, time
from pathlib import Path
from pipelines.governance.trail import Trail
trail, n, times = Trail(Path(sys.argv[1])), int(sys.argv[2]), []
trail.append("ready")
while sum(1 for _ in Path(sys.argv[1]).open("rb")) < 2:
    time.sleep(0.001)
for number in range(n):
    started = time.perf_counter()
    trail.append("call", workload="support", tier="internal", zone="external", decision="allow")
    times.append(time.perf_counter() - started)
print(*times)
"""


def run() -> list[dict[str, Any]]:
    """All figures; a row with a `limit` is a bar."""
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        return [*_models(Path(folder)), *_trail(Path(folder))]


def _models(folder: Path) -> list[dict[str, Any]]:
    """A model of one file, and one of 1 GB in four, as large models are stored; warm page cache."""
    from cryptography.hazmat.primitives.asymmetric import ec

    from pipelines.governance import model_signature, seal
    from pipelines.governance.keys import public_of

    key = ec.generate_private_key(ec.SECP256R1())
    public = public_of(key, "builder")
    small, large = folder / "small", folder / "large"
    small.mkdir()
    large.mkdir()
    (small / "model.safetensors").write_bytes(bytes(200 * MIB))
    for number in range(4):
        (large / f"model-{number + 1}-of-4.safetensors").write_bytes(bytes(250_000_000))
    bundle = model_signature.sign(large, key)
    report = folder / "report.json"
    report.write_bytes(bytes(10_000))
    sealed = seal.sign(report, "bench", {}, key)
    started_cpu = time.process_time()
    model_signature.verify(large, bundle, [public])
    cpu_s = time.process_time() - started_cpu
    return [
        _timed("sign 200 MiB, s", lambda: model_signature.sign(small, key), limit=1.0),
        _timed(
            "verify a model of 1 GB, s",
            lambda: model_signature.verify(large, bundle, [public]),
            limit=2.0,
        ),
        figure("  CPU seconds of it", cpu_s),
        _timed("verify a report, ms", lambda: seal.verify(report, sealed, [public], "bench"), 1e3),
    ]


def _trail(folder: Path) -> list[dict[str, Any]]:
    from cryptography.hazmat.primitives.asymmetric import ec

    from pipelines.governance import policy, trail
    from pipelines.governance.keys import public_of

    written, decide = trail.Trail(folder / "trail.jsonl"), policy.shipped().decide
    gate, line = [], []
    for _ in range(N_LINES):
        started = time.perf_counter()
        decision = decide("internal", "external")
        decided = time.perf_counter()
        written.append(
            "call", workload="support", tier="internal", zone="external", decision=decision.action
        )
        gate.append(1e3 * (decided - started))
        line.append(1e3 * (time.perf_counter() - decided))
    key = ec.generate_private_key(ec.SECP256R1())
    anchor = written.anchor(key)
    started = time.perf_counter()
    report = trail.verify(written.path, [anchor], [public_of(key, "builder")])
    verified_s = time.perf_counter() - started
    shared = folder / "shared.jsonl"
    two = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, shared, str(N_LINES)],
            stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for _ in range(2)
    ]  # fmt: skip
    contended = sorted(1e3 * float(each) for one in two for each in one.communicate()[0].split())
    both = trail.verify(shared, [], [])
    return [
        _median("policy decision, ms", gate),
        _median("line of the audit trail, ms", line),
        _median(
            "decision and line, ms", [sum(pair) for pair in zip(gate, line, strict=True)], limit=1.0
        ),
        _median("line while another process writes, ms", contended),
        figure("  99th percentile", contended[int(0.99 * len(contended))]),
        figure("verify 1,000 lines, ms", 1e6 * verified_s / report.entries),
        figure("problems in both trails", len(report.problems + both.problems), limit=0),
        figure("lines that two processes lost", 2 * (N_LINES + 1) - both.entries, limit=0),
    ]


def _median(name: str, values: list[float], limit: float | None = None) -> dict[str, Any]:
    """The median, and between which the middle nine tenths lie."""
    ordered = sorted(values)
    middle = ordered[len(ordered) // 20 : -(len(ordered) // 20)]
    return figure(name, statistics.median(ordered), limit=limit, spread=middle)


def _timed(
    name: str, work: Callable[[], object], unit: float = 1.0, limit: float | None = None
) -> dict[str, Any]:
    """Median of some runs, after one that is not counted, in seconds times `unit`."""
    values = []
    work()
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        values.append(unit * (time.perf_counter() - started))
    return figure(name, statistics.median(values), limit=limit, spread=values)
