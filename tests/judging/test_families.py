"""Whose model a name stands for."""

from __future__ import annotations

import pytest

from pipelines.judging.families import family

KNOWN = {
    "openai": "gpt-6.1-sol o4-mini gpt-4o-2024-08-06 chatgpt-4o-latest azure/prod-gpt4o-eu gpt2 "
    "ft:gpt-4o-mini:acme::abc openai/gpt-oss-20b",
    "anthropic": "claude-haiku-4-5 us.anthropic.claude-3-5-sonnet-20241022-v2:0 "
    "eu.anthropic.claude-haiku-4-5-20251001-v1:0 anthropic/claude-3-opus claude3",
    "google": "gemini-3.8-flash models/gemini-2.5-pro google/gemma-3-4b-it",
    "meta": "meta-llama/Llama-3.1-8B-Instruct llama3 us.meta.llama3-1-8b-instruct-v1:0 "
    "accounts/fireworks/models/llama-v3p1-8b codellama/CodeLlama-7b-hf meta-llama/checkpoint-5",
    "qwen": "Qwen/Qwen3-8B qwen2.5-72b-instruct QwQ-32B",
    "mistral": "mistralai/Mistral-7B-Instruct-v0.3 mixtral-8x7b ministral-8b-latest "
    "mistral.mistral-large-2407-v1:0",
    "deepseek": "deepseek-chat deepseek-ai/DeepSeek-R1-Distill-Llama-70B",
    "xai": "grok-4 xai/grok-3-mini",
    "amazon": "amazon.nova-pro-v1:0 us.amazon.nova-lite-v1:0",
    "cohere": "command-r-plus cohere.command-r-v1:0",
    "microsoft": "phi-4 microsoft/Phi-3-mini-4k-instruct",
}


@pytest.mark.parametrize(
    ("name", "vendor"), [(name, v) for v, names in KNOWN.items() for name in names.split()]
)
def test_known_names(name: str, vendor: str) -> None:
    assert family(name) == vendor


@pytest.mark.parametrize(
    "name",
    ["", "our-model", "tfidf-logreg", "EleutherAI/gpt-j-6b", "yolo4", "dolphin", "sulphide", "o"],
)
def test_unknown_names(name: str) -> None:
    assert family(name) is None
