"""The fused LoRA layer against peft's own, on dense and on quantised bases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import has_avx512bf16
from torch.nn.functional import linear

from pipelines.core.study import FinetuneConfig
from pipelines.training import fused_lora, lora
from tests.training.test_exactness import adapted, gradient, tiny

IDS = torch.randint(97, (2, 30), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny().save_pretrained(folder)
    return folder


def loaded(base_dir: Path, quantization: str) -> Any:
    """The base as `lora.train` loads it."""
    config = FinetuneConfig.model_construct(quantization=quantization)  # pyright: ignore[reportArgumentType]
    return lora._load_base(base_dir, config, torch.device("cpu"))


def learn(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and the gradient of the adapter."""
    logits = model(input_ids=IDS).logits
    logits.logsumexp(-1).sum().backward()
    return logits.detach(), gradient(model)


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-6) -> None:
    assert float((found - expected).norm() / expected.norm()) < tolerance
    assert float(expected.norm()) > 1e-3


def dense_twin(quantised: Any) -> Any:
    """A dense base with the weights that the quantised one stands for."""
    twin = tiny()
    for name, module in quantised.named_modules():
        if type(module).__name__ in fused_lora.QUANTIZED:
            weight = fused_lora.dense_weight(module, torch.float32)
            twin.get_submodule(name).weight.data = weight.clone()
    return twin


@pytest.mark.parametrize("more", [{}, {"use_rslora": True}], ids=["plain", "rslora"])
def test_it_computes_what_peft_computes(more: dict[str, Any]) -> None:
    expected = learn(adapted(tiny(), **more))
    model = adapted(tiny(), **more)
    assert fused_lora.fuse(model) == 14
    found = learn(model)
    for ours, theirs in zip(found, expected, strict=True):
        close(ours, theirs)


def test_in_bf16_it_stays_as_close_to_fp32_as_peft_under_autocast() -> None:
    _, exact = learn(adapted(tiny()))
    by_peft, ours = (adapted(tiny().to(torch.bfloat16)) for _ in range(2))
    fused_lora.fuse(ours)
    assert {p.dtype for p in ours.parameters() if p.requires_grad} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        _, theirs = learn(by_peft)
    _, found = learn(ours)
    errors = [float((each - exact).norm() / exact.norm()) for each in (found, theirs)]
    assert errors[0] < 1.2 * errors[1] < 0.1


def test_it_keeps_its_input_once_and_nothing_else() -> None:
    kept: dict[str, int] = {}
    for name in ("peft", "fused"):
        model = adapted(torch.nn.Sequential(torch.nn.Linear(8, 6)).requires_grad_(False))
        if name == "fused":
            assert fused_lora.fuse(model) == 1
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        storages: set[int] = set()
        x = torch.randn(5, 8, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, seen=storages: seen.add(t.untyped_storage().data_ptr()), lambda t: t
        ):
            model(x)
        kept[name] = len(storages - weights - {x.untyped_storage().data_ptr()})
    assert kept["peft"] > kept["fused"] == 0


def test_dropout_and_dora_keep_pefts_layers() -> None:
    assert fused_lora.fuse(adapted(tiny(), lora_dropout=0.1)) == 0
    assert fused_lora.fuse(adapted(tiny(), use_dora=True)) == 0


def test_a_disabled_adapter_leaves_the_base_alone() -> None:
    model = adapted(tiny())
    fused_lora.fuse(model)
    with model.disable_adapter():
        logits = model(input_ids=IDS).logits
    torch.testing.assert_close(logits, tiny()(input_ids=IDS).logits)
    assert not torch.equal(model(input_ids=IDS).logits, logits)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_it_trains_on_quantised_bases_as_peft_does(base_dir: Path, quantization: str) -> None:
    expected = learn(adapted(loaded(base_dir, quantization)))
    model = adapted(loaded(base_dir, quantization))
    assert fused_lora.fuse(model) == 14
    found = learn(model)
    for ours, theirs in zip(found, expected, strict=True):
        close(ours, theirs, 1e-5)


def after_evaluation(model: Any) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        model(input_ids=IDS)
    return learn(model.train())[1]


def test_gradients_in_4_bits_are_right_after_an_evaluation(base_dir: Path) -> None:
    base = loaded(base_dir, "nf4")
    _, expected = learn(adapted(dense_twin(base)))
    model = adapted(base)
    fused_lora.fuse(model)
    close(after_evaluation(model), expected, 1e-5)


@pytest.mark.skipif(
    not has_avx512bf16(), reason="the processor has no avx512_bf16: nothing to guard"
)
def test_without_the_guard_they_are_wrong_on_such_processors(base_dir: Path) -> None:
    base = loaded(base_dir, "nf4")
    _, expected = learn(adapted(dense_twin(base)))
    for module in base.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = True
    found = after_evaluation(adapted(base))
    assert float((found - expected).norm() / expected.norm()) > 0.5


def test_the_dense_weight_of_8_bits_is_the_one_its_layer_multiplies_by(base_dir: Path) -> None:
    base = loaded(base_dir, "int8")
    layer = base.model.layers[0].mlp.up_proj
    x = torch.randn(64, layer.in_features)
    weight = fused_lora.dense_weight(layer, torch.float32) if layer(x) is not None else x
    error = (linear(x, weight) - layer(x)).norm() / layer(x).norm()
    assert float(error) < 0.02  # the layer rounds its input to 8 bits, too
