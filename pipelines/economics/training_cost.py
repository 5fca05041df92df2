"""What a LoRA training will take, told before it runs: memory of a GPU, time, dollars."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import NamedTuple

from pipelines.core.hardware import END_NAMES, OTHER, Figure, Hardware
from pipelines.core.model_shape import ModelShape
from pipelines.core.results import Checkpointing, TrainingEstimate
from pipelines.core.study import FinetuneConfig
from pipelines.economics.gpu_hour import usd_per_machine_hour

GIB = 2**30
POLICIES: tuple[Checkpointing, ...] = ("none", "selective", "full", "offload")
"""In the order in which they are tried: each needs less memory and more time than the last."""
USABLE_SHARE = 0.92
"""Of a GPU's memory, an assumption: CUDA takes some, and some is lost between blocks."""
BF16 = 2
"""Bytes of a number."""
FP32 = 4
ADAPTER_BYTES = 4 * FP32
"""Of an adapter's parameter: itself, its gradient, AdamW's two moments."""
WEIGHT_BYTES = {"none": BF16, "int8": 1.0, "nf4": 4.127 / 8}
"""Of a weight of a linear layer; NF4 with doubly quantised scales."""
SLOWDOWN = {"none": 1.0, "int8": 1.05, "nf4": 1.05}
"""Time to turn weights into bf16 again, in micro-batches of thousands of tokens; assumed."""
LOGIT_BYTES = 2 * FP32
"""Of one logit while its loss is computed: itself, and its exponential."""
GATHERED_BLOCKS = 3
"""Of a sharded base, whole at a time: the one that computes, the next, and how that one arrives."""
BACKWARD_ATTENTION = 2.5
"""Of the forward pass: the flash kernels compute the scores again."""


class Work(NamedTuple):
    """What there is to train."""

    n_tokens: int
    """All epochs."""
    row_tokens: float
    """Mean tokens of a row: how far attention looks."""
    micro_batch_tokens: int
    """Of one forward pass."""
    logit_tokens: int
    """Whose logits exist at the same time."""


def block_bytes(shape: ModelShape) -> int:
    """Bytes that one block keeps of a token for the backward pass; frozen weights, bf16.

    Kept are: the inputs of both norms in fp32, what attention reads and gives, the three inner
    tensors of the gated MLP, and one input for each group of adapters that reads the same.
    """
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = 2 * FP32 * (shape.hidden + 1)
    if shape.head_norms:
        norms += FP32 * (q + kv + shape.heads + shape.kv_heads)
    attention = BF16 * 2 * (q + kv) + FP32 * shape.heads
    mlp = BF16 * 3 * shape.intermediate
    adapters = BF16 * (2 * shape.hidden + shape.intermediate)
    return norms + attention + mlp + adapters


def recomputed_blocks(shape: ModelShape, policy: Checkpointing) -> int:
    """Blocks whose activations are computed again in the backward pass."""
    if policy == "selective":
        return (shape.layers + 1) // 2
    return 0 if policy == "none" else shape.layers


def token_bytes(shape: ModelShape, policy: Checkpointing) -> int:
    """Bytes that the whole model keeps of a token on the GPU; the head's are apart.

    A block that is computed again keeps its input, and holds all that it needs when its turn comes.
    Inputs that are offloaded pass through: two of them are there at a time.
    """
    block, again = block_bytes(shape), recomputed_blocks(shape, policy)
    ends = FP32 * (shape.hidden + 1) + BF16 * 2 * shape.head_dim
    n_inputs = min(2, again) if policy == "offload" else again
    kept = (shape.layers - again) * block + n_inputs * BF16 * shape.hidden
    return kept + ends + (block if again else 0)


def token_flop(
    shape: ModelShape, adapter_parameters: int, row_tokens: float, policy: Checkpointing
) -> float:
    """Floating-point operations of a token, forward and backward; the base gets no gradients.

    A multiplication and an addition are two. Causal attention looks at half of the row on average.
    """
    linear, head = 2.0 * shape.linear_parameters, 2.0 * shape.head_parameters
    attention = 2.0 * row_tokens * shape.heads * shape.head_dim * shape.layers
    adapters = 2.0 * adapter_parameters
    again = recomputed_blocks(shape, policy) / shape.layers
    return (
        2 * (linear + head)
        + (1 + BACKWARD_ATTENTION) * attention
        + 3 * adapters
        + again * (linear + adapters + attention)
    )


def memory_gib(
    shape: ModelShape,
    adapter_parameters: int,
    quantization: str,
    work: Work,
    policy: Checkpointing,
    n_shards: int = 1,
) -> dict[str, float]:
    """GiB of one GPU, by part; of a base in several shards it gathers what computes."""
    linear = shape.linear_parameters
    outside = (shape.parameters - linear) * BF16
    weights = outside + linear * WEIGHT_BYTES[quantization]
    if n_shards > 1:
        weights = weights / n_shards + outside + GATHERED_BLOCKS * linear / shape.layers * BF16
    parts = {
        "weights" if n_shards == 1 else "sharded weights": weights,
        "adapter and optimiser": ADAPTER_BYTES * adapter_parameters,
        "activations": work.micro_batch_tokens * token_bytes(shape, policy),
        "logits": work.logit_tokens * shape.vocab * LOGIT_BYTES,
    }
    return {name: size / GIB for name, size in parts.items()}


def n_machines(n_processes: int, n_gpus: int) -> int:
    """Machines that are paid while processes train: each has a GPU, or all share one without."""
    return math.ceil(n_processes / n_gpus) if n_gpus else 1


def settled(
    shape: ModelShape | None,
    config: FinetuneConfig,
    work: Work,
    hardware: Hardware | None,
    gpu_gib: float | None = None,
) -> FinetuneConfig:
    """`config` without `sharding: auto`; the arguments are those of `estimate`.

    The processes share the base where they can and one GPU does not hold it with the activations,
    whatever is computed again on it.
    """
    if config.sharding != "auto":
        return config
    whole = config.model_copy(update={"sharding": "none"})
    adapter, size = _adapter_parameters(shape, config), _gpu_gib(hardware, gpu_gib)
    if shape is None or adapter is None or size is None or config.why_not_sharded:
        return whole
    policy, _ = _fit(shape, adapter, whole, work, USABLE_SHARE * size)
    last_resort = policy == "offload" and config.gradient_checkpointing == "auto"
    if policy and not last_resort:
        return whole
    return config.model_copy(update={"sharding": "fsdp2"})


def estimate(
    shape: ModelShape | None,
    config: FinetuneConfig,
    work: Work,
    hardware: Hardware | None,
    *,
    gpu_gib: float | None = None,
    tokens_per_s: float | None = None,
) -> TrainingEstimate:
    """Memory, time and dollars, each as far as it is known.

    Args:
        shape: the base; None = not known.
        config: of the training, its rank chosen.
        work: what there is to train.
        hardware: the machine, or several of them where the processes need more GPUs; None = this
            machine.
        gpu_gib: memory of one GPU of this machine, where no hardware is named.
        tokens_per_s: of all processes, measured on the very machine in an earlier run with as many;
            goes before the GPU's peak.
    """
    reasons: list[str] = []
    config = settled(shape, config, work, hardware, gpu_gib)
    adapter = _adapter_parameters(shape, config)
    memory: dict[str, float] = {}
    policy: Checkpointing | None = None
    available: float | None = None
    fits: bool | None = None
    if shape is None or adapter is None:
        reasons.append("the base's sizes are not known: no finetune.shape, no config.json here")
    elif (size := _gpu_gib(hardware, gpu_gib)) is None:
        why = f"{hardware.name} has no GPU" if hardware else "finetune.hardware names no GPU"
        reasons.append(f"no memory: {why}")
    else:
        available = USABLE_SHARE * size
        policy, memory = _fit(shape, adapter, config, work, available)
        fits = policy is not None
        if policy is None:
            reasons.append(_too_large(config, sum(memory.values()), available))
        if config.lora.dropout or config.lora.dora:
            reasons.append("dropout and DoRA keep more than is counted here")
    time = None
    if tokens_per_s is not None:
        time = Figure.of(repr(work.n_tokens / tokens_per_s))
    elif hardware is None:
        reasons.append("no time: no earlier run of this preset on this machine was measured")
    elif hardware.training is None:
        reasons.append(f"no time: {hardware.name} says no `training` speed")
    elif shape is not None and adapter is not None and policy is not None:
        flop = work.n_tokens * token_flop(shape, adapter, work.row_tokens, policy)
        time = _seconds(flop * SLOWDOWN[config.quantization] / config.n_processes, hardware)
    if hardware is None:
        reasons.append("no dollars: finetune.hardware names no price")
    return TrainingEstimate(
        hardware=None if hardware is None else hardware.name,
        parameters=None if shape is None else shape.parameters,
        adapter_parameters=adapter,
        rank=config.lora.rank,
        n_tokens=work.n_tokens,
        memory_gib=memory,
        available_gib=available,
        checkpointing=policy,
        fits=fits,
        train_s=time,
        usd=None if time is None or hardware is None else _usd(time, hardware, config),
        reasons=tuple(reasons),
    )


def _adapter_parameters(shape: ModelShape | None, config: FinetuneConfig) -> int | None:
    targets = {} if config.lora.targets == "all-linear" else {"targets": config.lora.targets}
    return None if shape is None else shape.adapter_parameters(config.lora.rank, **targets)


def _fit(
    shape: ModelShape, adapter: int, config: FinetuneConfig, work: Work, available: float
) -> tuple[Checkpointing | None, dict[str, float]]:
    """The fastest policy that fits, and its memory; None and the memory of the last one tried."""
    asked = config.gradient_checkpointing
    shards = config.n_processes if config.sharding == "fsdp2" else 1
    memory: dict[str, float] = {}
    for policy in POLICIES if asked == "auto" else (asked,):
        memory = memory_gib(shape, adapter, config.quantization, work, policy, shards)
        if sum(memory.values()) <= available:
            return policy, memory
    return None, memory


def _seconds(flop: float, hardware: Hardware) -> Figure:
    """Of one GPU."""
    speed = hardware.training
    assert speed is not None
    peak = Decimal(repr(speed.bf16_tflops)) * 10**12
    low, likely, high = (
        Decimal(repr(flop)) / (peak * speed.used_share.at(OTHER[end])) for end in END_NAMES
    )
    source = f"{speed.source}; used share: {speed.used_share.source or 'as there'}"
    return Figure(low=low, likely=likely, high=high, source=source, checked_on=speed.checked_on)


def _usd(time: Figure, hardware: Hardware, config: FinetuneConfig) -> Figure:
    price, n = usd_per_machine_hour(hardware), n_machines(config.n_processes, hardware.n_gpus)
    low, likely, high = (n * time.at(end) / 3600 * price.at(end) for end in END_NAMES)
    return price.model_copy(update={"low": low, "likely": likely, "high": high})


def _gpu_gib(hardware: Hardware | None, here: float | None) -> float | None:
    """Memory of one GPU; the file of a machine says that of all of them."""
    if hardware is None or hardware.memory_gib is None:
        return None if hardware else here
    return hardware.memory_gib / max(1, hardware.n_gpus)


def _too_large(config: FinetuneConfig, needed: float, available: float) -> str:
    advice = ["a lower finetune.micro_batch_tokens", "shorter rows", "a larger GPU"]
    if config.quantization == "none":
        advice.insert(0, "finetune.quantization: nf4")
        more = "more" if config.sharding == "fsdp2" else "several"
        advice.insert(1, f"{more} finetune.n_processes that share the base (finetune.sharding)")
    if config.gradient_checkpointing != "auto":
        advice.insert(0, "finetune.gradient_checkpointing: auto")
    return (
        f"does not fit: about {needed:.1f} GiB are needed, and {available:.1f} can be used; try "
        + " or ".join(advice)
    )
