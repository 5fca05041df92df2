"""Chat templates against the published formats, and what of a conversation is learned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.errors import ConfigError, DataError
from pipelines.core.records import Message, TrainingRow
from pipelines.training import toy_base
from pipelines.training.chat_rows import IGNORED, encode, quantile, render, template

LLAMA_SPECIAL = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
MISTRAL_SPECIAL = ["<s>", "</s>", "[INST]", "[/INST]"]
QWEN_SPECIAL = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
Make = Callable[[list[str], str, str | None], Any]


@pytest.fixture(scope="module")
def make() -> Make:
    """A tokenizer trained here with a model's special tokens and a chat template."""

    def made(special: list[str], end: str, chat_template: str | None) -> Any:
        tokenizer = toy_base.train_tokenizer(["be brief hello how are you fine thanks bye "] * 3)
        bos = special[0] if special[0] in ("<|begin_of_text|>", "<s>") else None
        tokenizer.add_special_tokens(
            {"additional_special_tokens": special, "eos_token": end, "bos_token": bos}
            if bos
            else {"additional_special_tokens": special, "eos_token": end}
        )
        tokenizer.chat_template = chat_template
        return tokenizer

    return made


def row(*turns: str) -> TrainingRow:
    """Turns of user and assistant, beginning with the user."""
    roles = ("user", "assistant")
    return TrainingRow(
        messages=tuple(
            Message.model_validate({"role": roles[n % 2], "content": text})
            for n, text in enumerate(turns)
        )
    )


def stock(name: str) -> str:
    """A model's own template, as the peer library keeps it."""
    import trl

    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text("utf-8")


TALK = (
    Message(role="system", content="Be brief."),
    Message(role="user", content=" Hello\n"),
    Message(role="assistant", content="Hi. "),
    Message(role="user", content="How are you?"),
    Message(role="assistant", content="Fine."),
)
LLAMA_TEXT = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHi.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHow are you?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)


def test_llama_3_1_prints_the_published_format(make: Make) -> None:
    tokenizer = make(LLAMA_SPECIAL, "<|eot_id|>", template("llama-3-1"))
    assert render(TALK[:-1], tokenizer, {}) == LLAMA_TEXT
    assert render(TALK, tokenizer, {}, prompt=False) == f"{LLAMA_TEXT}Fine.<|eot_id|>"


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("last", [2, 3, 4, 5])
def test_llama_3_1_prints_what_its_own_template_prints(make: Make, first: int, last: int) -> None:
    turns, prompt = TALK[first:last], last % 2 == 0
    ours = make(LLAMA_SPECIAL, "<|eot_id|>", template("llama-3-1"))
    own = make(LLAMA_SPECIAL, "<|eot_id|>", stock("llama3_1"))
    assert render(turns, ours, {}, prompt=prompt) == render(turns, own, {}, prompt=prompt)


def test_mistral_v3_prints_the_published_format(make: Make) -> None:
    tokenizer = make(MISTRAL_SPECIAL, "</s>", template("mistral-v3"))
    # The system prompt stands before the newest user turn.
    assert render(TALK[:2], tokenizer, {}) == "<s>[INST] Be brief.\n\n Hello\n[/INST]"
    assert render(TALK[:-1], tokenizer, {}) == (
        "<s>[INST]  Hello\n[/INST] Hi.</s>[INST] Be brief.\n\nHow are you?[/INST]"
    )
    assert render(TALK[1:], tokenizer, {}, prompt=False) == (
        "<s>[INST]  Hello\n[/INST] Hi.</s>[INST] How are you?[/INST] Fine.</s>"
    )


def test_qwen3_without_thinking_prints_the_published_format(make: Make) -> None:
    tokenizer = make(QWEN_SPECIAL, "<|im_end|>", stock("qwen3"))
    assert render(TALK[3:4], tokenizer, {"enable_thinking": False}) == (
        "<|im_start|>user\nHow are you?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def learned(tokens: dict[str, list[int]], tokenizer: Any) -> list[str]:
    """Text of each run of scored tokens."""
    runs: list[list[int]] = [[]]
    for label in tokens["labels"]:
        if label == IGNORED:
            runs += [[]] if runs[-1] else []
        else:
            runs[-1].append(label)
    return [tokenizer.decode(run) for run in runs if run]


def encoded(
    tokenizer: Any, rows: list[TrainingRow], name: str | None = None, **more: Any
) -> list[dict[str, list[int]]]:
    given = {"instructions": "", "max_tokens": 500, "template_options": {}, "loss": "all"}
    return encode(rows, tokenizer, chat_template=name, **{**given, **more})


CHAT = row("hello", "hi", "how are you?", "fine")


def test_all_answers_of_a_conversation_are_learned_in_one_sequence(make: Make) -> None:
    tokenizer = make(LLAMA_SPECIAL, "<|eot_id|>", stock("llama3_1"))
    [tokens] = encoded(tokenizer, [CHAT], "llama-3-1", instructions="Be brief.")
    assert learned(tokens, tokenizer) == ["hi<|eot_id|>", "fine<|eot_id|>"]
    text = tokenizer.decode(tokens["input_ids"])
    assert text.startswith("<|begin_of_text|><|start_header_id|>system")
    assert text.endswith("\n\nfine<|eot_id|>")
    assert len(tokens["labels"]) == len(tokens["input_ids"]) == len(tokens["attention_mask"])


def test_the_last_answer_alone_is_learned_unless_asked_otherwise(make: Make) -> None:
    tokenizer = make(LLAMA_SPECIAL, "<|eot_id|>", stock("llama3_1"))
    [tokens] = encoded(tokenizer, [CHAT], loss="last")
    assert learned(tokens, tokenizer) == ["fine<|eot_id|>"]
    [whole] = encoded(tokenizer, [CHAT], "llama-3-1")
    assert whole["input_ids"] == tokens["input_ids"]


def test_mistral_takes_one_sequence_without_system_prompt_and_one_a_turn_with(make: Make) -> None:
    tokenizer = make(MISTRAL_SPECIAL, "</s>", template("mistral-v3"))
    [tokens] = encoded(tokenizer, [CHAT])
    assert learned(tokens, tokenizer) == [" hi</s>", " fine</s>"]
    split = encoded(tokenizer, [CHAT], instructions="Be brief.")
    assert [tokenizer.decode(each["input_ids"]) for each in split] == [
        "<s>[INST] Be brief.\n\nhello[/INST]hi</s>",
        "<s>[INST] hello[/INST] hi</s>[INST] Be brief.\n\nhow are you?[/INST]fine</s>",
    ]
    assert [learned(each, tokenizer) for each in split] == [["hi</s>"], ["fine</s>"]]


def test_qwen3_learns_each_answer_after_what_the_server_renders(make: Make) -> None:
    tokenizer = make(QWEN_SPECIAL, "<|im_end|>", stock("qwen3"))
    options = {"enable_thinking": False}
    split = encoded(tokenizer, [CHAT], template_options=options)
    assert [learned(each, tokenizer) for each in split] == [["hi<|im_end|>"], ["fine<|im_end|>"]]
    for each, n_turns in zip(split, (1, 3), strict=True):
        served = render(CHAT.messages[:n_turns], tokenizer, options)
        assert tokenizer.decode(each["input_ids"]).startswith(served)


def test_what_comes_after_the_end_token_is_not_learned(make: Make) -> None:
    chatml = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>\n' }}"
        "{% endgeneration %}{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer = make(QWEN_SPECIAL, "<|im_end|>", chatml)
    [tokens] = encoded(tokenizer, [CHAT])
    assert learned(tokens, tokenizer) == ["hi<|im_end|>", "fine<|im_end|>"]
    assert tokens["input_ids"][-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("answer", "other", "message"),
    [
        ("{% generation %}{% endgeneration %}{{ T }}", "{{ T }}", "marks no token"),
        ("{% generation %}{{ T }}{% endgeneration %}",) * 2 + ("marks every token",),
        (
            "{% generation %}{{ m.content }}{% endgeneration %}{{ '<|im_end|>' }}",
            "{{ T }}",
            r"marks 'hi' as an answer: it must be the text of the turn and its end",
        ),
    ],
)
def test_a_template_that_marks_the_wrong_thing_is_refused(
    make: Make, answer: str, other: str, message: str
) -> None:
    text = (
        "{% for m in messages %}{% if m.role == 'assistant' %}A{% else %}B{% endif %}"
        if "every" not in message
        else "{% for m in messages %}"
    ) + f"{{% if m.role == 'assistant' %}}{answer}{{% else %}}{other}{{% endif %}}{{% endfor %}}"
    text = text.replace("{{ T }}", "{{ m.content + '<|im_end|>' }}")
    if "every" not in message:
        text += "{% if add_generation_prompt %}A{% endif %}"
    tokenizer = make(QWEN_SPECIAL, "<|im_end|>", text)
    with pytest.raises(DataError, match=message):
        encoded(tokenizer, [CHAT])


def test_a_row_that_the_template_refuses_is_named(make: Make) -> None:
    tokenizer = make(MISTRAL_SPECIAL, "</s>", template("mistral-v3"))
    user = Message(role="user", content="hello")
    twice = TrainingRow(messages=(user, user, Message(role="assistant", content="hi")))
    with pytest.raises(DataError, match="training row 2: the chat template refuses it: after the"):
        encoded(tokenizer, [CHAT, twice], loss="last")


def test_long_rows_are_counted_with_their_quantile(make: Make) -> None:
    tokenizer = make(MISTRAL_SPECIAL, "</s>", template("mistral-v3"))
    [short] = encoded(tokenizer, [row("hello", "hi")], loss="last")
    [long] = encoded(tokenizer, [CHAT], loss="last")
    few, many = len(short["input_ids"]), len(long["input_ids"])
    assert few < many
    with pytest.raises(DataError) as caught:
        encoded(tokenizer, [row("hello", "hi"), CHAT], loss="last", max_tokens=few)
    assert str(caught.value) == (
        f"1 of 2 training rows are longer than {few} tokens (the longest: {many}; 99.5 % have at "
        f"most {many}). Raise finetune.max_tokens_per_row, or leave these rows out"
    )


def test_the_quantile_is_the_smallest_length_that_enough_rows_keep() -> None:
    # 0.995 x 200 = 199 rows keep 199; of 100 rows all must.
    assert quantile(range(1, 201), 0.995) == 199
    assert quantile(range(1, 101), 0.995) == 100
    assert quantile([7], 0.5) == 7


def test_an_unknown_template_lists_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="no 'gpt'; there are llama-3-1, mistral-v3"):
        template("gpt")
