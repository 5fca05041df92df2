"""Evaluate expressions in the sandbox and bring their values out.

What comes out is data that the code in the sandbox chose: the decoder runs nothing of it and makes
only values of built-in types, whose `==` is Python's own.
"""

from __future__ import annotations

import datetime
import json
import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from pipelines.sandbox.process import run

PROGRAM = Path(__file__).with_name("inside.py").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Step:
    """One thing to do; all steps of one process share their names."""

    kind: Literal["run", "value"]
    """run: execute statements · value: evaluate an expression."""
    source: str


@dataclass(frozen=True)
class Outcome:
    """What one step came to."""

    status: str
    """done · value · opaque: a value that cannot leave the process · raised: an exception."""
    payload: str
    """The encoded value; the name of the class or of the exception."""


@dataclass(frozen=True)
class Shown:
    """Stands for an object of a type that is not decoded, such as a range."""

    type: str
    text: str


class Undecodable(ValueError):
    """Not what `inside.py` writes: the code in there has tampered with it."""


def evaluate(steps: Sequence[Step], *, timeout_s: float, memory_bytes: int) -> list[Outcome]:
    """Take all steps in one process; shorter than `steps` when the process ended before.

    Raises:
        Unavailable: the kernel cannot confine; nothing was run.
    """
    nonce = secrets.token_hex(16)
    job = {"nonce": nonce, "steps": [[step.kind, step.source] for step in steps]}
    finished = run(PROGRAM, json.dumps(job), timeout_s=timeout_s, memory_bytes=memory_bytes)
    outcomes: list[Outcome] = []
    for line in finished.stdout.split("\n"):
        start = f"{nonce} {len(outcomes)} "  # in order, each once; anything else is not ours
        if line.startswith(start):
            status, _, payload = line.removeprefix(start).partition(" ")
            outcomes.append(Outcome(status, payload))
    return outcomes[: len(steps)]


def decode(payload: str) -> Any:
    """The value in an outcome's payload.

    Raises:
        Undecodable: the payload is not a value's.
    """
    try:
        return _value(json.loads(payload))
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
        raise Undecodable(str(error)) from None


def _value(node: Any) -> Any:
    kind, content = node
    if kind in _SIMPLE:
        return _SIMPLE[kind](content)
    if kind in _FROM_ELEMENTS:
        return _FROM_ELEMENTS[kind]([_value(each) for each in content])
    return _FROM_ITEMS[kind]({_value(key): _value(held) for key, held in content})


def _constant(content: Any) -> bool | None:
    if content is None or content is True or content is False:
        return content
    raise ValueError(content)


_SIMPLE: dict[str, Callable[[Any], Any]] = {
    "constant": _constant,
    "int": lambda text: int(text, 16),
    "float": float,
    "complex": lambda parts: complex(float(parts[0]), float(parts[1])),
    "str": str,
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "Decimal": Decimal,
    "Fraction": lambda parts: Fraction(int(parts[0], 16), int(parts[1], 16)),
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "timedelta": lambda parts: datetime.timedelta(*parts),
    "repr": lambda parts: Shown(str(parts[0]), str(parts[1])),
}
_FROM_ELEMENTS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
}
_FROM_ITEMS: dict[str, Callable[[dict[Any, Any]], Any]] = {
    "dict": dict,
    "OrderedDict": OrderedDict,
    "Counter": Counter,
}
