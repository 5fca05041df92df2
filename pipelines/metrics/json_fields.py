"""Precision, recall and F1 of the fields of a JSON answer, after normalising their types."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Literal

from pydantic import JsonValue

from pipelines.core.errors import ScoringError, Unparseable
from pipelines.core.records import Example
from pipelines.metrics import Weighted
from pipelines.metrics.json_field import json_object

Figure = Literal["accuracy", "exact", "precision", "recall", "f1", "absent", "schema"]
DATE_FORMATS = ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d.%m.%y", "%d %B %Y", "%d %b %Y", "%B %d %Y")
"""Formats in which day and month cannot be mistaken; 03/04/2026 is not one of them."""


def score(
    example: Example,
    text: str,
    *,
    figure: Figure = "accuracy",
    types: Mapping[str, str] | None = None,
    ignore: tuple[str, ...] = (),
) -> float | Weighted:
    """Compare the answer's fields with the target's; `null` and a missing key mean "absent".

    Args:
        example: the target is a JSON object with every key of the schema.
        text: the answer.
        figure: `accuracy` share of the item's fields that are right, absent ones included ·
            `exact` all of them are · `precision`, `recall`, `f1` of the stated values, over the
            whole set · `absent` share of the absent fields that were left empty, over the whole
            set: 1 - it is the rate of invented values · `schema` the keys are the target's, and
            each value is null or of the target's JSON type.
        types: field -> `text` (the default), `date`, `money`, `integer` or `code`.
        ignore: keys that are not graded.

    Raises:
        Unparseable: the answer holds no JSON object.
        ScoringError: the target holds none, or a parameter is wrong.
    """
    target = json_object(example.target)
    if not target:
        raise ScoringError(f"json_fields: target of example {example.id} is no JSON object")
    fields = [key for key in target if key not in ignore]
    normalise = {key: _normaliser((types or {}).get(key, "text")) for key in fields}
    gold = {key: normalise[key](target[key]) for key in fields if target[key] is not None}
    answer = json_object(text)
    if answer is None:
        weights = {"recall": len(gold), "f1": len(gold), "precision": 0, "absent": 0}
        raise Unparseable("no JSON object", float(weights.get(figure, 1)))
    found = {k: normalise[k](answer[k]) for k in fields if answer.get(k) is not None}
    n_right = sum(key in gold and gold[key] == value for key, value in found.items())
    absent = [key for key in fields if key not in gold]
    n_left_empty = sum(key not in found for key in absent)
    match figure:
        case "accuracy":
            return (n_right + n_left_empty) / len(fields)
        case "exact":
            return float(n_right + n_left_empty == len(fields))
        case "precision":
            return _share(n_right, len(found))
        case "recall":
            return _share(n_right, len(gold))
        case "f1":
            return _share(2 * n_right, len(found) + len(gold))
        case "absent":
            return _share(n_left_empty, len(absent))
        case "schema":
            same_keys = answer.keys() == target.keys()
            return float(same_keys and all(_same_type(answer[k], target[k]) for k in target))
        case _:
            raise ScoringError(f"json_fields: unknown figure {figure!r}")


def example_params() -> dict[str, JsonValue]:
    """Parameters that fit the contract tests' example."""
    return {"figure": "accuracy"}


def _share(part: int, whole: int) -> Weighted:
    return Weighted(part / whole if whole else 0.0, float(whole))


def _same_type(value: object, target: object) -> bool:
    """Null fits everywhere; an absent field's type is not known from its target."""
    return value is None or target is None or type(value) is type(target)


def _normaliser(kind: str) -> Callable[[object], object]:
    try:
        return {
            "text": _text, "date": _date, "money": _money, "integer": _integer, "code": _code
        }[kind]  # fmt: skip
    except KeyError:
        raise ScoringError(f"json_fields: unknown type {kind!r} of a field") from None


def _text(value: object) -> str:
    """Letters and digits in lower case: `ACME  Ltd.` is `Acme Ltd`."""
    folded = unicodedata.normalize("NFKC", str(value)).casefold()
    return " ".join(re.findall(r"\w+", folded))


def _code(value: object) -> str:
    """IBANs and numbers of documents: no spaces, no case."""
    return re.sub(r"\s+", "", str(value)).casefold()


def _date(value: object) -> date | str:
    """A date where the text leaves no doubt, else the text itself, which is then wrong."""
    plain = re.sub(r"(?<=\d)(st|nd|rd|th)\b", "", str(value).strip()).replace(",", " ")
    plain = " ".join(plain.split())
    for pattern in DATE_FORMATS:
        try:
            return datetime.strptime(plain, pattern).date()
        except ValueError:
            continue
    return plain


def _money(value: object) -> Decimal | str:
    """`1.234,50 EUR`, `1,234.5`, `RM 1234.50` and 1234.5 are the same amount."""
    plain = re.sub(r"[^\d.,+-]", "", str(value))
    marks = re.findall(r"[.,]", plain)
    if marks:
        last = plain.rfind(marks[-1])
        digits_behind = len(plain) - last - 1
        # A last mark that occurs once with other than three digits behind it is the decimal one.
        decimal = digits_behind != 3 and marks.count(marks[-1]) == 1
        whole = re.sub(r"[.,]", "", plain[:last])
        plain = f"{whole}.{plain[last + 1 :]}" if decimal else re.sub(r"[.,]", "", plain)
    try:
        return Decimal(plain).quantize(Decimal("0.01"))
    except InvalidOperation:
        return str(value)


def _integer(value: object) -> int | str:
    plain = str(value).strip()
    return int(plain) if re.fullmatch(r"[+-]?\d{1,18}", plain) else plain
