"""The passages that a study searches: JSON Lines, or those of a public set."""

from __future__ import annotations

from typing import cast

from pydantic import ValidationError

from pipelines.core import json_lines
from pipelines.core.errors import ConfigError
from pipelines.core.paths import ROOT, shown
from pipelines.core.records import Passage
from pipelines.core.workload import Retrieval
from pipelines.data import formats, sources


def load(config: Retrieval) -> list[Passage]:
    """Passages of a study.

    Raises:
        ConfigError: `format` names none that has passages.
        DataError: the file is absent or empty, a line is bad, or an id stands twice.
    """
    if config.format:
        return load_formatted(config.passages, config.format)
    file = ROOT / config.passages
    passages: dict[str, Passage] = {}
    problems: list[str] = []
    for place, passage in json_lines.read(file, Passage):
        if passages.setdefault(passage.id, passage) is not passage:
            problems.append(f"{place}: id: {passage.id!r} stands already above")
    json_lines.refuse(shown(file), problems if passages else ["no passages"])
    return list(passages.values())


def load_formatted(path: str, format: str) -> list[Passage]:
    """Passages of a file or folder in one of the formats of pipelines/data/formats/.

    Args:
        path: may begin with `$NAME/`.
        format: one that has passages.

    Raises:
        ConfigError: there is no such format, or it has none.
        DataError: the file is absent, or passages are bad; lists them with their places.
    """
    module = formats.load(format)
    if not hasattr(module, "passages"):
        raise ConfigError(f"format {format!r} has no passages to search")
    folder = sources.existing(path)
    found: list[Passage] = []
    problems: list[str] = []
    for place, raw in cast(formats.HasPassages, module).passages(folder):
        if isinstance(raw, str):
            problems.append(f"{place}: {raw}")
            continue
        try:
            found.append(Passage.model_validate(raw))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            problems.append(f"{place}: {key}: {first['msg']}")
    if not found and not problems:
        problems.append("no passages")
    json_lines.refuse(shown(folder), problems)
    return found
