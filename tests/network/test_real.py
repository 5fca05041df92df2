"""Real services: `PYTEST_ALLOW_KEYS=1 scripts/test -m network`; needs keys, costs a few cents."""

from __future__ import annotations

import asyncio
import os

import pytest

from pipelines import providers
from pipelines.core.candidate import Rent
from pipelines.core.config import load_study
from pipelines.core.paths import ROOT
from pipelines.core.records import Message
from pipelines.data.sources import load_eval
from pipelines.governance.egress import Gate, open_client
from pipelines.providers import ChatRequest, Completion, Endpoint

pytestmark = pytest.mark.network


@pytest.mark.parametrize(
    "name",
    [
        "gpt-6-1-sol",
        "gpt-6-1-sol-responses",
        "gpt-6-luna",
        "azure-gpt-6-1-sol",  # at AZURE_OPENAI_BASE_URL
        "claude-haiku-4-5",
        "gemini-3-8-flash",
        "bedrock-llama-3-1-8b",
    ],
)
def test_each_shipped_closed_candidate_answers_and_reports_usage(name: str) -> None:
    study = load_study(ROOT / "configs/quickstart.yaml", [f"candidates=[frontier-standin, {name}]"])
    candidate = study.candidates[name]
    assert isinstance(candidate, Rent)
    if not os.environ.get(candidate.api_key_env or ""):
        pytest.skip(f"{candidate.api_key_env} is not set")
    base_url = candidate.base_url
    if candidate.provider == "azure_openai":
        base_url = os.environ.get("AZURE_OPENAI_BASE_URL")
        if not base_url:
            pytest.skip("AZURE_OPENAI_BASE_URL is not set")
    extra = dict(candidate.request)
    temperature = extra.pop("temperature", 0.0)
    request = ChatRequest(
        model=candidate.model,
        messages=(Message(role="user", content="Answer with the word yes."),),
        max_output_tokens=200,
        temperature=None if temperature is None else float(temperature),
        extra=extra,
    )

    async def ask() -> Completion:
        where = Endpoint(base_url=base_url, api_key_env=candidate.api_key_env)
        url = providers.address(candidate.provider, base_url)
        async with open_client(Gate("test", "public"), name, url) as client:
            async with providers.load(candidate.provider)(where, client) as send:
                return await send(request)

    answer = asyncio.run(ask())
    assert "yes" in answer.text.lower()
    assert answer.outcome == "answered"
    assert answer.usage is not None
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 0


def test_banking77_comes_from_the_hub_when_the_folder_is_not_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FREEHOLD_DATA", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    study = load_study(ROOT / "configs/banking77.yaml")
    items = load_eval(study.workload.eval_set)
    assert len(items) == 3080
    assert len({item.target for item in items}) == 77
