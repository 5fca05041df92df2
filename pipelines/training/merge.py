"""Add a LoRA adapter into the weights of its base, so that they can be served as one model."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoModelForCausalLM

from pipelines.core.paths import cache_dir
from pipelines.core.progress import say
from pipelines.training.base_model import WANTED, weights_sha256
from pipelines.training.lora import file_sha256


def merged(base_dir: Path, adapter_dir: Path) -> Path:
    """Folder with the merged weights and the base's tokenizer; made once per base and adapter.

    The weights keep the base's type. For a base in bf16 the sum is rounded to bf16, so that a
    merged model does not always answer as base + adapter do.

    Args:
        base_dir: Hugging Face folder of the open model.
        adapter_dir: peft folder.
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


def _merge(base_dir: Path, adapter_dir: Path, to: Path) -> None:
    base: Any = AutoModelForCausalLM.from_pretrained(base_dir, dtype="auto", use_safetensors=True)
    model: Any = PeftModel.from_pretrained(base, str(adapter_dir))
    model.merge_and_unload(safe_merge=True).save_pretrained(to)
    for pattern in WANTED:
        for path in base_dir.glob(pattern):
            if "safetensors" not in path.name and not (to / path.name).exists():
                shutil.copy(path, to)


def _digest(base_dir: Path, adapter_dir: Path) -> str:
    """Of the base's files and the adapter's; its config holds the scale."""
    config = json.loads((adapter_dir / "adapter_config.json").read_text(encoding="utf-8"))
    # peft keeps the names of the modules in a set: their order is another one in each process.
    plain = {key: sorted(x, key=str) if isinstance(x, list) else x for key, x in config.items()}
    parts = [
        weights_sha256(base_dir),
        file_sha256(adapter_dir / "adapter_model.safetensors"),
        json.dumps(plain, sort_keys=True),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
