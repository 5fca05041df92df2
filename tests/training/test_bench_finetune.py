"""The training benchmarks, tiny: every arm does the same work, and the bars can fail."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.core.paths import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "benchmarks"))

import finetune  # pyright: ignore[reportMissingImports]
import finetune_gpu  # pyright: ignore[reportMissingImports]

SHAPE = {
    "vocab_size": 256, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1,
}  # fmt: skip


def work(folder: Path, rows: Any) -> Any:
    return finetune.Work(SHAPE, rows, 4, 256, folder=str(folder))


@pytest.mark.slow
def test_the_gpu_benchmark_measures_and_compares_all_its_arms(tmp_path: Path) -> None:
    chip = finetune_gpu.figure("chip", finetune_gpu.matmul_tflops("cpu", 64, 2))
    rows = finetune_gpu.measure(
        work(tmp_path, finetune_gpu.full_rows(4, 64, 256)),
        work(tmp_path, finetune.lognormal_rows(16, 256, 100)),
        chip,
    )
    bars = {row["name"]: row["holds"] for row in rows if "holds" in row}
    parity = [name for name in bars if "loss" in name or "gradient" in name]
    assert len(parity) == 9
    assert all(bars[name] for name in parity)
    assert {row["name"].split()[0] for row in rows} == {"chip", "G1", "G2", "G3", "G5"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(SystemExit, match="needs an NVIDIA GPU"):
        finetune_gpu.run()


def test_an_arm_that_does_other_work_misses_a_bar() -> None:
    right = finetune.Found([1.0], 2.0, torch.tensor([1.0, 0.0]))
    for other in (
        finetune.Found([1.0], 2.01, torch.tensor([1.0, 0.0])),
        finetune.Found([1.0], 2.0, torch.tensor([1.0, 0.1])),
        finetune.Found([1.0], 2.0, torch.tensor([0.0, 0.0])),
        finetune.Found([1.0], 2.0, torch.tensor([float("nan"), 0.0])),
    ):
        rows = finetune.parity({"Trainer padded": right, "ours": other})
        assert not all(row["holds"] for row in rows)
    assert all(row["holds"] for row in finetune.parity({"Trainer padded": right, "ours": right}))


def test_the_operations_of_an_8b_step_are_counted(tmp_path: Path) -> None:
    full = finetune.Work(
        finetune_gpu.SHAPE, [{"input_ids": [5] * 2048, "labels": [5] * 2048}], 1, 1,
        folder=str(tmp_path),
    )  # fmt: skip
    # 4 (6.979e9 + 0.525e9) for the weights; 7 * 2048 * 4096 * 32 for causal attention.
    assert finetune_gpu.flop_per_token(full) == pytest.approx(31.9e9, rel=0.01)
