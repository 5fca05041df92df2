"""A merged model computes what base and adapter compute together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pipelines.core.errors import DataError
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


def sharded(base_dir: Path, to: Path, dtype: torch.dtype) -> Path:
    """The base in several files, and beside them the same in one, as some publishers have it."""
    shutil.copytree(base_dir, to)
    (to / "model.safetensors").unlink()
    model: Any = AutoModelForCausalLM.from_pretrained(base_dir, dtype=dtype)
    model.save_pretrained(to, max_shard_size="20KB")
    save_file({"other": torch.zeros(2)}, to / "consolidated.safetensors")
    return to


def adapter(base_dir: Path, to: Path, **settings: Any) -> Path:
    torch.manual_seed(1)
    model: Any = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear",
        init_lora_weights=False, **settings,
    )  # fmt: skip
    get_peft_model(model, lora).save_pretrained(str(to), save_embedding_layers=False)
    return to


def by_peft(base_dir: Path, adapter_dir: Path) -> dict[str, torch.Tensor]:
    """What peft merges in fp32."""
    base: Any = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    model: Any = PeftModel.from_pretrained(base, str(adapter_dir))
    return model.merge_and_unload(safe_merge=True).state_dict()


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert len(files) > 2
    found = {file: load_file(folder / file) for file in files}
    assert {name: file for file, held in found.items() for name in held} == index["weight_map"]
    return {name: tensor for held in found.values() for name, tensor in held.items()}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {
            "rank_pattern": {"layers.1.self_attn.q_proj": 2, "down_proj": 8},
            "alpha_pattern": {"layers.1.self_attn.q_proj": 32, "up_proj": 1},
        },
    ],
    ids=["plain", "rslora", "patterns"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_each_shard_holds_what_peft_sums_in_fp32_rounded_once(
    parts: tuple[Path, Path], tmp_path: Path, settings: dict[str, Any], dtype: torch.dtype
) -> None:
    base_dir = sharded(parts[0], tmp_path / "base", dtype)
    adapter_dir = adapter(parts[0], tmp_path / "adapter", **settings)
    wanted, before = by_peft(base_dir, adapter_dir), tensors(base_dir)
    folder = merged(base_dir, adapter_dir)
    found = tensors(folder)
    assert found.keys() == before.keys()
    changed = 0
    for name, tensor in found.items():
        assert tensor.dtype is dtype
        if dtype is torch.float32:
            assert torch.allclose(tensor, wanted[name], rtol=0, atol=1e-6)
        else:
            assert torch.equal(tensor, wanted[name].to(dtype))
        changed += not torch.equal(tensor, before[name])
    assert changed == 2 * 7
    kept = {path.name for path in base_dir.iterdir()} - {"consolidated.safetensors"}
    assert {path.name for path in folder.iterdir()} == kept


def changed_config(adapter_dir: Path, to: Path, **values: Any) -> Path:
    shutil.copytree(adapter_dir, to)
    path = to / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return to


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"use_dora": True}, "only a plain LoRA can be merged, and this one has use_dora: true"),
        ({"modules_to_save": ["lm_head"]}, 'modules_to_save: \\["lm_head"\\]'),
        ({"bias": "all"}, 'bias: "all"'),
        ({"init_lora_weights": "pissa"}, 'init_lora_weights: "pissa"'),
        ({"peft_type": "IA3"}, 'peft_type: "IA3"'),
        ({"a_new_setting": {"x": 1}}, "a_new_setting"),
        ({"r": 5}, "has rank 4, its config says 5"),
    ],
)
def test_what_is_more_than_a_plain_lora_is_refused_by_name(
    parts: tuple[Path, Path], tmp_path: Path, cache: Path, values: dict[str, Any], message: str
) -> None:
    other = changed_config(parts[1], tmp_path / "other", **values)
    with pytest.raises(DataError, match=message):
        merged(parts[0], other)
    assert not [path for path in cache.glob("merged-*") if path.is_dir()]


def renamed(old: str, new: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda held: {name.replace(old, new): x for name, x in held.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed("layers.1", "layers.9"), "7 of 14 adapted weights are not in"),
        (renamed("layers.1.mlp.up_proj.lora_A", "layers.1.mlp.up_proj.lora_C"), "not pairs of"),
        (renamed("model.layers.0.mlp.up_proj", "lm_head"), "lm_head.weight"),
        (lambda held: {name: x * float("nan") for name, x in held.items()}, "not finite"),
        (
            renamed("self_attn.q_proj", "mlp.down_proj"),
            r"adds to \[32, 32\] numbers, the base holds \[32, 64\]",
        ),
    ],
    ids=["another depth", "half a pair", "tied head", "not finite", "another shape"],
)
def test_no_tensor_of_the_adapter_is_passed_over(
    parts: tuple[Path, Path],
    tmp_path: Path,
    cache: Path,
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    message: str,
) -> None:
    other = changed_config(parts[1], tmp_path / "other")
    held = load_file(other / "adapter_model.safetensors")
    if message.startswith("adds"):
        held = {name: x for name, x in held.items() if "down_proj" not in name}
    save_file(change(held), other / "adapter_model.safetensors")
    with pytest.raises(DataError, match=message):
        merged(parts[0], other)
    assert not [p for p in cache.glob("merged-*") if p.is_dir() and p.suffix != ".partial"]


def test_a_quantised_base_is_refused(parts: tuple[Path, Path], tmp_path: Path) -> None:
    base_dir = tmp_path / "base"
    shutil.copytree(parts[0], base_dir)
    path = base_dir / "config.json"
    quantised = {"quantization_config": {"quant_method": "bitsandbytes"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | quantised))
    with pytest.raises(DataError, match="quantised weights \\(bitsandbytes\\)"):
        merged(base_dir, parts[1])


def memory_mib(name: str) -> float:
    """`VmRSS`: of this process now, `VmHWM`: most since the peak was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def test_a_merge_needs_memory_for_a_matrix_and_not_for_the_model(tmp_path: Path) -> None:
    """128 MiB of weights in two files, matrices of 4 MiB: the peak rises by less than 32 MiB."""
    base_dir, adapter_dir = tmp_path / "base", tmp_path / "adapter"
    base_dir.mkdir()
    adapter_dir.mkdir()
    (base_dir / "config.json").write_text("{}")
    names = [f"model.layers.{k}.up_proj" for k in range(32)]
    shards = {"model-1.safetensors": names[:16], "model-2.safetensors": names[16:]}
    for file, held in shards.items():
        save_file({f"{name}.weight": torch.ones(1024, 1024) for name in held}, base_dir / file)
    index = {f"{name}.weight": file for file, held in shards.items() for name in held}
    (base_dir / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 2}
    (adapter_dir / "adapter_config.json").write_text(json.dumps(config))
    pairs = {
        f"base_model.model.{name}.{part}.weight": torch.ones(shape)
        for name in names
        for part, shape in (("lora_A", (1, 1024)), ("lora_B", (1024, 1)))
    }
    save_file(pairs, adapter_dir / "adapter_model.safetensors")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = memory_mib("VmRSS")
    folder = merged(base_dir, adapter_dir)
    assert memory_mib("VmHWM") - before < 32
    for file, held in shards.items():
        found = load_file(folder / file)
        assert all(torch.equal(found[f"{n}.weight"], torch.full((1024, 1024), 3.0)) for n in held)
