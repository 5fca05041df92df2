"""Where the project's files are."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""Folder of pyproject.toml; relative paths in a study start here."""

MLRUNS = ROOT / "mlruns"


def cache_dir() -> Path:
    """Folder of what can be rebuilt, the toy base: `$FREEHOLD_CACHE`, else the user's cache."""
    return Path(os.environ.get("FREEHOLD_CACHE") or Path.home() / ".cache" / "freehold")


def shown(path: Path) -> str:
    """`path` as a person would type it from the project's folder."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
