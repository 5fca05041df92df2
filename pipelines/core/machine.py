"""What this program runs on, and whether that is what a price is for."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def here() -> str:
    """Processor and accelerators of this machine, in words."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = _stated(info, "model name")
        model = names[0] if names else model
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    gpus = [name for card in cards for name in _stated(card, "Model")]
    return ", ".join([f"{len(os.sched_getaffinity(0))} cores of {model}", *gpus])


def has(gpu: str | None, machine: str) -> bool:
    """Whether `machine`, as `here` writes it, has this kind of GPU; None = it must have none.

    Args:
        gpu: maker and chip, as a file in configs/hardware/ says: `NVIDIA H100`.
        machine: `2 cores of ..., NVIDIA H100 80GB HBM3`.
    """
    if gpu is None:
        return "NVIDIA" not in machine
    chip = gpu.split()[1] if len(gpu.split()) > 1 else gpu
    return re.search(rf"\b{re.escape(chip)}\b", machine.partition(",")[2]) is not None


def _stated(file: Path, key: str) -> list[str]:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.partition(":")[2].strip() for line in lines if line.startswith(key)]
