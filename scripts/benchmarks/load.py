"""The load generator beside servers of known capacity, and the demo's own models under load.

    python scripts/benchmarks/load.py --slots 4 --service-s 0.025

serves such a server: each answer takes the same time, and so many are worked on at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

RATE, SECONDS = 200.0, 10.0
FREEZE_RATE, FREEZE_S = 100.0, 2.0
SLOTS, SERVICE_S = 16, 0.1
N_TOKENS = 4


def run() -> list[dict[str, Any]]:
    """All figures; a row with a `limit` is a bar."""
    return [*_pacing(), *_frozen(), *_known_capacity(), *_own()]


def _pacing() -> list[dict[str, Any]]:
    """Poisson arrivals at 200 a second, the server in another process."""
    from evaluate import figure

    from pipelines.load.measures import send_error_p99_s

    errors, shares, rates, timers = [], [], [], []
    for seed in range(3):
        timers.append(1000 * asyncio.run(timer_error_p99_s()))
        with server(1000, 0.01) as (url, _):
            wall, used = time.perf_counter(), time.process_time()
            found = load(url, "poisson", RATE, int(RATE * SECONDS), seed)
            used = time.process_time() - used
            shares.append(used / (time.perf_counter() - wall))
            errors.append(1000 * send_error_p99_s(found))
            rates.append(len(found) / (found[-1].sent_s or 0.0))
    return [
        figure(
            "200/s: sent after due, p99 (ms)", statistics.median(errors), limit=2, spread=errors
        ),
        figure("a bare timer on this machine, p99 late (ms)", max(timers), spread=timers),
        figure("200/s: rate that was sent", statistics.median(rates), spread=rates),
        figure("200/s: cores used by the sender", statistics.median(shares), spread=shares),
    ]


def _frozen() -> list[dict[str, Any]]:
    """The server stops for two seconds; a client that waits for answers hardly sees it."""
    from evaluate import figure

    from pipelines.load.measures import latency_s

    n = int(FREEZE_RATE * SECONDS)
    with server(1000, 0.01) as (url, pid), _frozen_at(pid, 3.0):
        found = load(url, "constant", FREEZE_RATE, n, 0)
    user = sorted(late for e in found if (late := latency_s(e)) is not None)
    with server(1000, 0.01) as (url, pid), _frozen_at(pid, 3.0):
        waited = sorted(asyncio.run(_closed_loop(url, SECONDS)))
    return [
        figure("2 s freeze: longest latency (s)", user[-1], at_least=1.95),
        figure("2 s freeze: p99 latency (s)", user[int(0.99 * len(user))], at_least=1.8),
        figure("2 s freeze: failed requests", sum(e.error is not None for e in found), limit=0),
        figure("2 s freeze: p99 of a client that waits (s)", waited[int(0.99 * len(waited))]),
    ]


def _known_capacity() -> list[dict[str, Any]]:
    """Sixteen slots of 100 ms carry 160 evenly spaced requests a second, and no more."""
    from evaluate import figure

    known = SLOTS / SERVICE_S
    with server(SLOTS, SERVICE_S) as (url, _):
        found = capacity(url, 0.7 * known, seconds=3.0, limit_s=8 * SERVICE_S)
    assert found.per_s is not None, found
    spread = [found.low or 0.0, found.high or found.per_s]
    off = abs(found.per_s / known - 1)
    return [
        figure("known capacity 160/s: measured", found.per_s, spread=spread),
        figure("known capacity 160/s: off by (share)", off, limit=0.15),
        figure("known capacity 160/s: steps", len(found.steps)),
    ]


def _own() -> list[dict[str, Any]]:
    """The demo's toy behind vLLM: base, base + adapter, adapter merged; and the baseline."""
    from evaluate import figure

    from pipelines.benchmark import benchmark
    from pipelines.core.command import Options
    from pipelines.core.config import load_study
    from pipelines.core.paths import ROOT

    path = ROOT / "configs" / "quickstart.yaml"
    chosen = [
        "candidates=[frontier-standin, tiny-base, tiny-lora, own-merged, tfidf-logreg]",
        "candidates.own-merged.hardware=vm-2cpu",
    ]
    study = load_study(path, chosen)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        options = Options(path, f"sqlite:///{folder}/mlflow.db", False, False)
        from pipelines.finetune import finetune

        finetune(study, options)
        start = time.perf_counter()
        results = benchmark(study, options).results
        wall = time.perf_counter() - start
    for name, result in results.items():
        step = result.at_capacity
        if result.capacity_per_s is None or step is None:
            continue  # a rate that holds is missing, and so is its row
        spread = [result.capacity_low or 0.0, result.capacity_high or result.capacity_per_s]
        late = 1000 * step.send_error_p99_s
        rows += [
            figure(f"{name}: capacity (1/s)", result.capacity_per_s, spread=spread),
            figure(f"{name}: sent after due at capacity, p99 (ms)", late),
        ]
        for what, quantiles in (
            ("latency", step.latency),
            ("TTFT", step.ttft),
            ("TPOT", step.tpot),
        ):
            if quantiles.p95 is not None:
                rows.append(figure(f"{name}: {what} p95 at capacity (s)", quantiles.p95))
    rows.append(figure("demo: wall of the whole stage (s)", wall))
    return rows


async def timer_error_p99_s(n: int = 400) -> float:
    """How late this machine wakes a process that only sleeps: what no sender can be better than."""
    late = []
    for _ in range(n):
        due = time.perf_counter() + 0.005
        await asyncio.sleep(0.005)
        late.append(time.perf_counter() - due)
    return sorted(late)[int(0.99 * n)]


def load(url: str, process: Any, rate: float, n: int, seed: int, **arrivals: Any) -> list[Any]:
    """`n` requests at `rate` a second to the server at `url`; their exchanges."""
    from pipelines.core.study import Arrivals
    from pipelines.governance.egress import Gate
    from pipelines.load.arrivals import schedule
    from pipelines.load.send import connected, send
    from pipelines.providers import Endpoint

    due = schedule(Arrivals(process=process, **arrivals), rate, n, seed)

    async def all_of_them() -> list[Any]:
        where = Endpoint(base_url=url, timeout_s=30)
        gate = Gate("benchmark", "public")
        async with connected(gate, "benchmark", where, "openai_compatible") as ask:
            return await send(ask, [(f"item-{k}", request(k)) for k in range(n)], list(due))

    return asyncio.run(all_of_them())


def capacity(url: str, guess: float, *, seconds: float, limit_s: float) -> Any:
    """Search with evenly spaced arrivals: their known capacity is slots / service time."""
    from pipelines.load.measures import measure
    from pipelines.load.search import find

    def step(rate: float, seed: int) -> Any:
        n = max(60, round(rate * seconds))
        found = load(url, "constant", rate, n, seed)
        return measure(found, rate, seed, {"latency_p95_s": limit_s}, 0.0)

    return find(step, guess, max_rate=1000, repeats=3, seed=0)


def request(k: int) -> Any:
    """The k-th question."""
    from pipelines.core.records import Message
    from pipelines.providers import ChatRequest

    turn = Message(role="user", content=f"q{k}")
    return ChatRequest(model="slots", messages=(turn,), max_output_tokens=N_TOKENS)


@contextmanager
def server(slots: int, service_s: float) -> Generator[tuple[str, int]]:
    """This file as a server in its own process; yields its base URL and its process id."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--slots", str(slots), "--service-s", str(service_s)],
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip(), process.pid
    finally:
        process.kill()
        process.wait()


@contextmanager
def _frozen_at(pid: int, after_s: float) -> Generator[None]:
    """Stop the process `after_s` from now for `FREEZE_S`."""

    def freeze() -> None:
        time.sleep(after_s)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(FREEZE_S)
        os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=freeze)
    thread.start()
    try:
        yield
    finally:
        thread.join()


async def _closed_loop(url: str, seconds: float, n_workers: int = 2) -> list[float]:
    """Latencies that clients see which send only when the last answer has come."""
    from pipelines.governance.egress import Gate
    from pipelines.load.send import connected
    from pipelines.providers import Endpoint

    until = time.perf_counter() + seconds
    found: list[float] = []

    gate, where = Gate("benchmark", "public"), Endpoint(base_url=url)
    async with connected(gate, "benchmark", where, "openai_compatible") as ask:

        async def work() -> None:
            while time.perf_counter() < until:
                completion = await ask(request(len(found)))
                found.append(completion.latency_s)

        await asyncio.gather(*(work() for _ in range(n_workers)))
    return found


async def serve(slots: int, service_s: float) -> None:
    """Serve until killed; the first line of stdout is the base URL."""
    free = asyncio.Semaphore(slots)

    async def complete(asked: web.Request) -> web.StreamResponse:
        await asked.read()
        async with free:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(asked)
            for k in range(N_TOKENS):
                await asyncio.sleep(service_s / N_TOKENS)
                await response.write(_event(_choice(f"t{k}", k == N_TOKENS - 1)))
        usage = {"prompt_tokens": 8, "completion_tokens": N_TOKENS, "total_tokens": 8 + N_TOKENS}
        await response.write(_event({"choices": [], "usage": usage}) + b"data: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_post("/chat/completions", complete)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    host, port = runner.addresses[0][:2]
    print(f"http://{host}:{port}", flush=True)
    await asyncio.Event().wait()


def _choice(text: str, last: bool) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": "stop" if last else None}
    return {"model": "slots", "choices": [choice]}


def _event(event: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(event)}\n\n".encode()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=SLOTS)
    parser.add_argument("--service-s", type=float, default=SERVICE_S)
    args = parser.parse_args()
    asyncio.run(serve(args.slots, args.service_s))
