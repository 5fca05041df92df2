"""The served model is the trained one, or the difference is found: real vLLM and scripted."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from pipelines.core.errors import ServerError
from pipelines.core.records import Message
from pipelines.core.results import ReferenceAnswer
from pipelines.core.study import ParityConfig, ServeConfig
from pipelines.serving.parity import Comparison, compare
from pipelines.serving.vllm_server import BASE, TUNED, vllm_server
from pipelines.training import toy_base
from pipelines.training.reference_answers import Job, compute
from tests.conftest import write_jsonl
from tests.serving.scripted_vllm import answering, scripted

TEXTS = ["refund my parcel", "login with number 0123", "where is it", "cancel the gift card"]
CONFIG = ParityConfig(max_new_tokens=8)
RANK = 8


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """An untrained base that vLLM serves, with an adapter that changes what it says."""
    folder = tmp_path_factory.mktemp("parity")
    tokenizer = toy_base.train_tokenizer(TEXTS * 3)
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=2,
            head_dim=64,
            max_position_embeddings=512,
            initializer_range=0.1,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            dtype="float32",
        )
    )
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    for name, starts_at_zero in (("none", True), ("adapter", False)):
        model: Any = AutoModelForCausalLM.from_pretrained(folder / "base")
        lora = LoraConfig(
            task_type="CAUSAL_LM", r=RANK, lora_alpha=16, target_modules="all-linear",
            init_lora_weights=starts_at_zero,
        )  # fmt: skip
        get_peft_model(model, lora).save_pretrained(str(folder / name), save_embedding_layers=False)
    rows = [
        {"messages": [{"role": "user", "content": x}, {"role": "assistant", "content": "ok"}]}
        for x in TEXTS
    ]
    return Job(
        base_dir=folder / "base",
        adapter_dir=folder / "adapter",
        rows_path=write_jsonl(folder / "train.jsonl", rows),
        weights=(),
        instructions="",
        chat_template_options={},
        n_prompts=CONFIG.n_prompts,
        max_prompt_tokens=100,
        max_new_tokens=CONFIG.max_new_tokens,
        dtype="float32",
    )


@pytest.fixture(scope="module")
def reference(job: Job) -> tuple[ReferenceAnswer, ...]:
    return compute(job)


@pytest.fixture(scope="module")
def vllm(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """One server for the file: the base as `base`, base and adapter as `tuned`."""
    log = tmp_path_factory.mktemp("log") / "vllm.log"
    config = ServeConfig(max_model_len=128)
    with vllm_server(job.base_dir, job.adapter_dir, RANK, {}, config, log) as url:
        yield url


def in_fp32(url: str, model: str, reference: Sequence[ReferenceAnswer]) -> Comparison:
    return compare(url, model, reference, CONFIG, fp32=True, strict=True)


def test_an_honest_adapter_passes(vllm: str, reference: tuple[ReferenceAnswer, ...]) -> None:
    found = in_fp32(vllm, TUNED, reference)
    assert found.failure is None
    assert (found.n_prompts, found.n_tokens) == (4, sum(len(a.token_ids) for a in reference))
    assert (found.agreement, found.n_ties, found.adapter_seen) == (1.0, 0, True)
    assert found.shift_nats is not None
    assert found.effect_nats is not None
    assert found.shift_nats < 1e-4
    assert found.effect_nats > 1


def test_a_base_under_the_tuned_name_is_caught(
    vllm: str, reference: tuple[ReferenceAnswer, ...]
) -> None:
    found = in_fp32(vllm, BASE, reference)
    assert found.adapter_seen is False
    assert found.failure is not None
    assert "the adapter is not in it" in found.failure
    assert "in-process:" in found.failure


def test_another_chat_template_is_caught(vllm: str, job: Job, tmp_path: Path) -> None:
    changed = tmp_path / "base"
    shutil.copytree(job.base_dir, changed)
    template = changed / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|assistant|>", "<|user|>"))
    found = in_fp32(vllm, TUNED, compute(job.model_copy(update={"base_dir": changed})))
    assert found.failure is not None
    assert "the server renders a prompt" in found.failure
    assert "chat template" in found.failure
    prompts = compute(job.model_copy(update={"base_dir": changed, "adapter_dir": None}))
    assert in_fp32(vllm, BASE, prompts).failure == found.failure


def test_without_an_adapter_only_the_prompts_are_compared(vllm: str, job: Job) -> None:
    prompts = compute(job.model_copy(update={"adapter_dir": None}))
    assert in_fp32(vllm, BASE, prompts) == Comparison(n_prompts=4, n_tokens=0)


def test_an_adapter_that_does_nothing_passes_and_is_said_to_be_untold(vllm: str, job: Job) -> None:
    assert job.adapter_dir is not None
    nothing = compute(job.model_copy(update={"adapter_dir": job.adapter_dir.with_name("none")}))
    found = in_fp32(vllm, BASE, nothing)
    assert found.failure is None
    assert (found.agreement, found.adapter_seen) == (1.0, None)


def in_4_bits(job: Job, to: Path) -> Path:
    """The adapter merged into a base in nf4, the sum in nf4 again, and all of it written out."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    def rounded(weight: torch.Tensor) -> torch.Tensor:
        return dequantize_4bit(*quantize_4bit(weight, quant_type="nf4"))

    base: Any = AutoModelForCausalLM.from_pretrained(job.base_dir)
    names = [name for name, module in base.named_modules() if type(module) is torch.nn.Linear]
    names.remove("lm_head")
    for name in names:
        weight = base.get_submodule(name).weight
        weight.data = rounded(weight.data)
    model: Any = PeftModel.from_pretrained(base, str(job.adapter_dir)).merge_and_unload()
    for name in names:
        weight = model.get_submodule(name).weight
        weight.data = rounded(weight.data)
    shutil.copytree(job.base_dir, to)
    model.save_pretrained(to)
    return to


def test_a_merge_in_4_bits_is_caught(
    job: Job, reference: tuple[ReferenceAnswer, ...], tmp_path: Path
) -> None:
    """The server says what such a merge computes in-process; the slow test lets vLLM say it."""
    wrong = in_4_bits(job, tmp_path / "wrong")
    assert job.adapter_dir is not None
    nothing = job.adapter_dir.with_name("none")
    said = compute(job.model_copy(update={"base_dir": wrong, "adapter_dir": nothing}))
    for fp32 in (True, False):
        with scripted(said) as url:
            found = compare(url, TUNED, reference, CONFIG, fp32=fp32, strict=True)
        assert found.failure is not None
        assert "not in 4 bits" in found.failure


@pytest.mark.slow
def test_vllm_with_a_merge_in_4_bits_is_caught(
    job: Job, reference: tuple[ReferenceAnswer, ...], tmp_path: Path
) -> None:
    config = ServeConfig(max_model_len=128)
    folder = in_4_bits(job, tmp_path / "wrong")
    with vllm_server(folder, None, RANK, {}, config, tmp_path / "log", name=TUNED) as url:
        found = in_fp32(url, TUNED, reference)
    assert found.failure is not None
    assert "not in 4 bits" in found.failure


def two_tokens(
    first: tuple[int, dict[int, float]],
    second: tuple[int, dict[int, float]],
    base: tuple[float, float] = (-6.0, -6.0),
    text: str = "a b",
) -> ReferenceAnswer:
    """An answer of two tokens: each with what is likely at its place."""
    return ReferenceAnswer(
        messages=(Message(role="user", content="hello"),),
        prompt_ids=(1, 2),
        token_ids=(first[0], second[0]),
        text=text,
        likeliest=(first[1], second[1]),
        base_logprobs=base,
    )


OURS = two_tokens((7, {7: -0.1, 8: -3.0}), (4, {4: -0.8, 5: -1.0}))
"""At the second place the two likeliest tokens are 0.2 nats apart."""


def held_against_ours(served: ReferenceAnswer, **how: bool) -> Comparison:
    with scripted([served]) as url:
        return compare(url, TUNED, [OURS], CONFIG, **{"fp32": False, "strict": True, **how})


def test_another_token_is_a_tie_or_a_failure_by_the_gap_in_process() -> None:
    """0.2 nats are within a tie of bf16, 0.25, and not within one of fp32, 0.0025."""
    served = two_tokens((7, {7: -0.1, 8: -3.0}), (5, {5: -0.9, 4: -0.9}))
    found = held_against_ours(served)
    assert (found.failure, found.n_ties, found.agreement) == (None, 1, 0.5)
    assert found.shift_nats == pytest.approx((0 + 0.1) / 2)
    assert found.effect_nats == pytest.approx((5.9 + 5.2) / 2)
    strict = held_against_ours(served, fp32=True)
    assert strict.failure is not None
    assert "another token at place 2" in strict.failure
    assert "0.2 nats apart" in strict.failure
    assert (strict.n_ties, strict.agreement) == (0, 0.5)


def test_a_token_that_is_not_likely_in_process_is_no_tie() -> None:
    found = held_against_ours(two_tokens((9, {9: -0.1, 7: -0.2}), (4, {4: -0.8})))
    assert found.failure is not None
    assert "not among the 20 likeliest" in found.failure
    assert found.agreement == 0.0


def test_an_answer_that_stops_early_is_no_tie() -> None:
    early = two_tokens((7, OURS.likeliest[0]), (4, OURS.likeliest[1])).model_copy(
        update={"token_ids": (7,), "likeliest": OURS.likeliest[:1]}
    )
    found = held_against_ours(early)
    assert found.failure is not None
    assert "place 2" in found.failure


def test_equal_tokens_with_other_probabilities_are_a_failure_beyond_rounding() -> None:
    near = two_tokens((7, {7: -0.15}), (4, {4: -0.9}))
    assert held_against_ours(near).failure is None
    far = two_tokens((7, {7: -0.3}), (4, {4: -1.0}))
    found = held_against_ours(far)
    assert found.shift_nats == pytest.approx(0.2)
    assert found.failure is not None
    assert "log-probabilities differ by 0.2 nats on average" in found.failure


def test_a_quantised_model_is_measured_and_stopped_only_without_its_adapter() -> None:
    other = two_tokens((9, {9: -0.5, 7: -1.1}), (4, {4: -0.8}))
    found = held_against_ours(other, strict=False)
    assert (found.failure, found.agreement, found.adapter_seen) == (None, 0.0, True)
    assert found.shift_nats == pytest.approx(1.0)
    assert found.effect_nats == pytest.approx(5.9)
    drowned = two_tokens((9, {9: -0.5, 7: -3.1}), (4, {4: -0.8}))
    found = held_against_ours(drowned, strict=False)
    assert (found.failure, found.adapter_seen) == (None, None)  # 3.0 and 2.9 away, effect 5.9
    as_base = two_tokens((9, {9: -0.5, 7: -5.9}), (4, {4: -0.8}))
    found = held_against_ours(as_base, strict=False)
    assert found.adapter_seen is False
    assert found.failure is not None
    assert "differ by 5.8 nats from base + adapter, by 0.1 from the base" in found.failure


def test_a_token_that_the_server_does_not_list_counts_as_the_least_likely_of_its_list() -> None:
    """7 is nowhere in the list: at most at -3.5, and cut to that the base has it at -3.5, too."""
    found = held_against_ours(two_tokens((9, {9: -0.5, 8: -3.5}), (4, {4: -0.8})), strict=False)
    assert found.shift_nats == pytest.approx(3.4)
    assert found.effect_nats == pytest.approx(3.4)
    assert found.adapter_seen is False


def test_an_answer_cannot_write_over_the_terminal() -> None:
    hostile = two_tokens(
        (9, {9: -0.1, 7: -0.2}), (4, {4: -0.8}), text="\x1b[2J\u202eall good\r\n" + "x" * 1000
    )
    found = held_against_ours(hostile)
    assert found.failure is not None
    assert "\x1b" not in found.failure
    assert "\u202e" not in found.failure
    assert "\\x1b[2J\\u202eall good\\r\\nxxx" in found.failure
    assert "x" * 200 not in found.failure


def test_a_server_that_fails_or_hides_its_tokens_is_an_error_not_a_verdict() -> None:
    with answering(lambda _: None) as url, pytest.raises(ServerError, match="500"):
        in_fp32(url, TUNED, [OURS])
    with answering(lambda _: {"choices": []}) as url, pytest.raises(ServerError, match="token ids"):
        in_fp32(url, TUNED, [OURS])
