"""The audit's terms: what one's own contracts with providers take off the list price, or add."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from pipelines.core.audit import AgreedTerms
from pipelines.core.config import read_yaml
from pipelines.core.errors import ConfigError
from pipelines.core.paths import shown
from pipelines.core.records import Record
from pipelines.economics.charge import Charge


class TermsFile(Record):
    """A file of `--terms`."""

    terms: tuple[AgreedTerms, ...]


def read(path: Path) -> tuple[AgreedTerms, ...]:
    """The terms of a file, the most special first: those of a model and a region, then of either.

    Raises:
        ConfigError: the file is malformed, or two entries are for the same calls.
    """
    try:
        found = TermsFile.model_validate(read_yaml(path)).terms
    except ValidationError as error:
        listed = "\n  ".join(
            f"{'.'.join(str(p) for p in e['loc'])}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        )
        raise ConfigError(f"{shown(path)}: {error.error_count()} problem(s)\n  {listed}") from None
    for k, each in enumerate(found):
        if any(each.whose == other.whose for other in found[:k]):
            raise ConfigError(f"{shown(path)}: two entries for {each.whose}; leave one out")
    return tuple(sorted(found, key=lambda it: (it.model is None, it.region is None)))


def of(charge: Charge, terms: Sequence[AgreedTerms]) -> AgreedTerms | None:
    """The first of `terms` that is for these calls; None = they are paid at list prices."""
    names = {charge.group.model, charge.price_name, charge.label}
    return next(
        (
            each
            for each in terms
            if each.provider == charge.provider
            and (each.model is None or each.model in names)
            and (each.region is None or each.region == charge.group.region)
        ),
        None,
    )
