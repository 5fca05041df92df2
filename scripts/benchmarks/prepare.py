"""Many training rows: the whole stage, and in it duplicates, near-copies, leakage, and masking.

FREEHOLD_BENCH_ROWS sets another number of rows; five million take about six gigabytes of disk.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from itertools import accumulate
from pathlib import Path
from time import perf_counter
from typing import Any

from evaluate import figure

N = int(os.environ.get("FREEHOLD_BENCH_ROWS", "300_000"))
N_ITEMS, N_MASKED = 3_000, 20_000
N_WORDS = 20_000
MIB, MIB_PER_MILLION = 300, 750
"""So that five million rows stay under 4 GiB."""
STUDY = """
workload:
  name: many
  title: Many rows
  tier: public
  eval_set: {{path: {items}}}
  instructions: Name the intent.
  metrics: {{accuracy: {{metric: exact_match}}}}
  quality: accuracy
  max_output_tokens: 8
  requirements: {{max_quality_loss: 0.1, max_latency_p95_s: 5}}
  traffic: {{tasks_per_month: 1_000_000}}
  own_costs: {{operations_usd_per_month: 100, source: benchmark}}
prepare:
  train: {{path: {rows}}}
  split: {{validation: 0.1}}
finetune: {{preset: tiny}}
incumbent: tfidf-logreg
candidates: {{tfidf-logreg: tfidf-logreg}}
"""
CLEAN = """
import json, resource, sys, time
from pipelines.core.records import Example, TrainingRow
from pipelines.data.near_copies import find_copies
from pipelines.data.splits import normalise
def read(path, kind):
    with open(path, encoding="utf-8") as file:
        yield from map(kind.model_validate_json, file)
rows = read(sys.argv[1], TrainingRow)
questions = [normalise(item.messages) for item in read(sys.argv[2], Example)]
start = time.perf_counter()
kinds = find_copies(
    ((normalise(r.messages[:-1]), r.messages[-1].content) for r in rows), questions, 0.8
)
wall = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"wall": wall, "peak": peak, "kinds": kinds.tolist()}))
"""
MASK = """
import json, sys, time
from pipelines.core.records import TrainingRow
from pipelines.data.personal_data import Finder
with open(sys.argv[1], encoding="utf-8") as file:
    rows = [TrainingRow.model_validate_json(line) for line, _ in zip(file, range(int(sys.argv[2])))]
finder = Finder()
finder.look(rows[0].model_copy(update={"messages": tuple(
    m.model_copy(update={"content": "a@example.com"}) for m in rows[0].messages)}))
start = time.perf_counter()
found = sum(bool(finder.look(row)[1]) for row in rows)
print(json.dumps({"wall": time.perf_counter() - start, "found": found}))
"""


def run() -> list[dict[str, Any]]:
    """All figures; a row with a `limit` is a bar."""
    with tempfile.TemporaryDirectory() as folder:
        rows, items = Path(folder, "rows.jsonl"), Path(folder, "items.jsonl")
        planted = _written(rows, items)
        prepared = _prepared(Path(folder), rows, items)
        cleaned = _timed(CLEAN, str(rows), str(items))
        masked = _timed(MASK, str(rows), str(N_MASKED))
        size = rows.stat().st_size
    removed = {place for place, kind in enumerate(cleaned["kinds"]) if kind}
    recall = {
        name: sum(place in removed for place in places) / len(places)
        for name, places in planted.items()
    }
    most = MIB + MIB_PER_MILLION * N / 1e6
    n_planted = sum(map(len, planted.values()))
    n_right = sum(place in removed for places in planted.values() for place in places)
    return [
        figure("rows (million)", N / 1e6),
        figure("size (GB)", size / 1e9),
        figure("whole stage, rows per second", N / prepared["wall"]),
        figure("whole stage, wall (s)", prepared["wall"]),
        figure("whole stage, CPU (s)", prepared["cpu"]),
        figure("whole stage, peak memory (MiB)", prepared["peak"], limit=most),
        figure("whole stage, rows to train on", prepared["n_train"]),
        figure("whole stage, rows kept back", prepared["n_validation"]),
        figure("rows per second, read and compared", N / cleaned["wall"]),
        figure("peak memory (MiB)", cleaned["peak"], limit=most),
        figure("planted copies", n_planted),
        *(
            figure(f"found, {name}", share, at_least=0.99 if name == "verbatim" else 0.8)
            for name, share in recall.items()
        ),
        figure("precision", n_right / len(removed), at_least=0.99),
        figure("rows per second, masked", min(N, N_MASKED) / masked["wall"]),
        figure("rows with personal data, share", masked["found"] / min(N, N_MASKED)),
    ]


def _written(rows: Path, items: Path) -> dict[str, list[int]]:
    """Messages of random words, as frequent as those of a language; the places of the copies.

    One row in ten copies an earlier one with its answer, or an eval item; one in twenty names an
    e-mail address or a telephone number.
    """
    rng = random.Random(0)
    letters = "etaoinshrdlcumwfgypbvk"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(N_WORDS)]
    weights = [1 / (rank + 1) ** 0.9 for rank in range(N_WORDS)]
    planted: dict[str, list[int]] = {"verbatim": [], "typo": [], "words swapped": [], "greeted": []}
    changes = {"verbatim": str.upper, "typo": _typo, "words swapped": _swap, "greeted": _greet}
    sources: list[tuple[str, str]] = []
    with items.open("w", encoding="utf-8") as file:
        for _ in range(N_ITEMS):
            text = " ".join(rng.choices(words, weights, k=rng.randint(12, 30)))
            sources.append((text, "other"))
            asked = [{"role": "user", "content": text}]
            item = {"id": str(len(sources)), "messages": asked, "target": "other"}
            file.write(json.dumps(item) + "\n")
    cumulative = [*accumulate(weights)]
    with rows.open("w", encoding="utf-8") as file:
        for place in range(N):
            if place % 10 == 0:
                name = rng.choice([*planted])
                text, answer = rng.choice(sources)
                planted[name].append(place)
                random.seed(place)
                file.write(_line(changes[name](text), answer))
                continue
            text = " ".join(rng.choices(words, cum_weights=cumulative, k=rng.randint(12, 30)))
            answer = rng.choice(["cancel", "refund", "status", "address"])
            if place % 50 == 1 and len(sources) < 50_000:
                sources.append((text, answer))
            elif place % 40 == 2:
                text += f" {rng.choice(words)}@example.com"
            elif place % 40 == 3:
                text += f" call 07700 {rng.randint(900_000, 900_999)}"
            file.write(_line(text, answer))
    return planted


def _typo(text: str) -> str:
    at = random.randrange(len(text) - 1)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def _swap(text: str) -> str:
    words = text.split()
    at = random.randrange(len(words) - 1)
    words[at : at + 2] = reversed(words[at : at + 2])
    return " ".join(words)


def _greet(text: str) -> str:
    return f"Good morning. {text}"


def _line(text: str, answer: str) -> str:
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns}) + "\n"


def _prepared(folder: Path, rows: Path, items: Path) -> dict[str, Any]:
    """`pipelines.prepare` in a process of its own and with a store of its own: seconds, MiB."""
    study, out = folder / "study.yaml", folder / "result.json"
    study.write_text(STUDY.format(rows=rows, items=items), encoding="utf-8")
    command = [sys.executable, "-m", "pipelines.prepare", str(study), "--json"]
    store = f"sqlite:///{folder / 'mlflow.db'}"
    start = perf_counter()
    with out.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--tracking-uri", store],
            stdout=file,
            env=os.environ | {"TMPDIR": str(folder)},
        )
        _, status, used = os.wait4(process.pid, 0)
    assert status == 0, "pipelines.prepare failed"
    return {
        **json.loads(out.read_text(encoding="utf-8")),
        "wall": perf_counter() - start,
        "cpu": used.ru_utime + used.ru_stime,
        "peak": used.ru_maxrss / 1024,
    }


def _timed(body: str, *arguments: str) -> dict[str, Any]:
    """What a process of its own prints."""
    done = subprocess.run([sys.executable, "-c", body, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
