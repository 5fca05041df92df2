"""Attention per document against one big mask, which is slow and plainly right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from pipelines.training.attention import per_document

LENGTHS = [5, 1, 12, 3]
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def heads(n_kv: int, head_dim: int = 8, **kind: Any) -> Tensors:
    torch.manual_seed(0)

    def made(n: int) -> torch.Tensor:
        return torch.randn(1, n, sum(LENGTHS), head_dim).to(**kind).requires_grad_()

    return made(4), made(n_kv), made(n_kv)


def ends(device: str = "cpu") -> torch.Tensor:
    return torch.tensor([0, *LENGTHS], device=device).cumsum(0).to(torch.int32)


def of_documents(given: Tensors) -> torch.Tensor:
    mixed, weights = per_document(
        torch.nn.Identity(), *given, None, scaling=0.3,
        document_ends=ends(str(given[0].device)), document_lengths=LENGTHS,
    )  # fmt: skip
    assert weights is None
    return mixed


def by_mask(given: Tensors) -> torch.Tensor:
    document = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    mask = (document[:, None] == document[None, :]).tril().to(given[0].device)
    gqa = given[0].shape[1] != given[1].shape[1]
    mixed = scaled_dot_product_attention(*given, attn_mask=mask, scale=0.3, enable_gqa=gqa)
    return mixed.transpose(1, 2)


def compare(given: Tensors, tolerance: float) -> None:
    outer = torch.randn(of_documents(given).shape, device=given[0].device, dtype=given[0].dtype)
    results = [of_documents(given), by_mask(given)]
    gradients = [torch.autograd.grad(each, given, outer) for each in results]
    torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(*gradients, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("n_kv", [4, 2, 1])
def test_a_document_sees_itself_alone(n_kv: int) -> None:
    compare(heads(n_kv), 1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("n_kv", [4, 2])
def test_the_kernel_of_the_gpu_agrees_with_one_big_mask(n_kv: int) -> None:
    compare(heads(n_kv, 64, device="cuda", dtype=torch.bfloat16), 2e-2)


def test_a_call_that_is_no_pack_is_refused() -> None:
    given = heads(4)
    layer = torch.nn.Identity()
    with pytest.raises(ValueError, match="say where the documents end"):
        per_document(layer, *given, None)
    with pytest.raises(ValueError, match="say where the documents end"):
        per_document(layer, *given, None, document_ends=ends(), document_lengths=[5, 1])
    with pytest.raises(ValueError, match="without mask"):
        per_document(
            layer, *given, torch.ones(1), document_ends=ends(), document_lengths=LENGTHS
        )  # fmt: skip
