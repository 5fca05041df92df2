"""Add a LoRA adapter into the weights of its base, so that they can be served as one model."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file

from pipelines.core.errors import DataError
from pipelines.core.paths import cache_dir
from pipelines.core.progress import say
from pipelines.training.base_model import WANTED, weights_sha256
from pipelines.training.lora import file_sha256

METHOD = "written into a copy, summed in fp32"
"""Part of the digest: what was merged in another way is merged again."""
PREFIX, A, B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
"""How peft names the tensors of an adapter."""
NO_MATTER = frozenset(
    {
        *("peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path"),
        *("revision", "inference_mode", "r", "lora_alpha", "use_rslora", "rank_pattern"),
        *("alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform"),
        *("layers_pattern", "lora_dropout", "init_lora_weights", "eva_config", "runtime_config"),
        *("megatron_core", "qalora_group_size"),
    }
)
"""Settings of peft that are heeded here, or that a merge need not know."""
PLAIN_INITS = (True, False, "gaussian", "orthogonal", "eva")
"""Ways to begin that leave the base's weights as they are; others train against changed ones."""
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""safetensors' names for the types that can be added to."""


def merged(base_dir: Path, adapter_dir: Path) -> Path:
    """Folder with the merged weights and the base's tokenizer; made once per base and adapter.

    The files keep the base's names, order and types. Each sum is computed in fp32 and rounded once;
    for a base in bf16 that is why a merged model does not always answer as base + adapter do. The
    base is copied file by file and then changed in place: a merge needs memory for one matrix,
    whatever the size of the model.

    Args:
        base_dir: Hugging Face folder of the open model, not quantised.
        adapter_dir: peft folder with a LoRA of linear layers.

    Raises:
        DataError: the base is quantised, or the adapter is none that this sum is right for: DoRA,
            whole modules or biases trained beside it, tensors that fit no weight of the base.
    """
    folder = cache_dir() / f"merged-{_digest(base_dir, adapter_dir)[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            say(f"serve: merging the adapter into the weights, in {folder}")
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            _merge(base_dir, adapter_dir, partial)
            partial.rename(folder)
    return folder


@dataclass(frozen=True)
class _Update:
    """What is added to one weight: scale * up @ down."""

    down: torch.Tensor
    """Float[Tensor, "rank inputs"]."""
    up: torch.Tensor
    """Float[Tensor, "outputs rank"]."""
    scale: float


def _merge(base_dir: Path, adapter_dir: Path, to: Path) -> None:
    base = json.loads((base_dir / "config.json").read_text(encoding="utf-8"))
    if quantised := base.get("quantization_config"):
        raise DataError(
            f"{base_dir} holds quantised weights ({quantised.get('quant_method', 'no name')}): "
            "what is added to them would be rounded away. Merge into the weights as they were "
            "before, or serve the adapter (serving.weights: adapter)"
        )
    updates = _updates(adapter_dir)
    shards = _shards(base_dir)
    weights = {name for shard in shards for name in _header(base_dir / shard)[0]}
    if lost := sorted(updates.keys() - weights):
        raise DataError(
            f"{adapter_dir}: {len(lost)} of {len(updates)} adapted weights are not in {base_dir}: "
            f"{', '.join(lost[:3])}. The adapter belongs to another base, or to weights that this "
            "one ties or stores under another name; serve the adapter (serving.weights: adapter)"
        )
    to.mkdir()
    for pattern in WANTED:
        for path in base_dir.glob(pattern):
            if not path.name.endswith(".safetensors"):
                shutil.copyfile(path, to / path.name)
    for shard in shards:
        shutil.copyfile(base_dir / shard, to / shard)
        _add(to / shard, updates)


def _updates(adapter_dir: Path) -> dict[str, _Update]:
    """Name of a weight of the base -> what is added to it."""
    config = json.loads((adapter_dir / "adapter_config.json").read_text(encoding="utf-8"))
    _check_plain(config, adapter_dir)
    tensors = load_file(adapter_dir / "adapter_model.safetensors")
    modules = {name.removesuffix(A) for name in tensors if name.endswith(A)}
    expected = {module + end for module in modules for end in (A, B)}
    if unknown := sorted(expected ^ tensors.keys()):
        raise DataError(
            f"{adapter_dir}: not pairs of lora_A and lora_B of linear layers: "
            f"{', '.join(unknown[:3])}. Such an adapter cannot be merged"
        )
    found: dict[str, _Update] = {}
    for module in sorted(modules):
        name = module.removeprefix(PREFIX)
        down, up = tensors[module + A], tensors[module + B]
        rank = _of_module(config.get("rank_pattern"), name, config["r"])
        if (rank, rank) != (down.shape[0], up.shape[1]):
            raise DataError(
                f"{adapter_dir}: {name} has rank {down.shape[0]}, its config says {rank}: "
                "the two files do not belong together"
            )
        alpha = _of_module(config.get("alpha_pattern"), name, config["lora_alpha"])
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        found[f"{name}.weight"] = _Update(down, up, scale)
    return found


def _check_plain(config: Mapping[str, Any], adapter_dir: Path) -> None:
    """Only W + scale * B @ A is known here; every other setting of peft is refused by its name."""
    other = {
        key: value
        for key, value in config.items()
        if key not in NO_MATTER and value not in (None, False, "none") and value != {}
    }
    if config.get("peft_type") != "LORA":
        other["peft_type"] = config.get("peft_type")
    if config.get("init_lora_weights", True) not in PLAIN_INITS:
        other["init_lora_weights"] = config["init_lora_weights"]
    if other:
        named = ", ".join(f"{key}: {json.dumps(value)}" for key, value in sorted(other.items()))
        raise DataError(
            f"{adapter_dir}: only a plain LoRA can be merged, and this one has {named}. Train it "
            "without, or merge it with the library that made it and give the result as "
            "finetune.base.path"
        )


def _of_module(pattern: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    pattern = pattern or {}
    return pattern.get(get_pattern_key(list(pattern), module), default)


def _shards(base_dir: Path) -> list[str]:
    """Names of the files that hold the weights; others may lie beside them in other formats."""
    index = base_dir / "model.safetensors.index.json"
    if index.exists():
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return sorted(path.name for path in base_dir.glob("*.safetensors"))


def _header(shard: Path) -> tuple[dict[str, Any], int]:
    """The tensors of a safetensors file, and where their bytes begin."""
    with shard.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        tensors = json.loads(file.read(size))
    tensors.pop("__metadata__", None)
    return tensors, 8 + size


def _add(shard: Path, updates: Mapping[str, _Update]) -> None:
    """Change the weights of one file in place, one after the other."""
    tensors, start = _header(shard)
    with shard.open("r+b") as file:
        for name in sorted(updates.keys() & tensors.keys()):
            update, entry = updates[name], tensors[name]
            shape = [update.up.shape[0], update.down.shape[1]]
            if entry["shape"] != shape or entry["dtype"] not in DTYPES:
                raise DataError(
                    f"{name}: the adapter adds to {shape} numbers, the base holds {entry['shape']} "
                    f"in {entry['dtype']}: the adapter belongs to another base"
                )
            at, end = (start + offset for offset in entry["data_offsets"])
            file.seek(at)
            raw = bytearray(file.read(end - at))
            weight = torch.frombuffer(raw, dtype=DTYPES[entry["dtype"]]).view(shape)
            change = update.up.float() @ update.down.float() * update.scale
            weight.copy_(weight.float() + change)
            if not weight.isfinite().all():
                raise DataError(f"{name}: base and adapter add up to numbers that are not finite")
            file.seek(at)
            file.write(raw)


def _digest(base_dir: Path, adapter_dir: Path) -> str:
    """Of the base's files and the adapter's; its config holds the scale."""
    config = json.loads((adapter_dir / "adapter_config.json").read_text(encoding="utf-8"))
    # peft keeps the names of the modules in a set: their order is another one in each process.
    plain = {key: sorted(x, key=str) if isinstance(x, list) else x for key, x in config.items()}
    parts = [
        METHOD,
        weights_sha256(base_dir),
        file_sha256(adapter_dir / "adapter_model.safetensors"),
        json.dumps(plain, sort_keys=True),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
