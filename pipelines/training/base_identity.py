"""Names exactly one set of base weights, without importing torch or touching the network."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipelines.core.paths import ROOT
from pipelines.core.study import BaseModelRef

TOY_TEXT = ROOT / "eval_sets" / "support" / "train.jsonl"
"""What the toy is pre-trained on."""
TOY_SOURCE = Path(__file__).with_name("toy_base.py")


def identity(ref: BaseModelRef) -> str:
    """Equal names mean equal weights (for the hub: as far as the revision is pinned)."""
    if ref.build == "toy":
        digest = hashlib.sha256(TOY_SOURCE.read_bytes() + TOY_TEXT.read_bytes())
        return f"toy-{digest.hexdigest()[:16]}"
    return f"hub:{ref.hub}@{ref.revision or 'main'}" if ref.hub else f"path:{ref.path}"
