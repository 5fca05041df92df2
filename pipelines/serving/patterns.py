"""The rival that costs nothing: regular expressions, written into the study."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

from pipelines.core.records import Message
from pipelines.serving.loopback import Reply, openai_server


def extract(text: str, patterns: Mapping[str, Sequence[str]]) -> dict[str, str | None]:
    """Field -> first group of the first of its patterns that is found; None without any.

    `^` and `$` match at line ends, letters in either case.
    """
    found: dict[str, str | None] = {}
    for field, alternatives in patterns.items():
        matches = (re.search(each, text, re.IGNORECASE | re.MULTILINE) for each in alternatives)
        found[field] = next((match[1] for match in matches if match), None)
    return found


@asynccontextmanager
async def serve(model: str, patterns: Mapping[str, Sequence[str]]) -> AsyncGenerator[str]:
    """Answer with a JSON object of the fields; yields the base URL."""

    async def answer(messages: tuple[Message, ...]) -> Reply:
        text = "\n".join(m.content for m in messages if m.role == "user")
        return Reply(text=json.dumps(extract(text, patterns), ensure_ascii=False))

    async with openai_server(model, answer) as base_url:
        yield base_url
