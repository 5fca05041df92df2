"""A base divided among processes trains the adapter that whole bases train, bit for bit."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pipelines.core.errors import UserError
from pipelines.core.study import FinetuneConfig
from pipelines.training import launch, lora
from tests.training.test_launch import kill_once, losses, one_thread, train
from tests.training.test_lora import base, config

assert base  # the fixture: an untrained Llama of 60,000 parameters
assert one_thread

PAIR: dict[str, Any] = {"launcher": "torchrun", "n_processes": 2}


@pytest.fixture(scope="module")
def untied(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers, an odd vocabulary, and a head of its own."""
    folder = tmp_path_factory.mktemp("untied") / "base"
    shutil.copytree(base, folder)
    small = LlamaConfig.from_pretrained(base)
    small.tie_word_embeddings, small.num_hidden_layers = False, 3
    small.vocab_size = 2 * (len(AutoTokenizer.from_pretrained(base)) // 2) + 1
    LlamaForCausalLM(small).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "more"),
    [
        ("base", {}),
        # Five rows, one per pass: three passes in one process and two in the other.
        ("untied", {"micro_batch_size": 1, "batch_size": 5, "gradient_checkpointing": "selective"}),
    ],
    ids=["tied", "uneven"],
)
def test_each_holds_half_of_the_base_and_learns_the_same(
    which: str, more: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder: Path = request.getfixturevalue(which)
    whole, logged_whole = train(folder, tmp_path / "whole", **PAIR, **more)
    half, logged_half = train(folder, tmp_path / "half", sharding="fsdp2", **PAIR, **more)
    assert half.adapter_sha256 == whole.adapter_sha256
    assert losses(logged_half) == losses(logged_whole)
    assert losses(logged_half, "eval/loss") == losses(logged_whole, "eval/loss")
    assert (half.eval_loss, half.best_step) == (whole.eval_loss, whole.best_step)
    assert whole.base_gib is not None
    assert half.base_gib is not None
    # The most of either: both cannot hold less than half. An odd number of rows leaves one over.
    assert 0.5 <= half.base_gib / whole.base_gib < 0.51
    weights = (folder / "model.safetensors").stat().st_size / 2**30
    assert whole.base_gib == pytest.approx(weights, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "ray"])
def test_a_killed_process_goes_on_with_its_part(base: Path, tmp_path: Path, launcher: str) -> None:
    longer: dict[str, Any] = {"epochs": 40}
    alone, _ = train(base, tmp_path / "alone", **longer)
    killed: list[int] = []
    work = tmp_path / "half"
    half, _ = train(
        base, work, kill_once(work, 60, killed), launcher=launcher, n_processes=2, n_retries=1,
        sharding="fsdp2", **longer,
    )  # fmt: skip
    assert killed, "training was over before it could be killed"
    printed = (work / launch.LOG_FILE).read_text(encoding="utf-8")
    assert "finetune: going on from checkpoint-" in printed
    assert len(re.findall(r"rank 1: process", printed)) == 2
    assert half.adapter_sha256 == alone.adapter_sha256
    assert alone.base_gib is not None
    assert half.base_gib == pytest.approx(alone.base_gib / 2, rel=0.02)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"launcher": "local", "n_processes": 1}, "it needs launcher: torchrun or ray"),
        ({"n_processes": 1}, "it needs n_processes of 2 or more"),
        ({"quantization": "nf4"}, "cannot divide a base in nf4: take quantization: none"),
        ({"lora": {"rank": 8, "alpha": 16, "dora": True}}, "take lora.dora: false"),
    ],
)
def test_what_cannot_be_sharded_is_refused(more: dict[str, Any], message: str) -> None:
    given = {**config().model_dump(), **PAIR, "sharding": "fsdp2"}
    assert FinetuneConfig.model_validate(given).sharding == "fsdp2"
    with pytest.raises(ValidationError, match=f"sharding: fsdp2 .*{message}"):
        FinetuneConfig.model_validate({**given, **more})
    # Where it is not asked for, the same settings stay as they are.
    assert FinetuneConfig.model_validate({**given, **more, "sharding": "auto"})


def test_a_base_whose_layers_are_not_known_is_not_sharded_in_one_lump() -> None:
    nameless: Any = torch.nn.Sequential(torch.nn.Linear(2, 2))
    nameless._no_split_modules = None
    with pytest.raises(UserError, match="layers of Sequential, which names none"):
        lora._shard(nameless, mesh=None)  # pyright: ignore[reportArgumentType]
