"""A stand-in for a closed model: answers from the reference with a set error rate. SIMULATED."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from pipelines.core.candidate import StandIn
from pipelines.core.prompt import question_in
from pipelines.core.records import Example, Message, Usage
from pipelines.serving.loopback import CHARACTERS_PER_TOKEN, Reply, openai_server


@asynccontextmanager
async def serve(model: str, examples: Sequence[Example], behaviour: StandIn) -> AsyncGenerator[str]:
    """Serve made-up answers; yields the base URL.

    An item is answered wrongly (with another item's target) with probability
    `behaviour.error_rate`, drawn from the seed and the question: the same at every run, in any
    order. `ttft_s` is the mean of an exponential on top of half of it.
    """
    targets = {_question(example.messages): example.target for example in examples}
    others = sorted(set(targets.values()))

    async def answer(messages: tuple[Message, ...]) -> Reply:
        question = _question(messages)
        seed = hashlib.sha256(f"{behaviour.seed}\n{question}".encode()).digest()
        rng = random.Random(seed)
        text = targets[question]
        if rng.random() < behaviour.error_rate and len(others) > 1:
            text = rng.choice([other for other in others if other != text])
        return Reply(
            text=text,
            usage=Usage(
                input_tokens=_tokens("".join(m.content for m in messages)),
                output_tokens=_tokens(text),
            ),
            ttft_s=behaviour.ttft_s * (0.5 + rng.expovariate(2.0)),
            tokens_per_s=behaviour.tokens_per_s,
        )

    async with openai_server(f"{model} (simulated)", answer) as base_url:
        yield base_url


def _question(messages: Sequence[Message]) -> str:
    """The turns without the system prompt and without passages."""
    turns = [m for m in messages if m.role != "system"]
    return "\n".join(f"{m.role}: {question_in(m.content)[1]}" for m in turns)


def _tokens(text: str) -> int:
    """An estimate: the stand-in has no tokenizer, and its usage is simulated as well."""
    return max(1, math.ceil(len(text) / CHARACTERS_PER_TOKEN))
