"""CLINC150 (Larson et al. 2019), `data_full.json`: 150 intents, and requests that have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.core.errors import DataError
from pipelines.core.paths import shown
from pipelines.data.formats import Rows, converted, read_json

SPLITS = ("train", "val", "test")


def rows(path: Path, split: str) -> Rows:
    """Requests of `split`, then those out of scope; target = the intent, `oos` where none fits."""
    data = read_json(path, dict)
    for part in (split, f"oos_{split}"):
        if not isinstance(data.get(part), list):
            raise DataError(f"{shown(path)}: has no list {part!r}")
        named = ((f"{part}-{n:05d}", pair) for n, pair in enumerate(data[part], start=1))
        yield from converted(((name, (name, pair)) for name, pair in named), _row)


def _row(named: tuple[str, Any]) -> dict[str, Any]:
    name, (text, intent) = named
    return {"id": name, "messages": [{"role": "user", "content": text}], "target": intent}
