"""The one switch against the outside: each library's own variable, set before it is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping

SWITCH = "FREEHOLD_OFFLINE"
"""`1` = nothing may leave for the internet; `--offline` sets it, children inherit it."""

SILENT: Mapping[str, str] = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAGAS_DO_NOT_TRACK": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Always set: usage statistics are nobody's business. `DO_NOT_TRACK` is not among them: vLLM wants
`1` there and MLflow `true`, so that one value cannot serve both; each has a variable of its own."""
NO_CATALOG: Mapping[str, str] = {"MLFLOW_MODEL_CATALOG_URI": ""}
"""Set where the user did not: MLflow's default fetches live prices, which is not reproducible and
takes 7 s per provider without a network."""
CLOSED: Mapping[str, str] = {
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    **SILENT,
    **NO_CATALOG,
}
"""Set while the switch is on, whatever the user set."""


def is_on() -> bool:
    """Whether the switch is on; any value but an explicit no counts."""
    return os.environ.get(SWITCH, "").strip().lower() not in ("", "0", "false", "no", "off")


def apply(offline: bool = False) -> None:
    """Set the variables of this process, which its children inherit.

    Args:
        offline: turn the switch on; it also is on where `FREEHOLD_OFFLINE` says so.
    """
    if offline:
        os.environ[SWITCH] = "1"
    if is_on():
        os.environ.update(CLOSED)
    os.environ.update(SILENT)
    for name, value in NO_CATALOG.items():
        os.environ.setdefault(name, value)
