"""CyberSecEval's instruct prompts (Bhatt et al. 2023): tasks whose original code was insecure."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from pipelines.data.formats import Rows, converted, read_json

SPLITS = ("test",)


def rows(path: Path, split: str) -> Rows:
    """Prompts; target = the insecure excerpt that each was made from, no model to follow."""
    prompts = cast(list[Any], read_json(path, list))
    yield from converted(((f"entry {n}", raw) for n, raw in enumerate(prompts, start=1)), _row)


def _row(raw: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": str(raw["prompt_id"]),
        "messages": [{"role": "user", "content": raw["test_case_prompt"].strip()}],
        "target": raw["origin_code"],
        "group": raw["repo"],
        "metadata": {"cwe": raw["cwe_identifier"]},
    }
