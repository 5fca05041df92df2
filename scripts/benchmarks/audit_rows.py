"""Reading a month of usage logs beside the bare engine: speed and memory on 20 million rows.

Every arm has rounds in turn, and its fastest counts: another guest on the machine can only make
one slower. FREEHOLD_AUDIT_ROWS sets another number of rows for a trial; 20 million take 4.3 GB.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from evaluate import figure

N = int(os.environ.get("FREEHOLD_AUDIT_ROWS", "20_000_000"))
N_FILES, ROUNDS = 8, 5
WRITE = """COPY (SELECT
    strftime(to_timestamp(1793491200 + i * 2592000 // {n}), '%Y-%m-%dT%H:%M:%SZ') AS timestamp,
    'req_' || left(md5(CAST(i AS VARCHAR)), 20) AS request_id,
    ['gpt-6.1-sol', 'gpt-6-luna', 'claude-sonnet-5-5', 'claude-haiku-4-5', 'gemini-3-flash']
        [1 + CAST(hash(i) % 5 AS INTEGER)] AS model,
    'team-' || (hash(i + 7) % 12) AS tag,
    {{'prompt_tokens': 200 + CAST(hash(i * 3) % 3000 AS INTEGER),
        'completion_tokens': 10 + CAST(hash(i * 5) % 400 AS INTEGER),
        'prompt_tokens_details': {{'cached_tokens': CAST(hash(i * 11) % 200 AS INTEGER)}}}} AS usage
    FROM range({first}, {last}) t(i)) TO '{path}' (FORMAT JSON)"""
TIMED = """
import json, resource, sys, time
import duckdb, pyarrow
from pipelines.usage_logs.read import read
start = time.perf_counter()
{body}
wall = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({{"wall": wall, "peak": peak, "tokens": tokens}}))
"""
OURS = """
log = read(sys.argv[1:], thresholds=[200_000, 272_000])
assert not log.n_bad and not log.n_repeated, log
tokens = {}
for each in log.groups:
    of_model = tokens.setdefault(each.model, [0, 0, 0])
    for k, n in enumerate((each.input_tokens, each.cached_input_tokens, each.output_tokens)):
        of_model[k] += n
"""
BARE = """
engine = duckdb.connect()
engine.execute("SET enable_progress_bar = false")
rows = engine.execute(
    "SELECT {keys} model, sum(usage.prompt_tokens), "
    "sum(usage.prompt_tokens_details.cached_tokens), "
    f"sum(usage.completion_tokens) FROM read_json({{sys.argv[1:]}}) GROUP BY ALL"
).fetchall()
tokens = {{}}
for *_, model, a, b, c in rows:
    of_model = tokens.setdefault(model, [0, 0, 0])
    of_model[:] = (of_model[0] + a, of_model[1] + b, of_model[2] + c)
"""
ARMS = {
    "bare": BARE.format(keys=""),
    "table": BARE.format(keys="epoch_us(timestamp) // 3600000000 AS hour, tag,"),
    "ours": OURS,
}


def run() -> list[dict[str, Any]]:
    """All figures; a row with a `limit` is a bar."""
    with tempfile.TemporaryDirectory() as folder:
        paths = _written(Path(folder))
        n_bytes = sum(path.stat().st_size for path in paths)
        timed: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
        for _ in range(ROUNDS):
            for arm, body in ARMS.items():
                timed[arm].append(_timed(body, paths))
                assert timed[arm][-1]["tokens"] == timed["bare"][0]["tokens"]
    walls = {arm: [each["wall"] for each in rounds] for arm, rounds in timed.items()}
    peaks = {arm: max(each["peak"] for each in rounds) for arm, rounds in timed.items()}
    fastest = {arm: min(rounds) for arm, rounds in walls.items()}
    by_round = {
        arm: [o / b for o, b in zip(walls["ours"], walls[arm], strict=True)]
        for arm in ("bare", "table")
    }
    return [
        figure("rows (million)", N / 1e6),
        figure("size (GB)", n_bytes / 1e9),
        *(
            figure(f"wall, {words} (s)", fastest[arm], spread=walls[arm])
            for arm, words in {
                "bare": "bare engine, tokens by model",
                "table": "bare engine, tokens by hour, tag and model",
                "ours": "read",
            }.items()
        ),
        figure("rows per second (million)", N / 1e6 / fastest["ours"]),
        *(
            figure(
                f"wall, ratio to the bare engine by {words}",
                fastest["ours"] / fastest[arm],
                limit=limit,
                spread=by_round[arm],
            )
            for arm, words, limit in (
                ("table", "hour, tag and model", 1.5),
                ("bare", "model", None),
            )
        ),
        figure("peak memory, bare engine (MiB)", peaks["bare"]),
        figure("peak memory, read (MiB)", peaks["ours"], limit=4096),
    ]


def _written(folder: Path) -> list[Path]:
    """Requests of a month in order, 12 workloads and 5 models, about 215 bytes each."""
    import duckdb

    engine = duckdb.connect()
    engine.execute("SET enable_progress_bar = false")
    paths = [folder / f"usage-{k}.jsonl" for k in range(N_FILES)]
    for k, path in enumerate(paths):
        first, last = k * N // N_FILES, (k + 1) * N // N_FILES
        engine.execute(WRITE.format(first=first, last=last, n=N, path=path))
    return paths


def _timed(body: str, paths: list[Path]) -> dict[str, Any]:
    """Wall seconds and peak MiB of a process of its own, and the tokens that it added up."""
    done = subprocess.run(
        [sys.executable, "-c", TIMED.format(body=body), *map(str, paths)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
