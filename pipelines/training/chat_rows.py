"""Conversations -> token ids, with loss on the answer only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.core.errors import DataError
from pipelines.core.records import Message, TrainingRow

IGNORED = -100
"""Label of a token without loss, as torch's cross entropy defines it."""


def encode(
    rows: Sequence[TrainingRow],
    tokenizer: Any,
    *,
    instructions: str,
    max_tokens: int,
    template_options: Mapping[str, bool],
) -> list[dict[str, list[int]]]:
    """Token ids and labels of each row.

    The prompt is what the server will render: the model's chat template with the generation
    prompt. The answer and the end-of-turn token follow and carry the loss, so that training
    and serving see the same tokens.

    Raises:
        DataError: rows are longer than `max_tokens`; they are counted, never cut in silence.
    """
    encoded: list[dict[str, list[int]]] = []
    too_long: list[int] = []
    for number, row in enumerate(rows):
        turns = with_instructions(row.messages[:-1], instructions)
        prompt = tokenizer.apply_chat_template(
            [turn.model_dump() for turn in turns],
            add_generation_prompt=True,
            tokenize=False,
            **template_options,
        )
        prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answer_ids = tokenizer(row.messages[-1].content, add_special_tokens=False)["input_ids"]
        answer_ids = [*answer_ids, tokenizer.eos_token_id]
        ids = prompt_ids + answer_ids
        if len(ids) > max_tokens:
            too_long.append(number)
        encoded.append(
            {
                "input_ids": ids,
                "attention_mask": [1] * len(ids),
                "labels": [IGNORED] * len(prompt_ids) + answer_ids,
            }
        )
    if too_long:
        longest = max(len(encoded[number]["input_ids"]) for number in too_long)
        raise DataError(
            f"{len(too_long)} of {len(rows)} training rows are longer than "
            f"{max_tokens} tokens (the longest: {longest}). Raise finetune.max_tokens_per_row, "
            "or leave these rows out"
        )
    return encoded


def with_instructions(turns: Sequence[Message], instructions: str) -> tuple[Message, ...]:
    """The turns behind a system prompt; no system prompt when there are no instructions."""
    system = (Message(role="system", content=instructions),) if instructions else ()
    return (*system, *turns)
