"""Reading a month of usage logs beside the bare engine: speed and memory on 20 million rows.

FREEHOLD_AUDIT_ROWS sets another number of rows for a trial; 20 million take 4.3 GB of disk.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from evaluate import figure

N = int(os.environ.get("FREEHOLD_AUDIT_ROWS", "20_000_000"))
N_FILES, ROUNDS = 8, 3
WRITE = """COPY (SELECT
    strftime(to_timestamp(1793491200 + (i * 37) % 2592000), '%Y-%m-%dT%H:%M:%SZ') AS timestamp,
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
start = time.perf_counter()
{body}
wall = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({{"wall": wall, "peak": peak, "tokens": tokens}}))
"""
OURS = """
from pipelines.usage_logs.read import read
log = read(sys.argv[1:], thresholds=[200_000, 272_000])
assert not log.n_bad and not log.n_repeated, log
tokens = {}
for each in log.groups:
    of_model = tokens.setdefault(each.model, [0, 0, 0])
    for k, n in enumerate((each.input_tokens, each.cached_input_tokens, each.output_tokens)):
        of_model[k] += n
"""
BARE = """
import duckdb
from pipelines.usage_logs.formats.requests import SHAPE
from pipelines.usage_logs.source import type_of
types = ", ".join(f'"{key}": \\'{type_of(each)}\\'' for key, each in SHAPE.fields.items())
engine = duckdb.connect()
engine.execute("SET enable_progress_bar = false")
rows = engine.execute(
    "SELECT model, sum(usage.prompt_tokens), sum(usage.prompt_tokens_details.cached_tokens), "
    f"sum(usage.completion_tokens) FROM read_json({sys.argv[1:]}, columns = {{{types}}}, "
    "format = 'newline_delimited') GROUP BY model"
).fetchall()
tokens = {model: counts for model, *counts in rows}
"""


def run() -> list[dict[str, Any]]:
    """All figures; a row with a `limit` is a bar."""
    with tempfile.TemporaryDirectory() as folder:
        paths = _written(Path(folder))
        n_bytes = sum(path.stat().st_size for path in paths)
        bare, ours = [], []
        for _ in range(ROUNDS):
            bare.append(_timed(BARE, paths))
            ours.append(_timed(OURS, paths))
            assert ours[-1]["tokens"] == bare[-1]["tokens"]
    walls = {name: [each["wall"] for each in rows] for name, rows in
             (("bare", bare), ("ours", ours))}  # fmt: skip
    ratio = statistics.median(o / b for o, b in zip(walls["ours"], walls["bare"], strict=True))
    wall = statistics.median(walls["ours"])
    return [
        figure("rows (million)", N / 1e6),
        figure("size (GB)", n_bytes / 1e9),
        figure("wall, bare engine (s)", statistics.median(walls["bare"]), spread=walls["bare"]),
        figure("wall, read (s)", wall, spread=walls["ours"]),
        figure("rows per second (million)", N / 1e6 / wall),
        figure("wall, ratio to the bare engine", ratio, limit=1.5),
        figure("peak memory, bare engine (MiB)", max(each["peak"] for each in bare)),
        figure("peak memory, read (MiB)", max(each["peak"] for each in ours), limit=4096),
    ]


def _written(folder: Path) -> list[Path]:
    """Requests of a month, 12 workloads and 5 models, about 215 bytes each."""
    import duckdb

    engine = duckdb.connect()
    paths = [folder / f"usage-{k}.jsonl" for k in range(N_FILES)]
    for k, path in enumerate(paths):
        first, last = k * N // N_FILES, (k + 1) * N // N_FILES
        engine.execute(WRITE.format(first=first, last=last, path=path))
    return paths


def _timed(body: str, paths: list[Path]) -> dict[str, Any]:
    """Wall seconds and peak MiB of a process of its own, and the tokens that it added up."""
    done = subprocess.run(
        [sys.executable, "-c", TIMED.format(body=body), *map(str, paths)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
