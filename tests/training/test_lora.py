"""The trainer on a base of a few thousand parameters: real torch, real peft, real checkpoints."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
)

from pipelines.core.config import load_study
from pipelines.core.errors import DataError, UserError
from pipelines.core.paths import ROOT
from pipelines.core.records import Message, TrainingRow
from pipelines.core.study import FinetuneConfig
from pipelines.training import lora, step_trainer, toy_base
from pipelines.training.chat_rows import IGNORED, encode

ROWS = [
    TrainingRow(
        messages=(
            Message(role="user", content=f"{word} number {k}"),
            Message(role="assistant", content=word),
        )
    )
    for k in range(12)
    for word in ("refund", "parcel", "login")
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Llama of 60,000 parameters with the toy's tokenizer and template."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = toy_base.train_tokenizer(["refund parcel login number 0123456789"] * 3)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            num_attention_heads=2,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            initializer_range=0.2,  # at this width the usual 0.02 learns nothing in 24 steps
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def config(**more: Any) -> FinetuneConfig:
    study = load_study(ROOT / "configs" / "quickstart.yaml")
    changes = {"epochs": 4, "batch_size": 6, "checkpoints": 4, "learning_rate": 5e-3, **more}
    return study.finetune.model_copy(update=changes)


def train(base: Path, work: Path, **more: Any) -> tuple[lora.Trained, list[tuple[int, Any]]]:
    logged: list[tuple[int, Any]] = []

    def log(figures: Mapping[str, float], step: int) -> None:
        logged.append((step, dict(figures)))

    work.mkdir(exist_ok=True)
    held_out = more.pop("validation", ())
    return lora.train(base, ROWS, config(**more), "Name it.", work, log, held_out), logged


def test_only_the_answer_and_its_end_carry_loss(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    [row] = encode(ROWS[:1], tokenizer, instructions="Name it.", max_tokens=99, template_options={})
    scored = [
        i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label != IGNORED
    ]
    assert tokenizer.decode(scored) == "refund<|end|>"
    text = tokenizer.decode(row["input_ids"])
    assert (
        text == "<|system|>Name it.<|end|><|user|>refund number 0<|end|><|assistant|>refund<|end|>"
    )


def test_the_prompt_is_what_the_server_will_render(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    [row] = encode(ROWS[:1], tokenizer, instructions="", max_tokens=99, template_options={})
    served = tokenizer.apply_chat_template(
        [{"role": "user", "content": "refund number 0"}], add_generation_prompt=True
    )["input_ids"]
    assert row["input_ids"][: len(served)] == served
    assert set(row["labels"][: len(served)]) == {IGNORED}


def test_rows_that_are_too_long_are_refused_and_counted(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    with pytest.raises(DataError, match=r"36 of 36 training rows are longer than 3 tokens"):
        encode(ROWS, tokenizer, instructions="", max_tokens=3, template_options={})


def test_training_lowers_the_loss_on_adapters_of_all_linear_layers_only(
    base: Path, tmp_path: Path
) -> None:
    trained, logged = train(base, tmp_path)
    losses = [figures["train/loss"] for _, figures in logged]
    assert losses[-1] < 0.7 * losses[0]
    assert all(figures["train/grad_norm"] > 0 for _, figures in logged)
    assert trained.n_steps == math.ceil(36 / 6) * 4
    assert trained.docs_per_step == 6
    assert (trained.base_eval_loss, trained.eval_loss, trained.best_step) == (None, None, None)
    assert [step for step, _ in logged] == sorted(step for step, _ in logged)
    assert set(logged[0][1]) == {
        "train/loss",
        "train/learning_rate",
        "train/grad_norm",
        "train/tokens_per_s",
        "train/peak_memory_gib",
    }
    weights = load_file(trained.adapter_dir / "adapter_model.safetensors")
    modules = {name.split(".")[-3] for name in weights}
    assert modules == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    names = sorted(path.name for path in trained.adapter_dir.iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors"]
    settings = json.loads((trained.adapter_dir / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "tiny"
    assert str(base) not in json.dumps(settings)
    # Nor the pickles that a checkpoint holds: nothing else leaves the work folder.
    assert list(tmp_path.glob("checkpoints/*/training_args.bin"))
    assert trained.tokens_per_s > 0
    assert trained.peak_memory_gib > 0


def test_the_first_loss_and_speed_are_those_of_real_tokens(base: Path, tmp_path: Path) -> None:
    """One step over all rows: its loss is the mean over all their scored tokens."""
    trained, [(step, figures)] = train(base, tmp_path, batch_size=36, epochs=1)
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    data = encode(ROWS, tokenizer, instructions="Name it.", max_tokens=99, template_options={})
    model = LlamaForCausalLM.from_pretrained(base)
    total = 0.0
    for row in data:
        logits = model(torch.tensor([row["input_ids"]])).logits[0]
        labels = torch.tensor(row["labels"])
        total += float(cross_entropy(logits[:-1], labels[1:], reduction="sum").detach())
    scored = sum(label != IGNORED for row in data for label in row["labels"])
    assert step == 1
    assert trained.n_scored_tokens == scored
    assert figures["train/loss"] == pytest.approx(total / scored, rel=1e-6)
    n_tokens = sum(len(row["input_ids"]) for row in data)
    assert trained.tokens_per_s * trained.train_s == pytest.approx(n_tokens)


def test_a_batch_in_several_packs_trains_the_same(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []

    class Noting(step_trainer.save_on_cpu):
        def __init__(self, pin_memory: bool) -> None:
            super().__init__(pin_memory=pin_memory)
            pack = self.pack_hook
            self.pack_hook = lambda tensor: kept.append(tensor.shape[-1]) or pack(tensor)

    monkeypatch.setattr(step_trainer, "save_on_cpu", Noting)
    whole, _ = train(base, tmp_path / "a", epochs=1)
    assert kept == []
    for name, more in {
        "tokens": {"micro_batch_tokens": 40, "gradient_checkpointing": "offload"},
        "single": {"packing": False, "gradient_checkpointing": "selective"},
    }.items():
        other, _ = train(base, tmp_path / name, epochs=1, **more)
        found, expected = (
            load_file(each.adapter_dir / "adapter_model.safetensors") for each in (other, whole)
        )
        for key, weight in expected.items():
            torch.testing.assert_close(found[key], weight, rtol=1e-3, atol=1e-5)
    # Of both layers their inputs (32 wide), of none what its MLP holds (64).
    assert kept.count(32) >= 2
    assert 64 not in kept


HELD_OUT = [
    row.model_copy(update={"messages": (row.messages[0], ROWS[0].messages[1])}) for row in ROWS[1:3]
]
"""The wrong answers: what is learned makes this loss rise."""


def test_the_adapter_with_the_lowest_validation_loss_is_kept(base: Path, tmp_path: Path) -> None:
    trained, logged = train(base, tmp_path, validation=HELD_OUT, checkpoints=8)
    losses = {step: figures["eval/loss"] for step, figures in logged if "eval/loss" in figures}
    assert list(losses) == [0, 3, 6, 9, 12, 15, 18, 21, 24]
    assert trained.base_eval_loss == losses[0]
    del losses[0]
    assert trained.best_step == min(losses, key=losses.__getitem__) < 24
    assert trained.best_step is not None
    assert trained.eval_loss == losses[trained.best_step]
    kept, best, last = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (
            trained.adapter_dir,
            tmp_path / "checkpoints" / f"checkpoint-{trained.best_step}",
            tmp_path / "checkpoints" / "checkpoint-24",
        )
    )
    assert all(torch.equal(kept[name], best[name]) for name in best)
    assert not all(torch.equal(kept[name], last[name]) for name in last)


def test_training_ends_when_patience_does(base: Path, tmp_path: Path) -> None:
    trained, logged = train(base, tmp_path, validation=HELD_OUT, checkpoints=8, patience=1)
    losses = {step: figures["eval/loss"] for step, figures in logged if "eval/loss" in figures}
    assert trained.best_step is not None
    assert trained.n_steps == trained.best_step + 3 < 24
    assert max(losses) == trained.n_steps


def test_the_same_seed_gives_the_same_adapter(base: Path, tmp_path: Path) -> None:
    first, _ = train(base, tmp_path / "a")
    second, _ = train(base, tmp_path / "b")
    other, _ = train(base, tmp_path / "c", seed=1)
    assert first.adapter_sha256 == second.adapter_sha256
    assert first.adapter_sha256 != other.adapter_sha256


CHILD = """
import sys, os, signal
from pathlib import Path
from tests.training.test_lora import HELD_OUT, ROWS, config
from pipelines.training import lora
work = Path(sys.argv[2])
def log(figures, step):
    if step >= 14 and len(sys.argv) > 3:
        os.kill(os.getpid(), signal.SIGKILL)
lora.train(Path(sys.argv[1]), ROWS, config(), "Name it.", work, log, HELD_OUT)
"""


def child(*args: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD, *args],
        capture_output=True, text=True, cwd=ROOT, check=False, timeout=300, **more,
    )  # fmt: skip


def test_a_kill_9_and_a_second_start_give_the_adapter_of_an_unbroken_run(
    base: Path, tmp_path: Path
) -> None:
    unbroken, whole = train(base, tmp_path / "unbroken", validation=HELD_OUT)
    work = tmp_path / "killed"
    work.mkdir()
    killed = child(str(base), str(work), "kill")
    assert killed.returncode == -signal.SIGKILL
    checkpoints = sorted(path.name for path in (work / "checkpoints").glob("checkpoint-*"))
    assert checkpoints, "the kill came before the first checkpoint"
    # A checkpoint that the kill cut off in the middle is passed over.
    torn = work / "checkpoints" / "checkpoint-99"
    shutil.copytree(work / "checkpoints" / checkpoints[-1], torn)
    (torn / "trainer_state.json").write_text('{"global_st')
    resumed, logged = train(base, work, validation=HELD_OUT)
    assert logged[0][0] > 6, "training started again from the beginning"
    losses = {step: figures.get("train/loss") for step, figures in whole if "train/loss" in figures}
    assert all(
        figures["train/loss"] == losses[step] for step, figures in logged if "train/loss" in figures
    )
    assert resumed.adapter_sha256 == unbroken.adapter_sha256
    assert (resumed.base_eval_loss, resumed.best_step) == (
        unbroken.base_eval_loss,
        unbroken.best_step,
    )
    assert not torn.exists()


def test_a_full_disk_is_one_clear_error_and_leaves_no_half_adapter(
    base: Path, tmp_path: Path
) -> None:
    import resource

    def limit() -> None:
        # The kernel refuses to let any file grow beyond this, as a full disk would.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    work = tmp_path / "full"
    work.mkdir()
    done = child(str(base), str(work), preexec_fn=limit)
    assert done.returncode != 0
    assert "UserError: the disk is full: cannot write to" in done.stderr
    assert "make room and run the same command again" in done.stderr
    assert not (work / "adapter").exists()
    assert not (work / "adapter.partial").exists()


def test_a_diverging_run_says_what_to_change(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"diverged(.|\n)*finetune\.learning_rate"):
        train(base, tmp_path, learning_rate=1e30)


def test_the_toy_is_deterministic_and_honest_about_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy_base, "EPOCHS", 1)
    few = toy_base.conversations()[:64]
    monkeypatch.setattr(toy_base, "conversations", lambda: few)
    for name in ("a", "b"):
        toy_base.build(tmp_path / name)
    first, second = (lora.file_sha256(tmp_path / n / "model.safetensors") for n in ("a", "b"))
    assert first == second
    assert "This is not a language model to use" in (tmp_path / "a" / "README.md").read_text()
    assert not list(tmp_path.glob(".*")), "a half-written folder was left behind"


def test_the_toy_reads_no_label_and_no_eval_item() -> None:
    text = toy_base.conversations()
    assert not any('"intent"' in part for turn in text for part in turn)
    lines = (ROOT / "eval_sets/support/eval.jsonl").read_text(encoding="utf-8").splitlines()
    items = {json.loads(line)["messages"][0]["content"] for line in lines}
    assert items.isdisjoint({message for message, _ in text})


def test_no_library_is_asked_to_run_remote_code_or_unpickle() -> None:
    source = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "pipelines").rglob("*.py")
    )
    assert not re.search(r"trust_remote_code\s*=", source)
    assert "pickle" not in source.replace("no pickle", "")
    assert "torch.load" not in source


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_qlora_trains_on_a_quantised_base(base: Path, tmp_path: Path, quantization: str) -> None:
    trained, logged = train(base, tmp_path, quantization=quantization, epochs=8)
    losses = [figures["train/loss"] for _, figures in logged]
    assert losses[-1] < 0.7 * losses[0]
    assert logged[0][1]["train/grad_norm"] > 0
    settings = json.loads((trained.adapter_dir / "adapter_config.json").read_text())
    modules = {name.split(".")[-1] for name in settings["target_modules"]}
    assert modules == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_dropout_and_dora_train_with_pefts_layers_and_say_so(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora_config = config().lora.model_copy(update={"dropout": 0.05, "dora": True})
    trained, logged = train(base, tmp_path, lora=lora_config, epochs=1)
    assert logged[-1][1]["train/grad_norm"] > 0
    said = capsys.readouterr().err
    assert "vLLM" not in said  # preflight says so, once
    assert "take peft's own layers, which are slower" in said
    names = load_file(trained.adapter_dir / "adapter_model.safetensors")
    assert any("lora_magnitude_vector" in name for name in names)


def test_an_architecture_that_reads_no_packs_trains_row_by_row_and_says_so(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "olmo"
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(0)
    OlmoForCausalLM(
        OlmoConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, initializer_range=0.2,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    ).save_pretrained(other)  # fmt: skip
    tokenizer.save_pretrained(other)
    _, logged = train(other, tmp_path / "work", epochs=2)
    said = capsys.readouterr().err
    assert "one row per forward pass, which is slower: OlmoForCausalLM is none of" in said
    assert logged[-1][1]["train/loss"] < 0.9 * logged[0][1]["train/loss"]
