"""What base and adapter say in-process is what transformers and peft say, and is computed once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pipelines.core.errors import DataError, ServerError
from pipelines.core.records import TrainingRow
from pipelines.training import reference_answers, toy_base
from pipelines.training.chat_rows import IGNORED, encode
from pipelines.training.reference_answers import Job, compute
from tests.conftest import write_jsonl

WORDS = ["refund my parcel", "login with number 0123", "where is it", "cancel the gift card"]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A small untrained base with an adapter that changes a lot, and eight training rows."""
    folder = tmp_path_factory.mktemp("job")
    tokenizer = toy_base.train_tokenizer(WORDS * 3)
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            initializer_range=0.2,
            tie_word_embeddings=True,
        )
    )
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear",
        init_lora_weights=False,
    )  # fmt: skip
    get_peft_model(base, lora).save_pretrained(str(folder / "adapter"), save_embedding_layers=False)
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{text} {k}"},
                {"role": "assistant", "content": "ok"},
            ]
        }
        for k in range(2)
        for text in WORDS
    ]
    return Job(
        base_dir=folder / "base",
        adapter_dir=folder / "adapter",
        rows_path=write_jsonl(folder / "train.jsonl", rows),
        weights=("base", "adapter"),
        instructions="Be kind.",
        chat_template_options={},
        n_prompts=3,
        max_prompt_tokens=100,
        max_new_tokens=6,
        dtype="float32",
    )


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FREEHOLD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_tokens_are_those_of_peft_and_the_base_is_asked_about_the_same_ones(job: Job) -> None:
    base: Any = AutoModelForCausalLM.from_pretrained(job.base_dir)
    model: Any = PeftModel.from_pretrained(base, str(job.adapter_dir)).eval()
    model.generation_config.eos_token_id = AutoTokenizer.from_pretrained(job.base_dir).eos_token_id
    for answer in compute(job):
        prompt = torch.tensor([answer.prompt_ids])
        ids = model.generate(input_ids=prompt, max_new_tokens=6, do_sample=False)
        assert tuple(ids[0, prompt.shape[1] :].tolist()) == answer.token_ids
        for with_adapter in (True, False):
            with torch.no_grad():
                if with_adapter:
                    logits = model(ids).logits
                else:
                    with model.disable_adapter():
                        logits = model(ids).logits
            # Position k tells of token k + 1.
            of_next = logits[0, prompt.shape[1] - 1 : -1].log_softmax(-1)
            wanted = of_next.gather(1, ids[0, prompt.shape[1] :, None])[:, 0].tolist()
            if with_adapter:
                pairs = zip(answer.likeliest, answer.token_ids, strict=True)
                assert [known[token] for known, token in pairs] == pytest.approx(wanted, abs=1e-5)
            else:
                assert answer.base_logprobs == pytest.approx(wanted, abs=1e-5)


def test_the_prompts_are_those_of_training_whatever_the_order_of_the_rows(
    job: Job, tmp_path: Path
) -> None:
    rows = job.rows_path.read_text(encoding="utf-8").splitlines()
    tokenizer = AutoTokenizer.from_pretrained(job.base_dir)
    encoded = encode(
        [TrainingRow.model_validate_json(row) for row in rows],
        tokenizer, instructions=job.instructions, max_tokens=100, template_options={},
    )  # fmt: skip
    trained = {
        tuple(
            i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label == IGNORED
        )
        for row in encoded
    }
    only_prompts = job.model_copy(update={"adapter_dir": None})
    chosen = [answer.prompt_ids for answer in compute(only_prompts)]
    assert len(set(chosen)) == 3
    assert set(chosen) <= trained
    turned = tmp_path / "turned.jsonl"
    turned.write_text("\n".join(rows[::-1]) + "\n", encoding="utf-8")
    again = compute(only_prompts.model_copy(update={"rows_path": turned}))
    assert [answer.prompt_ids for answer in again] == chosen


def test_an_answer_ends_with_the_turn(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compute(job)[0].token_ids
    assert len(whole) == 6
    monkeypatch.setattr(reference_answers, "_ends", lambda *_: {whole[2]})
    assert compute(job)[0].token_ids == whole[: whole.index(whole[2]) + 1]


def test_only_prompts_that_fit_are_asked(job: Job) -> None:
    lengths = sorted(len(a.prompt_ids) for a in compute(job.model_copy(update={"n_prompts": 8})))
    assert len(lengths) == 8
    assert lengths[0] < lengths[-1]
    shorter = job.model_copy(update={"n_prompts": 8, "max_prompt_tokens": lengths[-1] - 1})
    assert max(len(a.prompt_ids) for a in compute(shorter)) < lengths[-1]
    with pytest.raises(DataError, match="none has at most 3 tokens(.|\n)*serve.max_model_len"):
        compute(job.model_copy(update={"max_prompt_tokens": 3}))


def test_another_process_computes_them_once(job: Job, cache: Path) -> None:
    here = reference_answers.compute(job)
    answers = reference_answers.reference_answers(job)
    assert [a.token_ids for a in answers] == [a.token_ids for a in here]
    (path,) = cache.glob("reference-*.json")
    rows = json.loads(path.read_text())
    rows[0]["text"] = "from the cache"
    path.write_text(json.dumps(rows))
    moved = job.model_copy(update={"base_dir": Path("elsewhere")})
    assert reference_answers.reference_answers(moved)[0].text == "from the cache"
    other = job.model_copy(update={"weights": ("base", "another adapter")})
    assert other.digest != job.digest


def test_a_base_that_cannot_be_read_is_said_and_leaves_nothing(
    job: Job, cache: Path, tmp_path: Path
) -> None:
    with pytest.raises(ServerError, match="do not answer in-process(.|\n)*nowhere"):
        reference_answers.reference_answers(
            job.model_copy(update={"base_dir": tmp_path / "nowhere", "adapter_dir": None})
        )
    assert not list(cache.glob("reference-*.json"))
