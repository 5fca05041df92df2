"""Memory, time and dollars of a training; every expectation is computed by hand above it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from pipelines.core.config import CONFIGS, load_study, read_yaml
from pipelines.core.errors import DataError
from pipelines.core.hardware import Hardware
from pipelines.core.model_shape import ModelShape
from pipelines.core.paths import ROOT
from pipelines.core.study import FinetuneConfig
from pipelines.economics.training_cost import (
    Work,
    block_bytes,
    estimate,
    memory_gib,
    token_bytes,
    token_flop,
)

LLAMA = ModelShape.from_config(
    {
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
    }
)
WORK = Work(n_tokens=10_000_000, row_tokens=1024, micro_batch_tokens=8192, logit_tokens=8192)


def config(*more: str) -> FinetuneConfig:
    settings = ["finetune.preset=llama-3.1-8b", "finetune.lora.rank=16", *more]
    return load_study(ROOT / "configs" / "quickstart.yaml", settings).finetune


def machine(memory_gib: float | None = 80, **more: Any) -> Hardware:
    given = {"source": "test", "checked_on": "2026-11-22"}
    return Hardware.model_validate(
        {
            "name": "m",
            "description": "",
            "memory_gib": memory_gib,
            "n_gpus": 1,
            "rental": {"on_demand": {"low": 1, "likely": 2, "high": 4, **given}},
            "training": {
                "bf16_tflops": 1000,
                "used_share": {"low": 0.25, "likely": 0.5, "high": 0.5},
                **given,
            },
            "cold_start_s": 60,
            **more,
        }
    )


def test_parameters_of_llama_3_1_8b() -> None:
    # q and o 4096 x 4096, k and v 4096 x 1024, gate, up and down 4096 x 14336, 32 blocks:
    # 32 x (2 x 16,777,216 + 2 x 4,194,304 + 3 x 58,720,256)
    assert LLAMA.linear_parameters == 6_979_321_856
    # embeddings and head 128256 x 4096 each; 65 norms of 4096
    assert LLAMA.parameters == 6_979_321_856 + 2 * 525_336_576 + 266_240 == 8_030_261_248


def test_adapter_parameters_at_rank_16() -> None:
    # Rank x (inputs + outputs): q and o 8192, k and v 5120, gate, up and down 18432 = 81,920.
    assert LLAMA.adapter_parameters(16) == 32 * 16 * 81_920 == 41_943_040
    assert LLAMA.adapter_parameters(16, ("q_proj", "v_proj")) == 32 * 16 * (8192 + 5120)


def test_weights_take_15_gib_and_4_bits_a_third_of_that() -> None:
    # 8,030,261,248 x 2 / 2^30
    bf16 = memory_gib(LLAMA, 41_943_040, "none", WORK, "none")
    assert bf16["weights"] == pytest.approx(14.958, abs=0.001)
    # 41,943,040 x 16 / 2^30: weight, gradient and two moments in fp32
    assert bf16["adapter and optimiser"] == 0.625
    # 6,979,321,856 x 4.127 / 8 + 1,050,939,392 x 2 = 5.70e9 bytes
    nf4 = memory_gib(LLAMA, 41_943_040, "nf4", WORK, "none")
    assert nf4["weights"] * 2**30 == pytest.approx(5.70e9, rel=0.001)
    # 8192 x 128256 x 8 / 2^30
    assert bf16["logits"] == pytest.approx(7.828, abs=0.001)


def test_a_block_keeps_what_autograd_was_seen_to_keep() -> None:
    # norms 2 x 4 x 4097, attention 2 x (4096 + 1024 + 1024 + 4096) + 4 x 32,
    # MLP 2 x 3 x 14336, adapters' inputs 2 x (4096 + 4096 + 14336)
    assert block_bytes(LLAMA) == 32_776 + 20_608 + 86_016 + 45_056 == 184_456
    # A probe with saved-tensor hooks on one such block gave 212.6 KiB a token, with the final norm
    # (4 x 4097), the rotary table (512) and the probe's own fp32 output (4 x 4096) in it.
    probe = block_bytes(LLAMA) + 16_388 + 512 + 16_384
    assert probe / 1024 == pytest.approx(212.6, abs=0.05)


def test_the_probe_on_a_narrow_block() -> None:
    # 8 heads of 64, 2 for keys; seen: 23,080 bytes for each further block, 2,308 around them.
    narrow = ModelShape(
        layers=1, hidden=512, heads=8, kv_heads=2, head_dim=64, intermediate=1792,
        vocab=128, max_positions=2048,
    )  # fmt: skip
    assert block_bytes(narrow) == 23_080
    assert token_bytes(narrow, "none") == 25_388


@pytest.mark.parametrize(
    ("row", "none", "full"), [(1024, 31.2, 45.5), (2048, 32.1, 46.7), (4096, 34.0, 49.1)]
)
def test_gflop_of_a_token(row: int, none: float, full: float) -> None:
    # Rows of 1,024: 4 x (6.979 + 0.525) + 3.5 x 0.268 + 6 x 0.042 = 31.21; computed again comes
    # 2 x 6.979 + 2 x 0.042 + 0.268 on top.
    adapter = LLAMA.adapter_parameters(16)
    assert token_flop(LLAMA, adapter, row, "none") / 1e9 == pytest.approx(none, abs=0.06)
    assert token_flop(LLAMA, adapter, row, "full") / 1e9 == pytest.approx(full, abs=0.06)
    half = token_flop(LLAMA, adapter, row, "selective") / 1e9
    assert half == pytest.approx((none + full) / 2, abs=0.06)


def test_checkpointing_keeps_less() -> None:
    # 32 x 184,456 + 16,900 · 16 x (184,456 + 8,192) + 184,456 + 16,900 · 32 x 8,192 + the same
    assert token_bytes(LLAMA, "none") == 5_919_492
    assert token_bytes(LLAMA, "selective") == 3_283_724
    assert token_bytes(LLAMA, "full") == 463_500


@pytest.mark.parametrize(
    ("gib", "policy"),
    # Weights, adapter and logits 23.4 GiB, and 8192 tokens of activations: 45.2, 25.1 or 3.5 GiB.
    # 92 % of the memory may be used: 73.6, 55.2, 44.2.
    [(80, "none"), (60, "selective"), (48, "full")],
)
def test_the_fastest_policy_that_fits_is_chosen(gib: float, policy: str) -> None:
    made = estimate(LLAMA, config(), WORK, machine(gib))
    assert (made.checkpointing, made.fits) == (policy, True)
    assert made.available_gib == pytest.approx(0.92 * gib)


def test_what_does_not_fit_says_what_to_do_and_has_no_time() -> None:
    made = estimate(LLAMA, config(), WORK, machine(24))
    assert (made.checkpointing, made.fits, made.train_s, made.usd) == (None, False, None, None)
    assert made.reasons == (
        "does not fit: about 26.9 GiB are needed, and 22.1 can be used; try "
        "finetune.quantization: nf4 or a lower finetune.micro_batch_tokens or shorter rows or a "
        "larger GPU",
    )


def test_a_policy_that_is_asked_for_is_not_changed() -> None:
    made = estimate(LLAMA, config("finetune.gradient_checkpointing=none"), WORK, machine(48))
    assert made.fits is False
    assert "finetune.gradient_checkpointing: auto" in made.reasons[0]
    kept = estimate(LLAMA, config("finetune.gradient_checkpointing=full"), WORK, machine(80))
    assert kept.checkpointing == "full"


def test_hours_and_dollars() -> None:
    made = estimate(LLAMA, config(), WORK, machine())
    assert made.train_s is not None
    assert made.usd is not None
    # A token: 4 x 7,504,658,432 + 3.5 x 268,435,456 + 6 x 41,943,040 = 31,209,816,064.
    # 1e7 tokens of them over 1e15 x 0.5 a second, or 0.25 at the high end
    assert float(made.train_s.likely) == pytest.approx(624.19632128)
    assert made.train_s.low == made.train_s.likely
    assert made.train_s.high == 2 * made.train_s.likely
    # $1, $2 and $4 an hour
    assert made.usd.low == made.train_s.low / 3600
    assert made.usd.high == made.train_s.high / 3600 * 4
    assert float(made.usd.likely) == pytest.approx(0.34678, abs=0.00001)
    assert isinstance(made.usd.likely, Decimal)
    assert (made.usd.source, str(made.usd.checked_on)) == ("test", "2026-11-22")


def test_two_gpus_halve_the_time_and_share_no_memory() -> None:
    one = estimate(LLAMA, config(), WORK, machine(80))
    two = estimate(LLAMA, config(), WORK, machine(160, n_gpus=2))
    assert two.available_gib == one.available_gib
    assert one.train_s is not None
    assert two.train_s is not None
    assert two.train_s.likely == one.train_s.likely / 2


def test_4_bits_take_5_percent_longer() -> None:
    plain = estimate(LLAMA, config(), WORK, machine())
    nf4 = estimate(LLAMA, config("finetune.quantization=nf4"), WORK, machine())
    assert plain.train_s is not None
    assert nf4.train_s is not None
    assert float(nf4.train_s.likely / plain.train_s.likely) == pytest.approx(1.05)


def test_nothing_is_invented_for_this_machine() -> None:
    made = estimate(LLAMA, config(), WORK, None)
    assert (made.train_s, made.usd, made.memory_gib, made.fits) == (None, None, {}, None)
    assert made.figures() == {"train_s": None, "peak_memory_gib": None, "usd": None}
    assert len(made.reasons) == 3
    assert any("no earlier run of this preset" in each for each in made.reasons)


def test_an_earlier_run_tells_the_time_here_and_its_price_the_dollars() -> None:
    # 10,000,000 / 5,000; $2 an hour
    made = estimate(LLAMA, config(), WORK, None, tokens_per_s=5000)
    assert made.train_s is not None
    assert made.train_s.likely == 2000
    assert made.usd is None
    priced = estimate(LLAMA, config(), WORK, machine(None, n_gpus=0), tokens_per_s=5000)
    assert priced.usd is not None
    assert float(priced.usd.likely) == pytest.approx(2000 / 3600 * 2)


def test_the_gpu_of_this_machine_is_measured_not_named() -> None:
    made = estimate(LLAMA, config(), WORK, None, gpu_gib=80)
    assert made.checkpointing == "none"
    assert made.usd is None


def test_unknown_sizes_give_a_reason() -> None:
    made = estimate(None, config(), WORK, machine())
    assert made.parameters is None
    assert "no finetune.shape" in made.reasons[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [({"num_experts": 8}, "num_experts: only dense"), ({"hidden_size": 8}, "num_hidden_layers")],
)
def test_other_models_are_refused(content: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ModelShape.from_config(content)


def test_each_speed_in_the_hardware_files_has_a_source() -> None:
    read = [read_yaml(path) for path in sorted((CONFIGS / "hardware").glob("*.yaml"))]
    speeds = [m.training for m in map(Hardware.model_validate, read) if m.training]
    assert len(speeds) == 7
    for speed in speeds:
        assert speed.source
        assert speed.used_share.source
        assert speed.used_share.checked_on
