"""The evaluation runner beside a bare client: speed, memory, faults, kills."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SERVER = Path(__file__).with_name("model_server.py")
N, CONCURRENCY, ROUNDS, KILLS = 1_000, 64, 3, 10
STUDY = """
workload:
  name: bench
  title: Benchmark
  tier: public
  eval_set: {{path: {folder}/eval.jsonl}}
  instructions: "Answer."
  metrics: {{accuracy: {{metric: exact_match}}}}
  quality: accuracy
  max_output_tokens: 8
  requirements: {{max_quality_loss: 0.1, max_latency_p95_s: 5}}
  traffic: {{tasks_per_month: 1_000_000}}
  own_costs: {{operations_usd_per_month: 100, source: benchmark}}
prepare: {{train: {{path: {folder}/train.jsonl}}}}
finetune: {{preset: tiny}}
evaluate: {{concurrency: 64, timeout_s: {timeout_s}}}
incumbent: api
candidates:
  api: {{kind: rent, title: Benchmark, provider: openai_compatible, model: bench,
        price: openai/gpt-6.1-sol, base_url: "{url}/v1"}}
"""


def run() -> list[dict[str, Any]]:
    """All figures; a row with a `limit` is a bar."""
    with tempfile.TemporaryDirectory() as folder:
        return [*_speed(Path(folder)), *_memory(), *_faults(), *_kills()]


def _speed(folder: Path) -> list[dict[str, Any]]:
    """Our stage and a bare aiohttp client, in turns, in this process; imports are done before."""
    bare, ours, cpu, rates = [], [], [], []
    with server() as url:
        evaluate, study, options = _prepared(folder, url, N)
        for k in range(ROUNDS):
            start = time.perf_counter()
            asyncio.run(_bare(url, N))
            bare.append(time.perf_counter() - start)
            asked = study.model_copy(
                update={"workload": study.workload.model_copy(update={"instructions": f"{k}"})}
            )
            start, used = time.perf_counter(), time.process_time()
            result = evaluate(asked, options).results["api"]
            ours.append(time.perf_counter() - start)
            cpu.append((time.process_time() - used) / N * 1000)
            rates.append(result.tasks_per_s)
            assert result.metrics["accuracy"].mean == 0.9, result
    ratio = statistics.median(o / b for o, b in zip(ours, bare, strict=True))
    return [
        figure("wall, bare aiohttp client (s)", statistics.median(bare), spread=bare),
        figure("wall, evaluate with MLflow (s)", statistics.median(ours), spread=ours),
        figure("wall, ratio to the bare client", ratio, limit=2.5),
        figure("requests per second while requesting", statistics.median(rates), at_least=900),
        figure("CPU per item (ms)", statistics.median(cpu), limit=2.5),
    ]


def _memory() -> list[dict[str, Any]]:
    peaks = {}
    with server() as url:
        for n in (1_000, 20_000):
            with tempfile.TemporaryDirectory() as folder:
                study = _write(Path(folder), url, n)
                code = (
                    "import resource, sys; from pipelines.core import command;"
                    "from pipelines.evaluate import evaluate, show;"
                    "code = command.main('', evaluate, show, sys.argv[1:]);"
                    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, code)"
                )
                done = subprocess.run(
                    [sys.executable, "-c", code, str(study), "--tracking-uri", _uri(folder)],
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                peak, exit_code = done.stdout.splitlines()[-1].split()
                assert exit_code == "0", done.stderr
                peaks[n] = float(peak)
    return [
        figure("peak memory, 1,000 items (MiB)", peaks[1_000]),
        figure("more memory for 20,000 items (MiB)", peaks[20_000] - peaks[1_000], limit=50),
    ]


def _faults() -> list[dict[str, Any]]:
    rows = []
    for faults, expected in (("storm", N), ("bad-request", None)):
        with tempfile.TemporaryDirectory() as folder, server("--faults", faults) as url:
            evaluate, study, options = _prepared(Path(folder), url, N, timeout_s=1)
            start = time.perf_counter()
            result = evaluate(study, options).results["api"]
            wall = time.perf_counter() - start
            counts = fetch(f"{url}/counts")
            twice = sum(n - 1 for n in counts["answered"].values() if n > 1)
            answered = result.n_total - result.n_errors
            if expected:
                rows += [
                    figure(f"{faults}: items without an answer", N - answered, limit=0),
                    figure(f"{faults}: answered whole twice", twice, limit=0),
                    figure(f"{faults}: attempts", sum(counts["sent"].values())),
                    figure(f"{faults}: wall (s)", wall),
                ]
            else:
                refused = [q for q in counts["sent"] if q not in counts["answered"]]
                retried = sum(counts["sent"][q] - 1 for q in refused)
                named = sum(result.errors.values())
                rows += [
                    figure(f"{faults}: refused items", len(refused)),
                    figure(f"{faults}: of these not named", len(refused) - named, limit=0),
                    figure(f"{faults}: retries of a 400", retried, limit=0),
                ]
    return rows


def _kills() -> list[dict[str, Any]]:
    """Kill -9 at random moments, then the same command to the end, beside an unbroken run."""
    dice = random.Random(0)
    with server("--delay-s", "0.2") as url:
        with tempfile.TemporaryDirectory() as folder:
            unbroken = _to_the_end(_write(Path(folder), url, N), folder)
        urllib.request.urlopen(f"{url}/reset", data=b"").close()
        with tempfile.TemporaryDirectory() as folder:
            study = _write(Path(folder), url, N)
            journals, kills = Path(folder) / "work" / "journal", 0
            while kills < KILLS:
                process = subprocess.Popen(
                    _command(study, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                before = _n_lines(journals)
                while _n_lines(journals) == before and process.poll() is None:
                    time.sleep(0.01)  # the kill shall come while it asks, not while it imports
                time.sleep(dice.uniform(0, 0.3))
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
            cut_at = _n_lines(journals)
            broken = _to_the_end(study, folder)
            [journal] = journals.glob("*.jsonl")
            lines = [json.loads(line) for line in journal.read_text().splitlines()]
            repeated = len(lines) - len({line["request_sha256"] for line in lines})
            extra = sum(fetch(f"{url}/counts")["sent"].values()) - N
    same = all(unbroken[key] == broken[key] for key in ("metrics", "cost", "spent_usd"))
    return [
        figure(f"{KILLS} kills: items answered before the last", cut_at),
        figure(f"{KILLS} kills: answered requests sent again", repeated, limit=0),
        figure(f"{KILLS} kills: requests in flight that were sent again", extra),
        figure(f"{KILLS} kills: result differs from an unbroken run", float(not same), limit=0),
    ]


def figure(
    name: str,
    value: float,
    *,
    limit: float | None = None,
    at_least: float | None = None,
    spread: list[float] | None = None,
) -> dict[str, Any]:
    """One row; with a limit it is a bar that holds or not."""
    row: dict[str, Any] = {"name": name, "value": value}
    if spread:
        row["spread"] = [min(spread), max(spread)]
    if limit is not None:
        row |= {"limit": f"<= {limit:g}", "holds": value <= limit}
    if at_least is not None:
        row |= {"limit": f">= {at_least:g}", "holds": value >= at_least}
    return row


@contextmanager
def server(*arguments: str) -> Generator[str]:
    """A model server in its own process; yields its URL."""
    process = subprocess.Popen([sys.executable, SERVER, *arguments], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip()
    finally:
        process.kill()
        process.wait()


def fetch(url: str) -> Any:
    """GET one JSON document."""
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


def _write(folder: Path, url: str, n: int, timeout_s: float = 120) -> Path:
    """A study on `n` items in `folder`."""
    with (folder / "eval.jsonl").open("w") as file:
        for k in range(n):
            turn = {"role": "user", "content": f"q{k}"}
            row = {"id": f"item-{k}", "messages": [turn], "target": f"a{k}"}
            file.write(json.dumps(row) + "\n")
    pair = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "a"}]
    (folder / "train.jsonl").write_text(json.dumps({"messages": pair}) + "\n")
    path = folder / "study.yaml"
    path.write_text(STUDY.format(folder=folder, url=url, timeout_s=timeout_s))
    return path


def _prepared(folder: Path, url: str, n: int, timeout_s: float = 120) -> tuple[Any, Any, Any]:
    """The stage, its study and its options, with everything before it done."""
    from pipelines.core.command import Options
    from pipelines.core.config import load_study
    from pipelines.evaluate import evaluate
    from pipelines.prepare import prepare

    path = _write(folder, url, n, timeout_s)
    options = Options(path, _uri(folder), False, False)
    study = load_study(path)
    prepare(study, options)
    return evaluate, study, options


def _uri(folder: Path | str) -> str:
    return f"sqlite:///{folder}/mlflow.db"


def _command(study: Path, folder: str) -> list[str]:
    return [
        sys.executable, "-m", "pipelines.evaluate", str(study), "--json",
        "--tracking-uri", _uri(folder),
    ]  # fmt: skip


def _to_the_end(study: Path, folder: str) -> dict[str, Any]:
    done = subprocess.run(_command(study, folder), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["results"]["api"]


def _n_lines(journals: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in journals.glob("*.jsonl"))


async def _bare(url: str, n: int) -> None:
    """The least that any client must do: send, wait, read the JSON."""
    import aiohttp

    slots = asyncio.Semaphore(CONCURRENCY)
    connector = aiohttp.TCPConnector(limit=CONCURRENCY)

    async def one(client: aiohttp.ClientSession, k: int) -> None:
        body = {"model": "bench", "messages": [{"role": "user", "content": f"q{k}"}]}
        async with slots, client.post(f"{url}/v1/chat/completions", json=body) as answer:
            await answer.json()

    async with aiohttp.ClientSession(connector=connector) as client:
        await asyncio.gather(*(one(client, k) for k in range(n)))
