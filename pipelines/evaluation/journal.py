"""Answers on disk before anything else happens: a kill loses none, a second run asks none twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from pipelines.core.records import Response

FSYNC_EVERY = 100
"""Responses between two fsyncs. A kill loses nothing either way; a power cut loses these."""


class Journal:
    """Append-only JSON Lines file of responses, by the digest of what was asked.

    Failures are in it, too: their tokens may have been billed. They count as not answered.
    Only offsets are held in memory; a response is read when it is needed.
    """

    def __init__(self, path: Path) -> None:
        """Read what is there; a last line that a kill cut off is dropped."""
        self.path = path
        self._at: dict[str, int] = {}
        self._final: set[str] = set()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b", buffering=0)
        self._end = 0
        self._unsynced = 0
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                # A line of another version is asked again rather than misread.
                if (response := _parse(line)) is not None:
                    self._index(response, len(line))
                else:
                    self._end += len(line)
        self._file.truncate(self._end)
        self._reader = path.open("rb")

    def __contains__(self, request_sha256: object) -> bool:
        """True when the request need not be sent again."""
        return request_sha256 in self._final

    def get(self, request_sha256: str) -> Response | None:
        """The newest response to a request, a failure included; None when it was never sent."""
        if (offset := self._at.get(request_sha256)) is None:
            return None
        self._reader.seek(offset)
        return Response.model_validate_json(self._reader.readline())

    def rows(self) -> Iterator[Response]:
        """All that was ever received, in order; for what it cost."""
        with self.path.open("rb") as file:
            for line in file:
                if (response := _parse(line)) is not None:
                    yield response

    def add(self, response: Response) -> None:
        """Keep one response; it survives a kill when this returns."""
        line = response.model_dump_json().encode() + b"\n"
        self._file.write(line)
        self._index(response, len(line))
        self._unsynced += 1
        if self._unsynced == FSYNC_EVERY:
            os.fsync(self._file.fileno())
            self._unsynced = 0

    def __enter__(self) -> Self:
        """Use in a `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Force everything to the disk and close."""
        os.fsync(self._file.fileno())
        self._file.close()
        self._reader.close()

    def _index(self, response: Response, n_bytes: int) -> None:
        self._at[response.request_sha256] = self._end
        self._end += n_bytes
        if response.is_final:
            self._final.add(response.request_sha256)
        else:
            self._final.discard(response.request_sha256)


def _parse(line: bytes) -> Response | None:
    try:
        return Response.model_validate_json(line)
    except ValidationError:
        return None
