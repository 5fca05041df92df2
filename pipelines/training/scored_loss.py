"""Cross entropy of the scored tokens alone: no logits for prompts, never all logits at once."""

from __future__ import annotations

import types
from typing import Any

import torch
from torch.nn.functional import cross_entropy, linear

from pipelines.training import attention
from pipelines.training.packing import Pack

CHUNK = 8192
"""Positions whose logits exist at the same time; fewer cost speed on a GPU."""
KNOWN = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""Models that are a decoder named `model` and a linear `lm_head`, with nothing between or after,
and that hand what the call says of documents on to their attention."""


def why_not_packed(model: Any, longest: int) -> str | None:
    """Why packs of documents cannot be given to a causal language model; None = they can.

    Args:
        model: without adapter.
        longest: tokens of the longest document.
    """
    name, config = type(model).__name__, model.config
    if name not in KNOWN:
        return f"{name} is none of {', '.join(KNOWN)}"
    if (window := getattr(config, "sliding_window", None)) is not None and longest > window:
        return f"its attention sees {window} tokens and a row has {longest}"
    if getattr(config, "attention_dropout", 0.0):
        return "its attention has dropout"
    if type(model.lm_head) is not torch.nn.Linear or model.lm_head.weight.requires_grad:
        return "its output layer is not a frozen linear one"
    return None


def read_packs(model: Any) -> None:
    """Make a model of `KNOWN` answer a pack with its loss; other calls are answered as before.

    The loss is computed within `forward`, so that whatever wraps the model (LoRA, data parallel)
    sees one call and one tensor.
    """
    model.set_attn_implementation(attention.NAME)
    unpatched = model.forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if "document_ends" not in kwargs:
            return unpatched(*args, **kwargs)
        return _loss_of_pack(self, **kwargs)

    model.forward = types.MethodType(forward, model)


def loss_of_pack(model: Any, pack: Pack, smoothing: float, packed: bool = True) -> torch.Tensor:
    """Sum of the losses of a pack's scored tokens, in nats; Float[Tensor, ""].

    Args:
        model: one that `read_packs` has changed, or any that is wrapped around it.
        pack: of one document if not `packed`.
        smoothing: label smoothing.
        packed: False for a model that cannot read packs; it computes all its logits.
    """
    if packed:
        return model(**pack, smoothing=smoothing)
    assert len(pack["document_lengths"]) == 1
    logits = model(input_ids=pack["input_ids"], use_cache=False).logits[0]
    if not len(pack["scored"]):
        return logits.sum() * 0
    return cross_entropy(
        logits[pack["scored"]].float(), pack["targets"], reduction="sum", label_smoothing=smoothing
    )


def _loss_of_pack(
    model: Any,
    *,
    input_ids: torch.Tensor,
    position_ids: torch.Tensor,
    document_ends: torch.Tensor,
    document_lengths: list[int],
    scored: torch.Tensor,
    targets: torch.Tensor,
    smoothing: float,
    **_: Any,
) -> torch.Tensor:
    hidden = model.model(
        input_ids=input_ids,
        position_ids=position_ids,
        use_cache=False,
        document_ends=document_ends,
        document_lengths=document_lengths,
    ).last_hidden_state[0]
    head = model.lm_head
    loss: Any = ScoredCrossEntropy.apply(
        hidden.index_select(0, scored), head.weight, head.bias, targets, smoothing
    )
    return loss


class ScoredCrossEntropy(torch.autograd.Function):
    """Linear output layer and cross entropy in one; the gradient is made along with the loss.

    The output layer is frozen, so that the gradient of the hidden states is all that is kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        smoothing: float,
    ) -> torch.Tensor:
        """Sum of the losses; Float[Tensor, ""].

        Args:
            ctx: autograd's.
            hidden: Float[Tensor, "scored width"]
            weight: Float[Tensor, "vocabulary width"]
            bias: Float[Tensor, "vocabulary"] or None.
            targets: Int[Tensor, "scored"]
            smoothing: share of each target that goes to all tokens alike.
        """
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wanted else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for at in range(0, len(hidden), CHUNK):
            logits = linear(hidden[at : at + CHUNK], weight, bias).float()
            target = targets[at : at + CHUNK, None]
            log_sum = logits.logsumexp(-1, keepdim=True)
            loss += ((log_sum - logits.gather(-1, target)) * (1 - smoothing)).sum()
            if smoothing:
                loss += ((log_sum - logits.mean(-1, keepdim=True)) * smoothing).sum()
            if gradient is not None:
                share = logits.sub_(log_sum).exp_()
                if smoothing:
                    share -= smoothing / share.shape[-1]
                share.scatter_add_(-1, target, share.new_full(target.shape, smoothing - 1))
                gradient[at : at + CHUNK] = share.to(hidden.dtype) @ weight
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        """Scale what `forward` has kept."""
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient.dtype), None, None, None, None
