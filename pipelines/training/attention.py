"""Attention in which each document of a pack sees itself alone, without a mask of all pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "per_document"
"""Of the attention, for `model.set_attn_implementation`."""
MAX_HEAD_DIM = 256
"""Of the kernel for documents of different lengths."""


def per_document(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    document_ends: torch.Tensor | None = None,
    document_lengths: list[int] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each document of one pack.

    On a GPU that can, one kernel of torch takes all documents; elsewhere torch's attention takes
    one document after another.

    Args:
        module: the layer; not read.
        query: Float[Tensor, "1 heads tokens head_dim"]
        key: Float[Tensor, "1 kv_heads tokens head_dim"]
        value: as `key`.
        attention_mask: None; a pack has no padding.
        scaling: of the products; None = 1 / sqrt(head_dim).
        document_ends: Int32[Tensor, "documents+1"]; the first is 0.
        document_lengths: tokens of each document.

    Returns:
        Float[Tensor, "1 tokens heads head_dim"], and None for the weights.

    Raises:
        ValueError: the call says nothing of documents, or brings a mask or a cache.
    """
    n_tokens = query.shape[2]
    if document_ends is None or document_lengths is None or sum(document_lengths) != n_tokens:
        raise ValueError("per_document attention reads packs only: say where the documents end")
    if attention_mask is not None or key.shape[2] != n_tokens or query.shape[0] != 1:
        raise ValueError("per_document attention takes one pack, without mask and cache")
    gqa = query.shape[1] != key.shape[1]
    if _has_kernel(query):
        from torch.nn.attention.varlen import varlen_attn

        longest = max(document_lengths)
        q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))
        mixed = varlen_attn(
            q,
            k,
            v,
            document_ends,
            document_ends,
            longest,
            longest,
            scale=scaling,
            window_size=(-1, 0),
            enable_gqa=gqa,
        )
        assert isinstance(mixed, torch.Tensor)
        return mixed.unsqueeze(0), None
    parts = zip(*(each.split(document_lengths, 2) for each in (query, key, value)), strict=True)
    mixed = [
        scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=gqa)
        for q, k, v in parts
    ]
    return torch.cat(mixed, 2).transpose(1, 2), None


def _has_kernel(query: torch.Tensor) -> bool:
    """True where torch's kernel for documents of different lengths runs."""
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] <= MAX_HEAD_DIM
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


# No mask function goes with it: transformers then builds no mask at all.
AttentionInterface.register(NAME, per_document)
