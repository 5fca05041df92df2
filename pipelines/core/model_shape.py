"""The sizes of a decoder that memory and time of its training follow from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from pipelines.core.errors import DataError
from pipelines.core.records import Record

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a Llama, Qwen3 or Mistral block; vLLM serves adapters on them."""


class ModelShape(Record):
    """A dense decoder as Llama, Qwen3 and Mistral are: gated MLP, grouped-query attention."""

    layers: int = Field(gt=0)
    hidden: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    intermediate: int = Field(gt=0)
    vocab: int = Field(gt=0)
    max_positions: int = Field(gt=0)
    """Longest text that the model was made for, in tokens."""
    tied: bool = False
    """The head shares its weights with the embeddings."""
    head_norms: bool = False
    """Queries and keys are normed, as in Qwen3."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """Read the content of a config.json.

        Raises:
            DataError: it is none of a dense decoder, or lacks a size.
        """
        experts = [key for key in ("num_experts", "num_local_experts") if config.get(key)]
        if experts:
            raise DataError(f"config.json: {experts[0]}: only dense models can be estimated")
        hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
        sizes = {
            "num_hidden_layers": config.get("num_hidden_layers"),
            "hidden_size": hidden,
            "num_attention_heads": heads,
            "intermediate_size": config.get("intermediate_size"),
            "vocab_size": config.get("vocab_size"),
            "max_position_embeddings": config.get("max_position_embeddings"),
        }
        if absent := [key for key, value in sizes.items() if not isinstance(value, int)]:
            raise DataError(f"config.json: no {', '.join(absent)}: not the file of a dense decoder")
        assert isinstance(hidden, int)
        assert isinstance(heads, int)
        return cls(
            layers=config["num_hidden_layers"],
            hidden=hidden,
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or hidden // heads,
            intermediate=config["intermediate_size"],
            vocab=config["vocab_size"],
            max_positions=config["max_position_embeddings"],
            tied=bool(config.get("tie_word_embeddings", False)),
            head_norms=config.get("model_type") == "qwen3",
        )

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """Each linear layer of a block -> inputs, outputs."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        sizes = (
            (self.hidden, q),
            (self.hidden, kv),
            (self.hidden, kv),
            (q, self.hidden),
            (self.hidden, self.intermediate),
            (self.hidden, self.intermediate),
            (self.intermediate, self.hidden),
        )
        return dict(zip(TARGETS, sizes, strict=True))

    @property
    def linear_parameters(self) -> int:
        """Of the linear layers of all blocks; the head is not one of them."""
        return self.layers * sum(a * b for a, b in self.linear.values())

    @property
    def head_parameters(self) -> int:
        """Of the head; as many as the embeddings have."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All of them, biases excepted."""
        embeddings = self.head_parameters * (1 if self.tied else 2)
        norms = (2 * self.layers + 1) * self.hidden
        norms += 2 * self.layers * self.head_dim if self.head_norms else 0
        return self.linear_parameters + embeddings + norms

    def adapter_parameters(self, rank: int, targets: tuple[str, ...] = TARGETS) -> int:
        """Of a LoRA adapter of this rank on `targets` of every block."""
        return self.layers * rank * sum(sum(self.linear[name]) for name in targets)
