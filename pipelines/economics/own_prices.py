"""Our own dated prices: the files in configs/prices/."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, ValidationError

from pipelines.core.config import CONFIGS, read_yaml
from pipelines.core.errors import ConfigError
from pipelines.core.paths import shown
from pipelines.core.prices import TokenPrice
from pipelines.core.records import Record

FOLDER = CONFIGS / "prices"


def _as_list(entry: object) -> object:
    return entry if isinstance(entry, list | tuple) else [entry]  # pyright: ignore[reportUnknownVariableType]


class PriceFile(Record):
    """One file: for each `provider/model` a price, or a list of prices with their dates."""

    tokens: dict[str, Annotated[tuple[TokenPrice, ...], BeforeValidator(_as_list)]] = {}


@cache
def read(folder: Path = FOLDER) -> Mapping[str, tuple[TokenPrice, ...]]:
    """Prices by `provider/model`, the earliest first.

    Raises:
        ConfigError: a file is malformed, or two prices of one model hold on the same day.
    """
    found: dict[str, list[tuple[TokenPrice, Path]]] = {}
    for path in sorted(folder.glob("*.yaml")):
        for name, prices in _parsed(path).tokens.items():
            found.setdefault(name, []).extend((price, path) for price in prices)
    for name, entries in found.items():
        entries.sort(key=lambda entry: entry[0].valid_from or date.min)
        for (one, in_one), (other, in_other) in pairwise(entries):
            if (one.valid_until or date.max) >= (other.valid_from or date.min):
                raise ConfigError(
                    f"{shown(in_other)}: {name} has two prices on {other.valid_from or 'all days'}"
                    f"{'' if in_one == in_other else f', the other one in {shown(in_one)}'}. Give "
                    "the earlier one a valid_until, the later one a valid_from."
                )
    return {name: tuple(price for price, _ in entries) for name, entries in found.items()}


def _parsed(path: Path) -> PriceFile:
    try:
        return PriceFile.model_validate(read_yaml(path))
    except ValidationError as error:
        listed = "\n  ".join(
            f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()
        )
        raise ConfigError(f"{shown(path)}: {error.error_count()} problem(s)\n  {listed}") from None
