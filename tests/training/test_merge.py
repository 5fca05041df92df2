"""A merged model computes what base and adapter compute together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pipelines.training import toy_base
from pipelines.training.merge import merged


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small untrained base and an adapter that is not zero."""
    base_dir = tmp_path_factory.mktemp("base")
    adapter_dir = tmp_path_factory.mktemp("adapter")
    tokenizer = toy_base.train_tokenizer(["refund parcel login number 0123456789"] * 3)
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            num_attention_heads=2,
            num_key_value_heads=2,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            tie_word_embeddings=True,
        )
    )
    base.save_pretrained(base_dir)
    tokenizer.save_pretrained(base_dir)
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear",
        init_lora_weights=False,
    )  # fmt: skip
    get_peft_model(base, lora).save_pretrained(str(adapter_dir), save_embedding_layers=False)
    return base_dir, adapter_dir


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FREEHOLD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def logits(model: torch.nn.Module) -> torch.Tensor:
    """Float[Tensor, "1 tokens vocabulary"] for a fixed prompt."""
    with torch.no_grad():
        return model(torch.tensor([[1, 5, 9, 3, 7]])).logits


def test_the_merged_weights_answer_as_base_and_adapter_do(parts: tuple[Path, Path]) -> None:
    base_dir, adapter_dir = parts
    folder = merged(base_dir, adapter_dir)
    base = AutoModelForCausalLM.from_pretrained(base_dir)
    untuned = logits(base)
    wanted = logits(PeftModel.from_pretrained(base, str(adapter_dir)))
    found = logits(AutoModelForCausalLM.from_pretrained(folder))
    assert torch.allclose(found, wanted, atol=1e-5)
    assert not torch.allclose(found, untuned, atol=1e-2)
    assert list(folder.glob("*.safetensors"))
    assert not list(folder.glob("adapter*"))


def test_the_prompt_template_comes_along(parts: tuple[Path, Path]) -> None:
    base_dir, adapter_dir = parts
    turns = [{"role": "user", "content": "refund number 0"}]
    theirs, ours = (
        AutoTokenizer.from_pretrained(folder).apply_chat_template(turns, tokenize=False)
        for folder in (base_dir, merged(base_dir, adapter_dir))
    )
    assert ours == theirs


def test_it_is_merged_once_and_again_for_another_scale(
    parts: tuple[Path, Path], tmp_path: Path, cache: Path
) -> None:
    base_dir, adapter_dir = parts
    first = merged(base_dir, adapter_dir)
    stamp = (first / "config.json").stat().st_mtime_ns
    assert merged(base_dir, adapter_dir) == first
    assert (first / "config.json").stat().st_mtime_ns == stamp
    other = tmp_path / "other"
    other.mkdir()
    for path in adapter_dir.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    config = json.loads((other / "adapter_config.json").read_text())
    names = config["target_modules"][::-1]  # a set of peft's: the order says nothing
    (other / "adapter_config.json").write_text(json.dumps(config | {"target_modules": names}))
    assert merged(base_dir, other) == first
    (other / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 16}))
    assert merged(base_dir, other) != first
    assert not list(cache.glob("*.partial"))


def test_a_merge_that_was_cut_is_made_anew(parts: tuple[Path, Path], cache: Path) -> None:
    base_dir, adapter_dir = parts
    whole = merged(base_dir, adapter_dir)
    rubbish = whole.with_name(f"{whole.name}.partial")
    whole.rename(rubbish)
    (rubbish / "model.safetensors").write_bytes(b"cut")
    assert (merged(base_dir, adapter_dir) / "model.safetensors").stat().st_size > 1000
