"""Conversations -> token ids, with loss on the answers only."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jinja2 import TemplateError

from pipelines.core.errors import ConfigError, DataError
from pipelines.core.records import Message, TrainingRow

IGNORED = -100
"""Label of a token without loss, as torch's cross entropy defines it."""
TEMPLATES = Path(__file__).with_name("templates")
"""Chat templates that mark the assistant's turns, for models whose own does not."""
MARK = re.compile(r"\{%-?\s*generation\b")

Tokens = dict[str, list[int]]
"""`input_ids`, `attention_mask` and `labels` of one sequence, equally long."""


def encode(
    rows: Sequence[TrainingRow],
    tokenizer: Any,
    *,
    instructions: str,
    max_tokens: int,
    template_options: Mapping[str, bool],
    loss: Literal["last", "all"] = "last",
    chat_template: str | None = None,
) -> list[Tokens]:
    """Token ids and labels of each row.

    The prompt is what the server will render: the model's chat template with the generation
    prompt. The answer and the end-of-turn token follow and carry the loss, so that training
    and serving see the same tokens.

    Args:
        rows: conversations that end with an answer.
        tokenizer: of the base, with its chat template.
        instructions: system prompt; empty = none.
        max_tokens: of one sequence.
        template_options: passed to the chat template.
        loss: `last`: the last answer of a row. `all`: each of them. A conversation is then one
            sequence where the server would render the same text before each answer, and one
            sequence for each answer where it would not (templates that print earlier turns
            otherwise than the newest one).
        chat_template: name of a file in `TEMPLATES` that marks the answers; None = the
            tokenizer's own template, if that does.

    Raises:
        DataError: rows are longer than `max_tokens`; they are counted, never cut in silence.
            Or the template marks something else than the answers.
        ConfigError: there is no such template.
    """
    encoded = list(
        sequences(
            rows,
            tokenizer,
            instructions=instructions,
            template_options=template_options,
            loss=loss,
            chat_template=chat_template,
        )
    )
    refuse_lengths([max(len(each["input_ids"]) for each in row) for row in encoded], max_tokens)
    return [each for row in encoded for each in row]


def sequences(
    rows: Iterable[TrainingRow],
    tokenizer: Any,
    *,
    instructions: str,
    template_options: Mapping[str, bool],
    loss: Literal["last", "all"],
    chat_template: str | None,
) -> Iterator[list[Tokens]]:
    """As `encode`: the sequences of each row, however long, one row after the other."""
    marked = tokenizer.chat_template if chat_template is None else template(chat_template)
    for number, row in enumerate(rows, start=1):
        turns = with_instructions(row.messages, instructions)
        answers = [k for k, turn in enumerate(turns) if turn.role == "assistant"]
        if loss == "last":
            answers = answers[-1:]
        whole = None
        try:
            if len(answers) > 1 and MARK.search(marked):
                whole = _whole(turns, answers, tokenizer, marked, template_options)
            found = (
                [_answer(turns[: k + 1], tokenizer, template_options) for k in answers]
                if whole is None
                else [whole]
            )
        except TemplateError as error:
            raise DataError(
                f"training row {number}: the chat template refuses it: {error}"
            ) from None
        yield found


def refuse_lengths(lengths: Sequence[int], max_tokens: int) -> None:
    """Raise DataError if sequences of any row are too long; says how many rows, and how long.

    Args:
        lengths: of the longest sequence of each row.
        max_tokens: the limit.
    """
    if n_long := sum(length > max_tokens for length in lengths):
        raise DataError(
            f"{n_long} of {len(lengths)} training rows are longer than {max_tokens} tokens (the "
            f"longest: {max(lengths)}; 99.5 % have at most {quantile(lengths, 0.995)}). Raise "
            "finetune.max_tokens_per_row, or leave these rows out"
        )


def quantile(lengths: Sequence[int], share: float) -> int:
    """The smallest length that at least this share does not exceed."""
    ordered = sorted(lengths)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def template(name: str) -> str:
    """Text of one of our chat templates.

    Raises:
        ConfigError: there is none of this name.
    """
    path = TEMPLATES / f"{name}.jinja"
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n")
    except FileNotFoundError:
        known = ", ".join(sorted(each.stem for each in TEMPLATES.glob("*.jinja")))
        raise ConfigError(f"finetune.chat_template: no {name!r}; there are {known}") from None


def render(
    turns: Sequence[Message],
    tokenizer: Any,
    options: Mapping[str, bool],
    *,
    prompt: bool = True,
    chat_template: str | None = None,
) -> str:
    """Text of the turns; as a `prompt`, the beginning of the assistant's turn comes last."""
    return tokenizer.apply_chat_template(
        [turn.model_dump() for turn in turns],
        chat_template=chat_template,
        add_generation_prompt=prompt,
        tokenize=False,
        **options,
    )


def with_instructions(turns: Sequence[Message], instructions: str) -> tuple[Message, ...]:
    """The turns behind a system prompt; no system prompt when there are no instructions."""
    system = (Message(role="system", content=instructions),) if instructions else ()
    return (*system, *turns)


def _ids(text: str, tokenizer: Any) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _answer(turns: Sequence[Message], tokenizer: Any, options: Mapping[str, bool]) -> Tokens:
    """The last turn is learned, after the text that the server renders before it."""
    prompt = _ids(render(turns[:-1], tokenizer, options), tokenizer)
    answer = [*_ids(turns[-1].content, tokenizer), tokenizer.eos_token_id]
    return _tokens(prompt + answer, [IGNORED] * len(prompt) + answer)


def _whole(
    turns: Sequence[Message],
    answers: Sequence[int],
    tokenizer: Any,
    marked: str,
    options: Mapping[str, bool],
) -> Tokens | None:
    """All answers in one sequence; None if the server would render another text before one."""
    made = tokenizer.apply_chat_template(
        [turn.model_dump() for turn in turns],
        chat_template=marked,
        return_dict=True,
        return_assistant_tokens_mask=True,
        **options,
    )
    ids, mask = made["input_ids"], made["assistant_masks"]
    if not any(mask) or all(mask):
        what = "every token" if any(mask) else "no token"
        raise DataError(f"the chat template marks {what} of a conversation as the assistant's")
    labels = [IGNORED] * len(ids)
    end = 0
    for k in answers:
        before = _ids(render(turns[:k], tokenizer, options), tokenizer)
        start = len(before)
        if ids[:start] != before:
            return None
        run = next((n for n in range(start, len(ids)) if not mask[n]), len(ids))
        ends = [n for n in range(start, run) if ids[n] == tokenizer.eos_token_id]
        if not ends or mask[start - 1]:
            raise DataError(
                f"the chat template marks {tokenizer.decode(ids[start:run])!r} as an answer: it "
                f"must be the text of the turn and its end token {tokenizer.eos_token!r}"
            )
        end = ends[-1] + 1
        labels[start:end] = ids[start:end]
    return _tokens(ids[:end], labels[:end])


def _tokens(ids: list[int], labels: list[int]) -> Tokens:
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}
