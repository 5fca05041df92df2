from __future__ import annotations

from typing import get_args

from pipelines.core.hardware import Figure
from pipelines.core.own_costs import OwnCosts
from pipelines.core.records import Record
from pipelines.economics.symbols import IN_WORDS, amount, in_words


def _figures(kind: type[Record], before: str = "") -> set[str]:
    """Names of all figures in a record, and in the records in it."""
    found: set[str] = set()
    for name, field in kind.model_fields.items():
        for each in _types(field.annotation):
            if isinstance(each, type) and issubclass(each, Figure):
                found.add(before + name)
            elif isinstance(each, type) and issubclass(each, Record):
                found |= _figures(each, f"{name}.")
    return found


def _types(annotation: object) -> list[object]:
    """The annotation and all that it is made of."""
    return [annotation, *(each for part in get_args(annotation) for each in _types(part))]


def test_every_input_of_owning_has_words():
    symbols = {name for name in _figures(OwnCosts) if not name.startswith("outlook")}
    of_machine = {"usd_per_machine_hour", "capacity_per_s", "cold_start_s"}
    assert symbols | of_machine == set(IN_WORDS)


def test_an_amount_is_money_only_where_it_is_dollars():
    assert in_words("operations_usd_per_month") == "operations per month"
    assert amount("operations_usd_per_month", 797.0) == "$797"
    assert amount("tuning.usd_per_label", 0.25) == "$0.25"
    assert amount("people.fte", 0.1) == "0.1"
    assert in_words("volume") == "volume"
