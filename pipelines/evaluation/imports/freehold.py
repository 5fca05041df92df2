"""Our own format: JSON Lines of `id`, `text` or `error`, and what is known of the answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pipelines.core import json_lines
from pipelines.evaluation.imports import RecordedAnswer, Row

TITLE = "JSON Lines of id and text"


def detects(head: bytes, path: Path) -> bool:
    """The first key is a field of ours; an empty file is ours, too."""
    first = re.match(rb'(?:\xef\xbb\xbf)?\s*(?:\{\s*"(\w+)"\s*:|$)', head)
    return first is not None and (
        first[1] is None or first[1].decode() in RecordedAnswer.model_fields
    )


def read(path: Path) -> Iterator[Row]:
    """The answers in the file.

    Raises:
        DataError: lines are bad; lists them.
    """
    for place, answer in json_lines.read(path, RecordedAnswer):
        yield Row(place, answer)
