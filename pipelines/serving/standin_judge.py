"""A stand-in for a judge: word overlap with the reference, with a set error rate. SIMULATED."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from math import ceil

from pipelines.core.candidate import StandIn
from pipelines.core.records import Message, Usage
from pipelines.judging.prompt import Shown, shown
from pipelines.serving.loopback import CHARACTERS_PER_TOKEN, Reply, openai_server

PASSES = 0.5
"""Share of the words looked for that a good answer has."""


@asynccontextmanager
async def serve(model: str, behaviour: StandIn) -> AsyncGenerator[str]:
    """Serve made-up verdicts; yields the base URL.

    An answer is as good as the share of the reference's words that it has (without a reference, of
    the question's). Half of them make a pass; scores rise evenly with the share; the larger share
    is the better answer. A verdict is another one with probability `behaviour.error_rate`, drawn
    from the seed and the conversation: the same at every run, in any order. Control questions are
    answered without error. What is no question of `pipelines.judging` is answered with `{}`.
    """

    async def answer(messages: tuple[Message, ...]) -> Reply:
        prompt = "".join(message.content for message in messages)
        rng = random.Random(hashlib.sha256(f"{behaviour.seed}\n{prompt}".encode()).digest())
        text = _reply(messages, behaviour.error_rate, rng)
        usage = Usage(input_tokens=_tokens(prompt), output_tokens=_tokens(text))
        ttft_s = behaviour.ttft_s * (0.5 + rng.expovariate(2.0))
        return Reply(text, usage, ttft_s, behaviour.tokens_per_s)

    async with openai_server(f"{model} (simulated)", answer) as base_url:
        yield base_url


def _reply(messages: Sequence[Message], error_rate: float, rng: random.Random) -> str:
    asked = shown(messages)
    if asked is None:
        return "{}"
    choices = asked.form.choices
    choice, reason = _verdict(asked)
    if rng.random() < error_rate and not asked.word:
        choice = rng.choice([other for other in choices if other != choice])
    return json.dumps({"check": asked.check, "reason": reason, asked.form.key: choice})


def _verdict(asked: Shown) -> tuple[str | int, str]:
    wanted = _words(asked.word or asked.texts.get("reference") or asked.texts["question"])

    def share(name: str) -> float:
        return len(wanted & _words(asked.texts[name])) / max(1, len(wanted))

    if "answer" not in asked.texts:
        a, b = share("answer_a"), share("answer_b")
        choice = "tie" if a == b else "A" if a > b else "B"
        return choice, f"Simulated: A has {a:.0%} of the words looked for, B has {b:.0%}."
    found = share("answer")
    reason = f"Simulated: the answer has {found:.0%} of the words looked for."
    choices = asked.form.choices
    if asked.form.key == "verdict":
        return choices[0] if found >= PASSES else choices[1], reason
    return choices[round(found * (len(choices) - 1))], reason


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def _tokens(text: str) -> int:
    """An estimate: the stand-in has no tokenizer, and its usage is simulated as well."""
    return max(1, ceil(len(text) / CHARACTERS_PER_TOKEN))
