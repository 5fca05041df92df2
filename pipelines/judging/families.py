"""Which vendor's family a model belongs to: a judge should not judge its own."""

from __future__ import annotations

import re

FAMILIES = {
    "openai": r"gpt(?!-?(?:j|neo))|chatgpt|o\d|davinci|codex",
    "anthropic": r"claude",
    "google": r"gemini|gemma|palm",
    "meta": r"llama|codellama",
    "qwen": r"qwen|qwq",
    "mistral": r"mistral|mixtral|ministral|codestral|magistral|devstral|pixtral",
    "deepseek": r"deepseek",
    "xai": r"grok",
    "amazon": r"nova|titan",
    "cohere": r"command|aya",
    "microsoft": r"phi",
}
"""Family -> the words that its models' names begin with; the first word that is known decides."""
_WORD = re.compile(
    r"(?<![a-z0-9])(?:" + "|".join(f"(?P<{f}>{words})" for f, words in FAMILIES.items()) + r")"
    r"(?=\d|[^a-z]|$)"
)


def family(model: str) -> str | None:
    """The vendor's family of a model's name; None = unknown.

    Args:
        model: as the provider or the hub writes it, also dated, regional, or as the name of a
            deployment that holds the model's: `us.anthropic.claude-haiku-4-5-v1:0`.
    """
    name = model.casefold()
    found = _WORD.search(name.rpartition("/")[2]) or _WORD.search(name)
    return found.lastgroup if found else None
