"""A LoRA layer as one autograd function: it keeps its input once, and adapters stay in fp32."""

from __future__ import annotations

import types
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer

QUANTIZED = ("Linear4bit", "Linear8bitLt")
"""Layers of bitsandbytes."""


def fuse(model: Any, adapter: str = "default") -> int:
    """Give the LoRA layers of a peft model the fused forward pass; the number of those that got it.

    Layers with dropout, DoRA or a bias of their own keep peft's.
    """
    fused = 0
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and _can_fuse(layer, adapter):
            _fuse_layer(layer, adapter)
            fused += 1
    return fused


def guard_quantized(model: Any) -> None:
    """Keep bitsandbytes' 4-bit layers from repacking themselves for inference.

    On AVX512_BF16 processors they do so in the first evaluation, and all gradients after it are
    wrong.
    """
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False


def _can_fuse(layer: Any, adapter: str) -> bool:
    base = layer.get_base_layer()
    return (
        (type(base) is torch.nn.Linear or type(base).__name__ in QUANTIZED)
        and isinstance(layer.lora_dropout[adapter], torch.nn.Identity)
        and not layer.lora_variant
        and not layer.lora_bias[adapter]
    )


def _fuse_layer(layer: Any, adapter: str) -> None:
    by_peft = layer.forward
    base = layer.get_base_layer()

    def forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        plain = not (args or kwargs or self.disable_adapters or self.merged)
        if not plain or self.active_adapters != [adapter]:
            return by_peft(x, *args, **kwargs)
        a, b = self.lora_A[adapter].weight, self.lora_B[adapter].weight
        return LoraLinear.apply(x, a, b, base, self.scaling[adapter])

    layer.forward = types.MethodType(forward, layer)


class LoraLinear(torch.autograd.Function):
    """y = base(x) + scaling * x A^T B^T; computes in the type of x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        base: torch.nn.Module,
        scaling: float,
    ) -> torch.Tensor:
        """The layer's output; Float[Tensor, "... width_out"].

        Args:
            ctx: autograd's.
            x: Float[Tensor, "... width_in"]
            a: Float[Tensor, "rank width_in"]
            b: Float[Tensor, "width_out rank"]
            base: the frozen layer.
            scaling: of the adapter.
        """
        ctx.save_for_backward(x, a, b)
        ctx.base, ctx.scaling = base, scaling
        y = base(x)
        flat = x.reshape(-1, x.shape[-1])
        low = flat @ a.to(x.dtype).t()
        y.view(-1, y.shape[-1]).addmm_(low, b.to(x.dtype).t(), alpha=scaling)
        return y

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        """Gradients of x, A and B; x A^T is computed again."""
        x, a, b = ctx.saved_tensors
        flat, g = x.reshape(-1, x.shape[-1]), outer[0].reshape(-1, outer[0].shape[-1])
        a_low, b_low = a.to(x.dtype), b.to(x.dtype)
        g_low = g @ b_low
        g_x = None
        if ctx.needs_input_grad[0]:
            g_x = g @ dense_weight(ctx.base, g.dtype)
            g_x = g_x.addmm_(g_low, a_low, alpha=ctx.scaling).view(x.shape)
        g_a = (g_low.t() @ flat).to(a.dtype) * ctx.scaling
        g_b = (g.t() @ (flat @ a_low.t())).to(b.dtype) * ctx.scaling
        return g_x, g_a, g_b, None, None


def dense_weight(base: Any, dtype: torch.dtype) -> torch.Tensor:
    """Weight of a frozen layer, dequantised if need be; Float[Tensor, "width_out width_in"]."""
    if type(base).__name__ == "Linear4bit":
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(base.weight.data, base.weight.quant_state).to(dtype)
    if type(base).__name__ == "Linear8bitLt":
        state = base.state
        return state.CB.to(dtype) * (state.SCB / 127.0).to(dtype).unsqueeze(1)
    return base.weight
