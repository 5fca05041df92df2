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
    n_machines,
    settled,
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


def processes(n: int, *more: str) -> FinetuneConfig:
    return config("finetune.launcher=torchrun", f"finetune.n_processes={n}", *more)


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
    assert token_bytes(LLAMA, "offload") == 217_740  # 184,456 + 16,900 + 2 x 8,192


@pytest.mark.parametrize(
    ("gib", "policy"),
    # Weights, adapter and logits 23.4 GiB, and 8192 tokens of activations: 45.2, 25.1, 3.5 or 1.7
    # GiB. 92 % of the memory may be used: 73.6, 55.2, 44.2, 25.8.
    [(80, "none"), (60, "selective"), (48, "full"), (28, "offload")],
)
def test_the_fastest_policy_that_fits_is_chosen(gib: float, policy: str) -> None:
    made = estimate(LLAMA, config(), WORK, machine(gib))
    assert (made.checkpointing, made.fits) == (policy, True)
    assert made.available_gib == pytest.approx(0.92 * gib)


def test_what_does_not_fit_says_what_to_do_and_has_no_time() -> None:
    made = estimate(LLAMA, config(), WORK, machine(24))
    assert (made.checkpointing, made.fits, made.train_s, made.usd) == (None, False, None, None)
    assert made.reasons == (
        "does not fit: about 25.1 GiB are needed, and 22.1 can be used; try "
        "finetune.quantization: nf4 or several finetune.n_processes that share the base "
        "(finetune.sharding) or a lower finetune.micro_batch_tokens or shorter rows or a larger "
        "GPU",
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
    two = estimate(LLAMA, processes(2), WORK, machine(160, n_gpus=2))
    assert two.available_gib == one.available_gib
    assert two.memory_gib == one.memory_gib
    assert one.train_s is not None
    assert two.train_s is not None
    assert two.train_s.likely == one.train_s.likely / 2


@pytest.mark.parametrize(
    ("n_processes", "n_gpus", "seconds", "usd"),
    # One GPU takes 624.196 s, and a machine costs $2 an hour whatever it holds.
    [
        (1, 1, 624.196, 0.34678),
        (2, 1, 312.098, 0.34678),  # 2 machines x 312.098 / 3600 x 2
        (2, 2, 312.098, 0.17339),  # 1 x 312.098 / 3600 x 2
        (1, 2, 624.196, 0.34678),  # the second GPU idles and is paid
        (3, 2, 208.065, 0.23118),  # 2 x 208.065 / 3600 x 2
    ],
)
def test_each_machine_is_paid_for_all_hours(
    n_processes: int, n_gpus: int, seconds: float, usd: float
) -> None:
    hardware = machine(80 * n_gpus, n_gpus=n_gpus)
    made = estimate(LLAMA, processes(n_processes), WORK, hardware)
    assert made.train_s is not None
    assert made.usd is not None
    assert float(made.train_s.likely) == pytest.approx(seconds, abs=0.001)
    assert float(made.usd.likely) == pytest.approx(usd, abs=0.00001)
    # $1 for the same time, $4 for twice as long
    assert float(made.usd.low) == pytest.approx(float(made.usd.likely) / 2)
    assert float(made.usd.high) == pytest.approx(float(made.usd.likely) * 4)


def test_a_measured_rate_is_that_of_all_processes() -> None:
    # 10,000,000 / 5,000 = 2,000 s, on two machines at $2 an hour
    made = estimate(LLAMA, processes(2), WORK, machine(80), tokens_per_s=5000)
    assert made.train_s is not None
    assert made.usd is not None
    assert made.train_s.likely == 2000
    assert float(made.usd.likely) == pytest.approx(2 * 2000 / 3600 * 2)


def test_processes_without_gpus_share_a_machine() -> None:
    assert [n_machines(n, 0) for n in (1, 2, 16)] == [1, 1, 1]
    assert [n_machines(n, 8) for n in (1, 8, 9, 16, 17)] == [1, 1, 2, 2, 3]


def test_a_shard_of_the_weights() -> None:
    # Half of 8,030,261,248 x 2; whole are embeddings, head and norms, 1,050,939,392 x 2, and three
    # blocks of 6,979,321,856 / 32 x 2.
    half = memory_gib(LLAMA, 41_943_040, "none", WORK, "none", 2)
    assert half["sharded weights"] * 2**30 == 8_030_261_248 + 2_101_878_784 + 1_308_622_848
    whole = memory_gib(LLAMA, 41_943_040, "none", WORK, "none")
    assert whole["weights"] * 2**30 == 8_030_261_248 * 2
    same = ("adapter and optimiser", "activations", "logits")
    assert [half[part] for part in same] == [whole[part] for part in same]


def test_the_base_is_sharded_where_one_gpu_does_not_hold_it() -> None:
    # Of 28 GiB 25.8 can be used. Everything computed again, the whole base needs
    # 14.958 + 0.625 + 7.828 + 3.536 = 26.9, and half of it 10.655 + 11.989 = 22.6.
    one, two = config(), processes(2)
    assert settled(LLAMA, one, WORK, machine(28)).sharding == "none"
    assert settled(LLAMA, two, WORK, machine(28)).sharding == "fsdp2"
    assert settled(LLAMA, two, WORK, None, gpu_gib=28).sharding == "fsdp2"
    assert settled(LLAMA, two, WORK, machine(30)).sharding == "none"
    made = estimate(LLAMA, two, WORK, machine(28))
    assert (made.fits, made.checkpointing) == (True, "full")
    assert made.total_gib == pytest.approx(22.64, abs=0.01)


@pytest.mark.parametrize(
    "more",
    ["finetune.quantization=nf4", "finetune.lora.dora=true", "finetune.sharding=none"],
)
def test_a_base_that_cannot_or_shall_not_be_sharded_stays_whole(more: str) -> None:
    assert settled(LLAMA, processes(2, more), WORK, machine(4)).sharding == "none"


def test_without_a_gpu_or_sizes_nothing_is_sharded_unless_it_is_asked_for() -> None:
    assert settled(LLAMA, processes(2), WORK, None).sharding == "none"
    assert settled(None, processes(2), WORK, machine(4)).sharding == "none"
    assert settled(LLAMA, processes(2, "finetune.sharding=fsdp2"), WORK, None).sharding == "fsdp2"


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
