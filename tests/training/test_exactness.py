"""Packed training against each row alone, through transformers and peft as they come."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cosine_similarity
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen3Config,
    TrainingArguments,
)

from pipelines.training import fused_lora, scored_loss
from pipelines.training.chat_rows import IGNORED
from pipelines.training.packing import Packer, Row, lay, n_scored
from pipelines.training.scored_loss import loss_of_pack
from pipelines.training.step_trainer import StepTrainer

SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.2,
}  # fmt: skip


def rows(seed: int = 0, n: int = 12) -> list[Row]:
    """Documents of 2 to 40 random tokens, of which the first third is prompt."""
    rng = random.Random(seed)
    made: list[Row] = []
    for _ in range(n):
        ids = [rng.randrange(97) for _ in range(rng.randint(2, 40))]
        prompt = max(1, len(ids) // 3)
        made.append({"input_ids": ids, "labels": [IGNORED] * prompt + ids[prompt:]})
    return made


ROWS = rows()


def tiny(config: PreTrainedConfig | None = None) -> Any:
    """A random, frozen model of some 60,000 parameters; always the same one."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config or LlamaConfig(**SIZES))
    return model.requires_grad_(False)


def adapted(model: Any, **more: Any) -> Any:
    """With an adapter whose B is not 0, so that A has a gradient, too."""
    torch.manual_seed(1)
    model = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", **more)
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def fast(config: PreTrainedConfig | None = None, **more: Any) -> Any:
    """As `lora.train` makes it."""
    base = tiny(config)
    scored_loss.read_packs(base)
    model = adapted(base, **more)
    assert fused_lora.fuse(model) == 7 * base.config.num_hidden_layers
    return model


def gradient(model: Any) -> torch.Tensor:
    """All gradients of the adapter in one vector; empties them."""
    grads = [p.grad.flatten() for p in model.parameters() if p.requires_grad]
    joined = torch.cat(grads).clone()
    model.zero_grad()
    return joined


def alone(model: Any, data: list[Row] = ROWS) -> tuple[float, torch.Tensor]:
    """Mean loss per scored token and its gradient; each row in a call of its own."""
    total = 0.0
    for row in data:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        out = model(input_ids=ids, labels=labels, num_items_in_batch=n_scored(data))
        out.loss.backward()
        total += float(out.loss.detach())
    return total, gradient(model)


def trainer(model: Any, folder: Path, packer: Packer, **more: Any) -> StepTrainer:
    arguments = TrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to=[], max_steps=1, disable_tqdm=True, **more
    )
    return StepTrainer(
        model=model, args=arguments, rows=ROWS, planned=[], packer=packer, packed=True
    )


@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig, Qwen3Config])
def test_a_pack_has_the_loss_and_the_gradient_of_its_rows_alone(kind: Any) -> None:
    config = kind(**SIZES)
    loss, expected = alone(adapted(tiny(config)))
    model = fast(config)
    packed = loss_of_pack(model, lay(ROWS), 0.0) / n_scored(ROWS)
    packed.backward()
    found = gradient(model)
    assert float(packed.detach()) == pytest.approx(loss, rel=1e-6)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-6
    assert float(found.norm()) > 0.1


def test_the_test_above_would_see_rows_that_see_one_another() -> None:
    _, expected = alone(adapted(tiny()))
    model = fast()
    pack = lay(ROWS)
    n_tokens = pack["input_ids"].shape[1]
    pack["document_lengths"] = [n_tokens]
    pack["document_ends"] = torch.tensor([0, n_tokens], dtype=torch.int32)
    (loss_of_pack(model, pack, 0.0) / n_scored(ROWS)).backward()
    assert float(cosine_similarity(gradient(model), expected, 0)) < 0.99


@pytest.mark.parametrize("max_tokens", [40, 100, 1000])
def test_a_step_is_the_mean_over_its_scored_tokens_however_many_packs_it_takes(
    max_tokens: int, tmp_path: Path
) -> None:
    loss, expected = alone(adapted(tiny()))
    model = fast()
    packer = Packer(max_tokens)
    found = trainer(model, tmp_path, packer).training_step(model, packer(list(ROWS)))
    assert float(found) == pytest.approx(loss, rel=1e-6)
    assert float((gradient(model) - expected).abs().max() / expected.abs().max()) < 1e-6


@pytest.mark.parametrize("n_rows", [12, 1])
def test_the_mean_over_processes_is_the_gradient_of_the_whole_step(
    n_rows: int, tmp_path: Path
) -> None:
    _, expected = alone(adapted(tiny()), ROWS[:n_rows])
    shares: list[torch.Tensor] = []
    for rank in range(3):
        model = fast()
        packer = Packer(80, None, rank, 3)
        trainer(model, tmp_path, packer).training_step(model, packer(list(ROWS[:n_rows])))
        shares.append(gradient(model))
    mean = torch.stack(shares).mean(0)
    assert float((mean - expected).abs().max() / expected.abs().max()) < 1e-6


@pytest.mark.parametrize("every", [1, 2])
def test_layers_that_are_computed_again_have_the_same_gradient(every: int) -> None:
    _, expected = alone(adapted(tiny()))
    model = fast()
    model.gradient_checkpointing_enable({"use_reentrant": False}, every_n_layers=every)
    again: list[int] = []
    for number, layer in enumerate(model.get_base_model().model.layers):
        layer.mlp.register_forward_pre_hook(lambda *_, number=number: again.append(number))
    (loss_of_pack(model, lay(ROWS), 0.0) / n_scored(ROWS)).backward()
    assert again == ([0, 1, 1, 0] if every == 1 else [0, 1, 0])
    assert float((gradient(model) - expected).abs().max() / expected.abs().max()) < 1e-6


def test_training_leaves_the_base_as_it_was(tmp_path: Path) -> None:
    model = fast()
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    packer = Packer(1000)
    owner = trainer(model, tmp_path, packer, learning_rate=0.1)
    owner.planned = [list(range(12))]
    owner.train()
    assert owner.state.log_history
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], was) for name, was in frozen.items())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_packs_of_many_shapes_have_the_gradient_of_their_rows(seed: int) -> None:
    data = rows(seed, n=30)
    loss, expected = alone(adapted(tiny()), data)
    model = fast()
    packed = loss_of_pack(model, lay(data), 0.0) / n_scored(data)
    packed.backward()
    assert float(packed.detach()) == pytest.approx(loss, rel=1e-6)
    assert float((gradient(model) - expected).abs().max() / expected.abs().max()) < 2e-6
