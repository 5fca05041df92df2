"""What is refused before a model is loaded; the folder of the base holds no weights at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.config import load_study
from pipelines.core.errors import ConfigError, DataError
from pipelines.core.paths import ROOT
from pipelines.core.records import Message, TrainingRow
from pipelines.core.study import FinetuneConfig
from pipelines.training import toy_base
from pipelines.training.preflight import check_scored, marked, preflight

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


def base(folder: Path, chat_template: str | None = toy_base.CHAT_TEMPLATE, **more: Any) -> Path:
    words = ["refund", "parcel", "login", "number 0123456789"]
    tokenizer = toy_base.train_tokenizer(words * 3)
    tokenizer.chat_template = chat_template
    for key, value in more.items():
        setattr(tokenizer, key, value)
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(
        json.dumps({"max_position_embeddings": 600, "model_type": "llama"})
    )
    return folder


def config(*more: str) -> FinetuneConfig:
    return load_study(ROOT / "configs" / "quickstart.yaml", more).finetune


def test_tokens_are_counted_and_three_rows_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = base(tmp_path)
    seen = preflight(folder, ROWS, config(), "Name it.")
    assert (seen.n_rows, seen.n_sequences) == (36, 36)
    # The words are one token each, and so is the end: 36 x 2.
    assert seen.n_scored_tokens == 72
    assert seen.scored_share == 72 / seen.n_tokens
    # Two-digit numbers make six of the rows longer than the others.
    assert seen.longest * 36 > seen.n_tokens
    assert seen.p99_5 == seen.longest
    assert seen.template_sha256 == hashlib.sha256(toy_base.CHAT_TEMPLATE.encode()).hexdigest()
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "finetune: learned is what stands in ⟦⟧: <|system|>Name it.<|end|><|user|>refund number 0"
        "<|end|><|assistant|>⟦refund<|end|>⟧",
        "finetune: learned is what stands in ⟦⟧: <|system|>Name it.<|end|><|user|>refund number 6"
        "<|end|><|assistant|>⟦refund<|end|>⟧",
        "finetune: learned is what stands in ⟦⟧: <|system|>Name it.<|end|><|user|>login number 11"
        "<|end|><|assistant|>⟦login<|end|>⟧",
    ]


def test_the_digest_is_of_the_tokenizers_files(tmp_path: Path) -> None:
    folder = base(tmp_path / "a")
    first = preflight(folder, ROWS, config(), "")
    assert preflight(folder, ROWS[:3], config(), "").tokenizer_sha256 == first.tokenizer_sha256
    path = folder / "tokenizer_config.json"
    path.write_text(path.read_text().replace("2048", "1024"))
    assert preflight(folder, ROWS, config(), "").tokenizer_sha256 != first.tokenizer_sha256


def test_a_row_cannot_move_the_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "\x1b[2J" + "x" * 300
    evil = TrainingRow(
        messages=(Message(role="user", content=text), Message(role="assistant", content="ok"))
    )
    preflight(base(tmp_path), [evil], config("finetune.max_tokens_per_row=600"), "")
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "\\x1b[2Jxxx" in said
    assert " ... xxx" in said
    assert len(said) < 300


def test_long_rows_are_refused_before_the_base_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"36 of 36 training rows are longer than 3 tokens"):
        preflight(base(tmp_path), ROWS, config("finetune.max_tokens_per_row=3"), "")


def test_rows_may_not_be_longer_than_the_base_reads(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"max_tokens_per_row: 601, .* no more than 600 tokens"):
        preflight(base(tmp_path), ROWS, config("finetune.max_tokens_per_row=601"), "")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("finetune.lora.init=pissa", "lora.init: pissa changes the base's weights"),
        ("finetune.lora.targets=[q_proj, lm_head]", "lora.targets: lm_head: vLLM serves"),
    ],
)
def test_adapters_that_vllm_refuses_are_refused(tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        preflight(base(tmp_path), ROWS, config(setting), "")


def test_a_rank_of_a_search_is_checked_too(tmp_path: Path) -> None:
    asked = config()
    wrong = asked.model_copy(update={"lora": asked.lora.model_copy(update={"rank": 12})})
    with pytest.raises(ConfigError, match="rank: 12: vLLM serves only"):
        preflight(base(tmp_path), ROWS, wrong, "")


def test_dora_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preflight(base(tmp_path), ROWS, config("finetune.lora.dora=true"), "")
    assert "lora.dora: vLLM serves such an adapter merged only" in capsys.readouterr().err


def test_a_base_without_chat_template_or_end_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no chat template"):
        preflight(base(tmp_path / "a", None), ROWS, config(), "")
    with pytest.raises(DataError, match="no end token"):
        preflight(base(tmp_path / "b", eos_token=None), ROWS, config(), "")


def test_an_end_token_that_ends_no_turn_is_refused(tmp_path: Path) -> None:
    folder = base(tmp_path, eos_token="<|pad|>")
    with pytest.raises(DataError, match=r"ends an answer with '<\|end\|>', .* '<\|pad\|>'"):
        preflight(folder, ROWS, config(), "")


def test_a_template_that_prints_another_text_than_the_servers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"template: mistral-v3 prints '\[INST\] .*' where the base's own .* prints '<\|us",
    ):
        preflight(base(tmp_path), ROWS, config("finetune.chat_template=mistral-v3"), "")


def test_todays_date_in_a_template_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dated = "{{ strftime_now('%Y') }}" + toy_base.CHAT_TEMPLATE
    preflight(base(tmp_path, dated), ROWS, config(), "")
    assert "prints today's date" in capsys.readouterr().err


def tokens(*labels: int) -> dict[str, list[int]]:
    return {"input_ids": [abs(label) for label in labels], "labels": list(labels)}


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([tokens(-100, 9), tokens(-100, -100)], "1 of 2 training sequences have no token to learn"),
        ([tokens(-100, 9), tokens(5, 9)], "1 of 2 training sequences would be learned whole"),
        ([tokens(-100, 5)], "in 1 of 1 training sequences the end of the last answer"),
    ],
)
def test_masks_that_teach_nothing_or_too_much_are_refused(
    sequences: list[dict[str, list[int]]], message: str
) -> None:
    check_scored([tokens(-100, 5, 9)], 9)
    with pytest.raises(DataError, match=message):
        check_scored(sequences, 9)


def test_an_all_ones_mask_of_a_real_template_is_refused(tmp_path: Path) -> None:
    empty = "{% for m in messages %}{% if m.role == 'x' %}{% endif %}{% endfor %}"
    with pytest.raises(DataError, match="36 of 36 training sequences would be learned whole"):
        preflight(base(tmp_path, empty), ROWS, config(), "")


def test_each_run_is_marked(tmp_path: Path) -> None:
    tokenizer = toy_base.train_tokenizer(["refund parcel login number 0123456789"] * 3)
    ids = tokenizer("refund parcel login")["input_ids"]
    assert len(ids) == 3
    made = {"input_ids": ids, "labels": [ids[0], -100, ids[2]]}
    assert marked(made, tokenizer) == "⟦refund⟧ parcel⟦ login⟧"
