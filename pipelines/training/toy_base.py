"""Build the toy base model: a tokenizer and a small Llama, pre-trained on text we ship."""

from __future__ import annotations

import json
import math
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pipelines.training.base_identity import TOY_TEXT

VOCAB_SIZE = 4096
PAD, SYSTEM, USER, ASSISTANT, END = "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>' }}"
    "{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
FORMATS = [
    '{"label":"some_name","flag":false}',
    '{"intent":"some_name","escalate":true}',
    '{"name":"some_label","value":0,"ok":true}',
]
"""Added to the tokenizer's text, so that JSON does not fall into single characters."""
EPOCHS = 12
BATCH_SIZE = 32
LEARNING_RATE = 1e-3
WARMUP_STEPS = 20
INIT_STD = 0.05
"""With the usual 0.02 the tied embeddings cap the logits near 5, and little is learned."""

README = """# A toy

This is not a language model to use. It is a Llama of {millions:.1f} million parameters, pre-trained
for a minute on {count:,} short conversations of an invented shop (the customers' messages of
`eval_sets/support/train.jsonl` and the shop's approved answers). It knows nothing else. It stands
in for a 7B or 8B model where no weights can be downloaded: the same architecture, files, chat
template and code path.
"""

Conversation = tuple[str, str]
"""A customer's message and the beginning of the approved answer."""
Tokens = tuple[list[int], list[int]]
"""Token ids of prompt and answer."""


def build(
    out_dir: Path, *, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> None:
    """Train tokenizer and model, and save them as a Hugging Face folder; about a minute.

    The folder appears only when it is complete. Equal seeds give equal bytes on the same machine
    with the same number of threads.

    Args:
        out_dir: where the model goes; an existing folder is replaced.
        seed: of the initial weights and of the order of the text.
        progress: called after each step with the steps done and the steps in all.
    """
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    text = conversations()
    tokenizer = train_tokenizer([part for turn in text for part in turn] + FORMATS * 100)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config_of(tokenizer))
    pretrain(model, tokenizer, text, seed=seed, progress=progress)
    staging = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}-", dir=out_dir.parent))
    try:
        staging.chmod(0o755)
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        millions = model.num_parameters() / 1e6
        (staging / "README.md").write_text(README.format(millions=millions, count=len(text)))
        if out_dir.exists():
            shutil.rmtree(out_dir)
        staging.rename(out_dir)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def conversations() -> list[Conversation]:
    """What the toy reads: messages of the training split with the first sentence of the answer.

    The labels that fine-tuning teaches are not in it, nor is any row of the eval set.
    """
    rows = [json.loads(line) for line in TOY_TEXT.read_text(encoding="utf-8").splitlines()]
    return [
        (row["messages"][0]["content"], row["metadata"]["answer"].split(". ")[0].rstrip(".") + ".")
        for row in rows
    ]


def train_tokenizer(texts: Sequence[str]) -> Any:
    """Byte-level BPE with the special tokens and the chat template."""
    special = [PAD, SYSTEM, USER, ASSISTANT, END]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE,
            special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        model_max_length=2048,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def config_of(tokenizer: Any) -> LlamaConfig:
    """Two layers of width 256; heads of 64, a size that vLLM's CPU attention accepts."""
    return LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=INIT_STD,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )


def pretrain(
    model: Any,
    tokenizer: Any,
    text: Sequence[Conversation],
    *,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Learn the answers with AdamW, warm-up and cosine decay; changes `model` in place."""
    batches = _batches(tokenizer, text, random.Random(seed))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            min(1.0, (step + 1) / WARMUP_STEPS)
            * (0.02 + 0.49 * (1 + math.cos(math.pi * step / len(batches))))
        ),
    )
    model.train()
    for step, rows in enumerate(batches, start=1):
        tokens, answers = _pad(rows, tokenizer.pad_token_id)
        # Padding is on the right and causal attention never looks there: no mask is needed.
        hidden = model.model(input_ids=tokens).last_hidden_state[:, :-1]
        scored = answers[:, 1:]
        loss = cross_entropy(model.lm_head(hidden[scored]), tokens[:, 1:][scored])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if progress is not None:
            progress(step, len(batches))
    model.eval()
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )


def _batches(
    tokenizer: Any, text: Sequence[Conversation], rng: random.Random
) -> list[list[Tokens]]:
    """Shuffled batches of rows of similar length, for all epochs."""
    rows: list[Tokens] = []
    for message, answer in text:
        turn = [{"role": "user", "content": message}]
        prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        rows.append(
            (
                tokenizer(prompt, add_special_tokens=False)["input_ids"],
                [*tokenizer(answer)["input_ids"], tokenizer.eos_token_id],
            )
        )
    batches: list[list[Tokens]] = []
    for _ in range(EPOCHS):
        rng.shuffle(rows)
        for start in range(0, len(rows), 20 * BATCH_SIZE):
            near = sorted(
                rows[start : start + 20 * BATCH_SIZE], key=lambda r: len(r[0]) + len(r[1])
            )
            batches += [near[at : at + BATCH_SIZE] for at in range(0, len(near), BATCH_SIZE)]
    rng.shuffle(batches)
    return batches


def _pad(rows: Sequence[Tokens], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Int[Tensor, "batch longest"] of tokens and a bool mask of the same shape for the answers."""
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    tokens = torch.full((len(rows), width), pad_id)
    answers = torch.zeros((len(rows), width), dtype=torch.bool)
    for k, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        tokens[k, :end] = torch.tensor(prompt + answer)
        answers[k, len(prompt) : end] = True
    return tokens, answers
