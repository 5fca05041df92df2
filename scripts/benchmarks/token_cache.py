"""Tokens of training rows: all in memory, against mapped from the disk, made and found again.

FREEHOLD_BENCH_ROWS sets another number of rows.
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

N = int(os.environ.get("FREEHOLD_BENCH_ROWS", "100_000"))
N_READ = 10_000
MIB, MIB_PER_MILLION = 60, 150
"""For the places of rows, and the lengths of sequences."""
START = """
import json, os, random, re, sys, time
from pathlib import Path
os.environ["HF_HUB_OFFLINE"] = "1"
import datasets
from transformers import AutoTokenizer
from pipelines.core import row_file
from pipelines.core.config import load_study
from pipelines.core.paths import ROOT
from pipelines.core.records import TrainingRow
from pipelines.training import chat_rows, packing, token_cache
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
arm, folder, n_read = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
config = load_study(ROOT / "configs" / "quickstart.yaml").finetune
tokenizer = AutoTokenizer.from_pretrained(folder / "base")
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
before, wall, cpu = peak(), time.perf_counter(), time.process_time()
if arm == "memory":
    with (folder / "rows.jsonl").open(encoding="utf-8") as file:
        rows = [TrainingRow.model_validate_json(line) for line in file]
    data = chat_rows.encode(
        rows, tokenizer, instructions="Name it.", max_tokens=config.max_tokens_per_row,
        template_options=config.chat_template_options,
    )
else:
    rows = row_file.opened(folder / "rows.jsonl")
    data = token_cache.tokens(
        rows, folder / "base", tokenizer, config, "Name it.", folder / "tokens"
    )
found = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
found["peak"] = peak() - before
steps = packing.steps(len(data), 16, 1.0, 7)[: n_read // 16]
packer, cpu = packing.Packer(2048), time.process_time()
totals = [packer([data[k] for k in step]) for step in steps]
found["step"] = (time.process_time() - cpu) / len(steps)
found["sums"] = [sum(int(p["targets"].sum()) for p in t["packs"]) for t in totals]
print(json.dumps(found))
"""


def run() -> list[dict[str, Any]]:
    """All figures; a row with a `limit` is a bar."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder)
        memory, made, found = (_started(arm, folder) for arm in ("memory", "disk", "disk"))
        size = sum(path.stat().st_size for path in (folder / "tokens").glob("*/*.arrow"))
    limit = MIB + MIB_PER_MILLION * N / 1e6
    return [
        figure("rows (million)", N / 1e6),
        figure("data set (MiB)", size / 2**20),
        figure("in memory: CPU-s", memory["cpu"]),
        figure("in memory: more memory (MiB)", memory["peak"]),
        figure("first start: CPU-s", made["cpu"]),
        figure("first start: more memory (MiB)", made["peak"], limit=limit),
        figure("second start: CPU-s", found["cpu"]),
        figure("second start: more memory (MiB)", found["peak"], limit=limit),
        figure("second start faster", memory["cpu"] / found["cpu"], at_least=20),
        figure("ms to pack a step of 16, in memory", 1000 * memory["step"]),
        figure("ms to pack a step of 16, mapped", 1000 * found["step"]),
        figure("steps that differ", sum(
            a != b or a != c
            for a, b, c in zip(memory["sums"], made["sums"], found["sums"], strict=True)
        ), limit=0),
    ]  # fmt: skip


def _write(folder: Path) -> None:
    """Short rows, and a tokenizer that was trained on some of them."""
    import random

    from pipelines.training import toy_base

    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlcumwf", k=rng.randint(2, 8))) for _ in range(3000)]
    texts: list[str] = []
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for number in range(N):
            text = " ".join(rng.choices(words, k=rng.randint(6, 20)))
            if number < 2000:
                texts.append(text)
            turns = [
                {"role": "user", "content": text},
                {"role": "assistant", "content": rng.choice(words)},
            ]
            file.write(json.dumps({"messages": turns}) + "\n")
    toy_base.train_tokenizer(texts).save_pretrained(folder / "base")


def _started(arm: str, folder: Path) -> dict[str, Any]:
    """What a process of its own measures."""
    command = [sys.executable, "-c", START, arm, str(folder), str(min(N, N_READ))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
