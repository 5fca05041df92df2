"""The presets in configs/training/: complete, pinned, and what `auto` makes of them."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import pytest

from pipelines.core.command import Options
from pipelines.core.config import CONFIGS, load_study
from pipelines.core.errors import ConfigError
from pipelines.core.hardware import Figure
from pipelines.core.paths import ROOT
from pipelines.core.results import FinetuneResult, Plan, PlannedStage, TrainingEstimate
from pipelines.core.study import VLLM_MAX_RANKS, FinetuneConfig, LoraConfig
from pipelines.finetune import finetune, show
from pipelines.training.chat_rows import MARK, template
from pipelines.training.preflight import check_adapter
from pipelines.training.toy_base import config_of, train_tokenizer

PRESETS = sorted(path.stem for path in (CONFIGS / "training").glob("*.yaml"))
BILLIONS = {"llama-3.1-8b": 8.03, "mistral-7b": 7.25, "qwen3-8b": 8.19}
"""Parameters as the makers state them."""


def preset(name: str, *more: str) -> FinetuneConfig:
    settings = [f"finetune.preset={name}", *more]
    return load_study(ROOT / "configs" / "quickstart.yaml", settings).finetune


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_can_be_served_and_keeps_batches_small(name: str) -> None:
    config = preset(name)
    check_adapter(config.lora)
    assert config.lora.targets == "all-linear"
    assert config.batch_size <= 32
    assert config.shape is not None
    assert config.max_tokens_per_row <= config.shape.max_positions
    if config.chat_template is not None:
        assert MARK.search(template(config.chat_template))


@pytest.mark.parametrize("name", sorted(BILLIONS))
def test_downloaded_bases_are_pinned_and_have_their_size(name: str) -> None:
    config = preset(name)
    assert config.base.revision is not None
    assert re.fullmatch("[0-9a-f]{40}", config.base.revision)
    assert config.shape is not None
    assert config.shape.parameters / 1e9 == pytest.approx(BILLIONS[name], abs=0.005)
    assert config.lora.auto
    assert config.learning_rate == 2e-4


def test_each_setting_of_a_preset_has_a_reason() -> None:
    plain = re.compile(r"^(base|shape|lora|chat_template_options):")
    for path in (CONFIGS / "training").glob("*.yaml"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#") and not plain.match(line):
                assert "  # " in line, f"{path.name}: {line}"


def test_the_toys_shape_is_what_is_built() -> None:
    built = config_of(train_tokenizer(["refund parcel"])).to_dict()
    shape = preset("tiny").shape
    assert shape is not None
    assert shape == type(shape).from_config(built)


@pytest.mark.parametrize(
    ("scored", "rank", "rslora"),
    [
        (1, 16, False),
        (1_999_999, 16, False),
        (2_000_000, 32, False),
        (19_999_999, 32, False),
        (20_000_000, 128, True),
        (10**12, 128, True),
    ],
)
def test_the_rank_grows_with_what_is_learned(scored: int, rank: int, rslora: bool) -> None:
    lora = preset("llama-3.1-8b").lora.for_tokens(scored)
    assert (lora.rank, lora.rslora, lora.auto) == (rank, rslora, False)
    assert lora.rank in VLLM_MAX_RANKS


def test_a_rank_that_is_given_is_kept_also_over_a_preset_that_leaves_it_open() -> None:
    lora = preset("llama-3.1-8b", "finetune.lora.rank=8").lora
    assert lora.for_tokens(10**9) == lora
    assert (lora.rank, lora.auto) == (8, False)


def test_an_open_rank_survives_json() -> None:
    lora = preset("llama-3.1-8b").lora
    again = LoraConfig.model_validate_json(lora.model_dump_json())
    assert again == lora
    assert again.for_tokens(5).rank == 16


STUDY = ROOT / "configs" / "quickstart.yaml"


def planned(uri: str, *more: str) -> PlannedStage:
    plan = finetune(load_study(STUDY, more), Options(STUDY, uri, dry_run=True, json=False))
    assert isinstance(plan, Plan)
    return plan.stages[-1]


def test_a_dry_run_shows_memory_hours_and_dollars(store_uri: str) -> None:
    line = planned(store_uri, "finetune.preset=llama-3.1-8b", "finetune.epochs=2000")
    made = line.estimate
    assert made is not None
    assert made.train_s is not None
    assert made.usd is not None
    assert (made.rank, made.checkpointing, made.fits) == (16, "none", True)
    assert (line.usd, line.usd_low, line.usd_high) == (made.usd.likely, made.usd.low, made.usd.high)
    assert line.hours == pytest.approx(float(made.train_s.likely) / 3600)
    # The price of the file, times the hours.
    assert made.usd.likely == made.train_s.likely / 3600 * Decimal("2.95")
    assert "LoRA rank 16 on llama-3.1-8b; estimate for h100: " in line.note
    assert " of 73.6 GiB (weights 15.0, adapter and optimiser 0.6, activations " in line.note
    assert "(0.00 to 0.00" not in line.note
    assert "prices of 2026-11-20)" in line.note


def test_a_search_is_as_many_trainings(store_uri: str) -> None:
    one = planned(store_uri, "finetune.preset=llama-3.1-8b").estimate
    # Two rates, three seeds, 1 + 3 epochs instead of 2.
    search = "finetune.search={learning_rate: [1e-4, 2e-4], epochs: [1, 3], seeds: 3}"
    many = planned(store_uri, "finetune.preset=llama-3.1-8b", search).estimate
    assert one is not None
    assert many is not None
    assert many.n_tokens == one.n_tokens * 2 * 3 * 2
    assert many.memory_gib == one.memory_gib


def test_a_dry_run_on_this_machine_invents_nothing(store_uri: str) -> None:
    line = planned(store_uri)
    assert (line.usd, line.hours) == (None, None)
    assert "no earlier run of this preset on this machine was measured" in line.note


def test_unknown_hardware_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    study = load_study(STUDY, ["finetune.hardware=h101"])
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"finetune\.hardware: h101: .*h100\.yaml"):
        finetune(study, Options(STUDY, nowhere, dry_run=True, json=False))


def test_the_estimate_stands_beside_what_was_measured() -> None:
    made = TrainingEstimate(
        hardware="h100",
        rank=16,
        n_tokens=1,
        memory_gib={"weights": 15.0, "activations": 5.25},
        train_s=Figure.of(100),
    )
    result = FinetuneResult(
        run_id="r", base_name="b", base_sha256="", base_is_toy=False, adapter_sha256="",
        instructions="", n_rows=1, n_scored_tokens=1, n_steps=1, final_loss=1.0,
        tokens_per_s=10.0, train_s=120.0, peak_memory_gib=22.5, estimate=made,
    )  # fmt: skip
    assert show(result).endswith(
        "peak memory 22.5 GiB. Estimated before: 100 s (100 to 100), 20.2 GiB."
    )
    assert made.figures() == {"train_s": 100.0, "peak_memory_gib": 20.25, "usd": None}
