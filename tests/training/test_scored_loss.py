"""The loss of scored tokens alone against torch's cross entropy over everything."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import GemmaConfig, GemmaForCausalLM, LlamaConfig, MistralConfig

from pipelines.training import scored_loss
from pipelines.training.packing import lay
from pipelines.training.scored_loss import ScoredCrossEntropy, loss_of_pack, why_not_packed
from tests.training.test_exactness import ROWS, tiny


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk", [3, 100])
def test_loss_and_gradient_are_those_of_cross_entropy(
    smoothing: float, bias: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scored_loss, "CHUNK", chunk)
    torch.manual_seed(0)
    hidden = torch.randn(11, 6, requires_grad=True)
    head = torch.nn.Linear(6, 17, bias=bias).requires_grad_(False)
    targets = torch.randint(17, (11,))
    ours: Any = ScoredCrossEntropy.apply(hidden, head.weight, head.bias, targets, smoothing)
    theirs = cross_entropy(head(hidden), targets, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(3 * ours, hidden), torch.autograd.grad(3 * theirs, hidden),
        rtol=1e-6, atol=1e-6,
    )  # fmt: skip


def test_no_logits_are_made_beyond_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scored_loss, "CHUNK", 2)
    made: list[int] = []

    def linear(hidden: torch.Tensor, *more: Any) -> torch.Tensor:
        made.append(len(hidden))
        return torch.nn.functional.linear(hidden, *more)

    monkeypatch.setattr(scored_loss, "linear", linear)
    hidden, head = torch.randn(5, 6, requires_grad=True), torch.randn(17, 6)
    ScoredCrossEntropy.apply(hidden, head, None, torch.arange(5), 0.0)
    assert made == [2, 2, 1]


def test_a_pack_without_a_scored_token_has_loss_and_gradient_0() -> None:
    model = tiny()
    scored_loss.read_packs(model)
    model.model.embed_tokens.requires_grad_()
    pack = lay([{"input_ids": [3], "labels": [-100]}])
    loss = loss_of_pack(model, pack, 0.0)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert float(model.model.embed_tokens.weight.grad.abs().max()) == 0.0


def test_a_model_that_reads_packs_still_answers_other_calls() -> None:
    model = tiny()
    ids = torch.tensor([[1, 2, 3]])
    before = model(input_ids=ids).logits
    scored_loss.read_packs(model)
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(model(input_ids=ids).logits, before)


def test_what_cannot_read_packs_is_named_with_the_reason() -> None:
    small: dict[str, Any] = {
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 97,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 4,
    }  # fmt: skip
    gemma = GemmaForCausalLM(GemmaConfig(**small))
    assert "GemmaForCausalLM is none of LlamaForCausalLM" in str(why_not_packed(gemma, 9))
    windowed = tiny(MistralConfig(**small, sliding_window=8))
    assert why_not_packed(windowed, 8) is None
    assert why_not_packed(windowed, 9) == "its attention sees 8 tokens and a row has 9"
    dropping = tiny(LlamaConfig(**small, attention_dropout=0.1))
    assert why_not_packed(dropping, 9) == "its attention has dropout"
    trained = tiny()
    trained.lm_head.requires_grad_(True)
    assert why_not_packed(trained, 9) == "its output layer is not a frozen linear one"


def test_a_model_that_reads_no_packs_is_scored_by_its_own_logits() -> None:
    fast, slow = tiny(), tiny()
    scored_loss.read_packs(fast)
    for row in ROWS[:3]:
        losses = [
            float(loss_of_pack(model, lay([row]), 0.1, packed=packed).detach())
            for model, packed in ((fast, True), (slow, False))
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
