"""Answers on disk before anything else happens: a kill loses none, a second run asks none twice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from pipelines.core.records import Response


class Journal:
    """Append-only JSON Lines file of responses, by the digest of what was asked."""

    def __init__(self, path: Path) -> None:
        """Read what is there; a last line that a kill cut off is dropped."""
        self.path = path
        self.answered: dict[str, Response] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        for line in whole.splitlines():
            try:
                response = Response.model_validate_json(line)
            except ValidationError:
                continue  # written by another version: asked again rather than misread
            self.answered[response.request_sha256] = response
        self._file = path.open("ab")
        self._file.truncate(len(whole))

    def add(self, response: Response) -> None:
        """Keep one answer. Failures are not kept, so that the next run asks again."""
        if response.error is None:
            self.answered[response.request_sha256] = response
            self._file.write(response.model_dump_json().encode() + b"\n")
            self._file.flush()  # survives kill -9; the fsync in close() survives a power cut

    def __enter__(self) -> Self:
        """Use in a `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Force everything to the disk and close."""
        os.fsync(self._file.fileno())
        self._file.close()
