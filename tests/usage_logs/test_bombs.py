"""Small files that unpack to large ones: refused by name, within the memory that is allowed."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow
import pytest

from pipelines.core.errors import DataError
from pipelines.usage_logs.read import read

START = b'{"timestamp": "2026-11-01T00:00:00Z", "model": "m", "prompt": "'


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_a_packed_line_without_end_is_refused(tmp_path: Path, ending: str) -> None:
    bomb = START + b"x" * 18_000_000 + b'"}\n'
    path = tmp_path / f"log.jsonl.{ending}"
    packed = (
        gzip.compress(bomb, 1) if ending == "gz" else pyarrow.compress(bomb, "zstd", asbytes=True)
    )
    path.write_bytes(packed)
    assert len(packed) < 120_000
    with pytest.raises(DataError, match=rf"log\.jsonl\.{ending}"):
        read([path], thresholds=[], memory_gib=0.5)
