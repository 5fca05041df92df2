"""LoRA on one GPU: a random Llama 3.1 8B against transformers' Trainer and TRL; `--gpu` alone."""

from __future__ import annotations

import gc
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import finetune
from evaluate import figure
from finetune import SEED, Found, Work

SHAPE = {
    **finetune.LAYER, "vocab_size": 128256, "num_hidden_layers": 32, "rope_theta": 500000.0,
}  # fmt: skip
PUBLISHED = 12473
"""Tokens/s of NeMo AutoModel's Llama 3 8B LoRA on one H100, with the work of G1."""
FLOOR_SHARE = 0.57
LOOKED_AT = 8192
"""Rows and columns of the matrices whose product measures the chip."""


def run() -> list[dict[str, Any]]:
    """All figures; a row with a `limit` is a bar.

    Raises:
        SystemExit: there is no GPU.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.path.insert(0, str(Path(__file__).parents[2]))
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("finetune --gpu: needs an NVIDIA GPU with 80 GB; torch sees none here")
    full = Work(SHAPE, full_rows(32, 4096, 128256), batch_rows=2, max_tokens=8192, device="cuda")
    mixed = replace(full, rows=finetune.lognormal_rows(512, 128256, 2048), batch_rows=8)
    return measure(full, mixed, figure("multiplications, TFLOP/s", matmul_tflops()))


def full_rows(n: int, length: int, vocabulary: int) -> list[dict[str, list[int]]]:
    """Rows of one length without a prompt."""
    rng = random.Random(SEED)
    ids = [[rng.randrange(5, vocabulary) for _ in range(length)] for _ in range(n)]
    return [{"input_ids": each, "labels": each} for each in ids]


def measure(full: Work, mixed: Work, chip: dict[str, Any]) -> list[dict[str, Any]]:
    """G1 and G5 on rows of full length, G2 on rows of mixed ones, G3 in 4 bits.

    Args:
        full: rows of one length.
        mixed: rows as instruction data has them.
        chip: row of the TFLOP/s that the chip multiplies with.
    """
    rows, rate = _in_bf16(full, mixed, chip["value"])
    g3 = _take_turns(
        full,
        {"Trainer": finetune.trainer_padded, "ours": finetune.ours},
        lambda: _in_4_bits(finetune.random_base(full), full.device),
    )
    share = figure("G3 nf4 / bf16", full.n_tokens / g3["ours"].seconds / rate)
    return [chip, *rows, *_rows("G3 nf4", full, g3), share]


def _in_bf16(full: Work, mixed: Work, tflops: float) -> tuple[list[dict[str, Any]], float]:
    """G1, G2 and G5, and our tokens/s on full rows; frees its models."""
    base = finetune.random_base(full)
    g1 = _take_turns(
        full,
        {"Trainer": finetune.trainer_padded, "TRL": _trl_padded, "ours": finetune.ours},
        lambda: finetune.twin(base),
    )
    rows = _rows("G1", full, g1)
    rate = full.n_tokens / g1["ours"].seconds
    floor = tflops * 1e12 / flop_per_token(full)
    rows += [
        figure("G1 ours / published figure of an H100", rate / PUBLISHED),
        figure("G5 share of what multiplying alone allows", rate / floor, at_least=FLOOR_SHARE),
    ]
    g2 = _take_turns(
        mixed,
        {
            "Trainer": finetune.trainer_padded,
            "TRL as it comes": lambda work, base: _trl_padded(
                replace(work, checkpointing=True), base
            ),
            "TRL bfd": lambda work, base: finetune.trl(work, base, packing=True),
            "ours": finetune.ours,
        },
        lambda: finetune.twin(base),
    )
    return [*rows, *_rows("G2", mixed, g2)], rate


def _trl_padded(work: Work, base: Any) -> Any:
    return finetune.trl(work, base, packing=False)


def flop_per_token(work: Work) -> float:
    """Multiplications and additions of a LoRA step: forward, and the gradient of activations.

    Attention is causal; its backward pass costs 2.5 times its forward pass.
    """
    s = work.shape
    width, heads = s["hidden_size"], s["num_attention_heads"]
    keys = width // heads * s["num_key_value_heads"]
    linear = s["num_hidden_layers"] * (
        2 * width * width + 2 * width * keys + 3 * width * s["intermediate_size"]
    )
    squares = sum(len(row["input_ids"]) ** 2 for row in work.rows) / work.n_tokens
    attention = 2 * squares * width * s["num_hidden_layers"]
    scored = work.n_scored / work.n_tokens
    return 4 * (linear + scored * width * s["vocab_size"]) + 3.5 * attention


def matmul_tflops(device: str = "cuda", size: int = LOOKED_AT, repeats: int = 20) -> float:
    """What the chip reaches on square matrices of random bf16 numbers."""
    import torch

    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    clock = _clock(device)
    started = clock()
    for _ in range(repeats):
        a @ b
    return 2 * size**3 * repeats / (clock() - started) / 1e12


def _clock(device: str) -> Callable[[], float]:
    """Seconds once the device has done what it was given."""
    import torch

    def clock() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    return clock


def _take_turns(work: Work, arms: dict[str, Any], fresh: Callable[[], Any]) -> dict[str, Found]:
    """One warm-up pass, then the arms in turn; one that does not fit computes layers again."""
    import torch

    ready: dict[str, Any] = {}
    for name, make in arms.items():
        ready[name] = make(work, fresh())
        try:
            ready[name][1]()
        except torch.OutOfMemoryError:
            del ready[name]
            gc.collect()
            torch.cuda.empty_cache()
            ready[name] = make(replace(work, checkpointing=True), fresh())
            ready[name][1]()
            print(f"{name}: does not fit; layers are computed again in the backward pass")
    return finetune.compare(work, ready, _clock(work.device))


def _rows(label: str, work: Work, found: dict[str, Found]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, each in found.items():
        spread = [work.n_tokens / seconds for seconds in each.times]
        rows.append(figure(f"{name}: tokens/s", work.n_tokens / each.seconds, spread=spread))
        if name != "ours":
            rows.append(figure(f"ours / {name}", each.seconds / found["ours"].seconds))
    rows += finetune.parity(found, "Trainer")
    return [{**row, "name": f"{label} {row['name']}"} for row in rows]


def _in_4_bits(base: Any, device: str) -> Any:
    """Changes the decoder's linear layers into bitsandbytes' of 4 bits."""
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit

    for parent in list(base.model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not torch.nn.Linear:
                continue
            layer = Linear4bit(
                child.in_features, child.out_features, bias=False, device="meta",
                compute_dtype=torch.bfloat16, quant_type="nf4", compress_statistics=True,
            )  # fmt: skip
            layer.weight = Params4bit(
                child.weight.data.cpu(), requires_grad=False, quant_type="nf4",
                compress_statistics=True,
            ).to(device)  # fmt: skip
            setattr(parent, name, layer)
    return base
