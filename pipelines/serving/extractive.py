"""The rival without an LLM that answers from passages: it quotes the nearest sentence."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer

from pipelines.core.prompt import question_in
from pipelines.core.records import Message
from pipelines.serving.loopback import Reply, openai_server


def quote(prompt: str) -> str:
    """The sentence that shares most with the question, and the id of its passage in brackets.

    Args:
        prompt: as `core.prompt.with_passages` makes it.
    """
    before, question = question_in(prompt)
    sentences: list[tuple[str, str]] = []
    for block in re.split(r"\n\n(?=\[[\w.-]+\] )", f"\n\n{before}"):
        if match := re.match(r"\s*\[([\w.-]+)\] [^\n]*\n(.*)", block, flags=re.DOTALL):
            parts = re.split(r"(?<=[.!?])\s+|\n+", match[2])
            sentences += [(match[1], part.strip()) for part in parts if part.strip()]
    if not sentences:
        return ""
    vectorizer = TfidfVectorizer(sublinear_tf=True, stop_words="english")
    try:
        matrix: Any = vectorizer.fit_transform([text for _, text in sentences])
    except ValueError:  # nothing but stop words
        return ""
    asked: Any = vectorizer.transform([question])
    source, text = sentences[int((matrix @ asked.T).toarray().argmax())]
    return f"{text} [{source}]"


@asynccontextmanager
async def serve(model: str) -> AsyncGenerator[str]:
    """Answer with a quotation; yields the base URL."""

    async def answer(messages: tuple[Message, ...]) -> Reply:
        return Reply(text=quote(messages[-1].content))

    async with openai_server(model, answer) as base_url:
        yield base_url
