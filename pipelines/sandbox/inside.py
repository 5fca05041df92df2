"""Runs inside the sandbox as its program: takes steps one after the other and reports each.

Standard input is one JSON object, `{"nonce", "steps": [[kind, source], ...]}`. Each step gives one
line `NONCE NUMBER STATUS PAYLOAD` on a copy of standard output that no `print` reaches. What the
steps run may be hostile: it can garble or end these lines, and with effort it can forge them, so
nothing that it must not know is ever in here; `evaluate.py` reads them accordingly.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
from collections import Counter, OrderedDict
from decimal import Decimal
from fractions import Fraction
from typing import Any, cast

MODULE = "answer"
"""Not `__main__`: an answer's own demonstration under `if __name__ == ...` stays out."""

BY_ITEMS: list[tuple[type, str]] = [
    (OrderedDict, "OrderedDict"),
    (Counter, "Counter"),
    (dict, "dict"),
]
BY_ELEMENTS: list[tuple[type, str]] = [
    (list, "list"),
    (tuple, "tuple"),
    (set, "set"),
    (frozenset, "frozenset"),
    (type({}.keys()), "set"),  # both equal a set
    (type({}.items()), "set"),
]


class Unencodable(Exception):
    """A value that has no meaning outside this process, such as an instance of an own class."""


def main() -> None:
    """Take all steps; end at once, whatever threads the answer left behind."""
    job = json.load(sys.stdin)
    nonce: str = job.pop("nonce")
    channel = os.dup(1)
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    module = type(sys)(MODULE)
    sys.modules[MODULE] = module  # dataclasses look their module up
    for number, (kind, source) in enumerate(job["steps"]):
        status, payload = take(kind, source, module.__dict__)
        os.write(channel, f"{nonce} {number} {status} {payload}\n".encode())
    os._exit(0)


def take(kind: str, source: str, names: dict[str, Any]) -> tuple[str, str]:
    """Status and payload of one step."""
    try:
        if kind == "run":
            exec(compile(source, f"{MODULE}.py", "exec", dont_inherit=True), names)  # noqa: S102
            return "done", ""
        value = eval(compile(source, "test", "eval", dont_inherit=True), names)  # noqa: S307
        return "value", json.dumps(encode(value))
    except Unencodable as error:
        return "opaque", ascii(str(error))
    except BaseException as error:
        return "raised", ascii(type(error).__name__)


def encode(value: Any) -> list[Any]:
    """Kind and content, as JSON can hold them; subclasses by what they hold.

    Methods are taken from the built-in type, not from the value, which may lie about itself.
    """
    cls: type = type(value)
    if value is None or cls is bool:
        return ["constant", value]
    if issubclass(cls, int):
        return ["int", format(int.__index__(value), "x")]
    if issubclass(cls, float):
        return ["float", float.__repr__(value)]
    if issubclass(cls, complex):
        whole = complex.__add__(value, 0j)
        return ["complex", [repr(whole.real), repr(whole.imag)]]
    if issubclass(cls, str):
        return ["str", str.__str__(value)]
    if issubclass(cls, bytes):
        return ["bytes", bytes.hex(value)]
    if issubclass(cls, bytearray):
        return ["bytearray", bytearray.hex(value)]
    for base, kind in BY_ITEMS:
        if issubclass(cls, base):
            items = cast(Any, dict).items(value)
            return [kind, [[encode(key), encode(held)] for key, held in items]]
    for base, kind in BY_ELEMENTS:
        if issubclass(cls, base):
            return [kind, [encode(element) for element in cast(Any, base).__iter__(value)]]
    return encode_rarer(value, cls)


def encode_rarer(value: Any, cls: type) -> list[Any]:
    """Numbers and dates of the standard library; anything else by its `repr`."""
    if issubclass(cls, Decimal):
        return ["Decimal", Decimal.__str__(value)]
    if issubclass(cls, Fraction):
        return ["Fraction", [format(value.numerator, "x"), format(value.denominator, "x")]]
    if issubclass(cls, datetime.datetime):
        return ["datetime", datetime.datetime.isoformat(value)]
    if issubclass(cls, datetime.date):
        return ["date", datetime.date.isoformat(value)]
    if issubclass(cls, datetime.time):
        return ["time", datetime.time.isoformat(value)]
    if issubclass(cls, datetime.timedelta):
        return ["timedelta", [value.days, value.seconds, value.microseconds]]
    text = repr(value)
    if cls.__module__ == MODULE or " at 0x" in text:
        raise Unencodable(cls.__name__)
    return ["repr", [f"{cls.__module__}.{cls.__qualname__}", text]]


if __name__ == "__main__":
    main()
