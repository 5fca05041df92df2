"""How answers are graded. To add a metric, add one file here.

`metrics/rouge_l.py` with a function `score(example, text, **params) -> float` makes
`metric: rouge_l` valid in a study. The file name is the registration. Values lie in [0, 1],
higher is better. A metric that is a ratio over the whole set, such as precision, returns
`Weighted(value, weight)` for each item. One that is no ratio either, such as macro-F1, also has
`label(example, text, **params)`, the target's label and the answer's, and `of_labels(labels,
groups, **params) -> Estimate` for the whole set.

A metric that waits for other processes says `WORKERS = 8`: that many answers are then graded at a
time, each in a thread of its own. A `ScoringError` about an item names it as `example ID`; one that
does not is about the parameters, and is reported before anything is asked.

For the contract tests, `example_params()` gives parameters where some are needed,
`contract_example()` an example where one with a JSON target does not fit, and `NEEDS_TARGET =
False` says that the answer alone is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, cast

from pydantic import JsonValue

from pipelines.core.errors import ScoringError
from pipelines.core.plugins import Folder
from pipelines.core.records import Estimate, Example

FOLDER = Folder(__name__, "metric")
names = FOLDER.names
RECORDED_SCORE = "recorded_score"
"""What another harness scored: no file, for evaluation/grading.py reads it off the response."""
SAMPLE = "sample"
"""Metadata key of a repeated item: its number k; its example id ends with `#k`."""


class Weighted(NamedTuple):
    """One item's part of a ratio: `value` x `weight` over `weight`, both summed over the set."""

    value: float
    weight: float
    """0 = the metric says nothing about this item."""


class ScoreText(Protocol):
    """What `score` in a metric file looks like."""

    def __call__(self, example: Example, text: str, **params: JsonValue) -> float | Weighted:
        """Grade one answer in [0, 1].

        Raises:
            Unparseable: the answer has not the form that was asked for: wrong.
            ScoringError: there is no honest number.
        """
        ...


Labels = Mapping[str, tuple[str, str] | None]
"""Example id -> label of the target and of the answer; None = not scored."""


class WholeSet(NamedTuple):
    """How a metric that is no mean of its items is computed."""

    label: Callable[..., tuple[str, str]]
    """Called as `score` is: example, text and the metric's parameters."""
    of_labels: Callable[..., Estimate | None]
    """Called with `Labels`, the groups by example id, and the metric's parameters."""


def whole_set(name: str) -> WholeSet | None:
    """The functions of a metric over the whole set; None when it is the mean of its items."""
    if name == RECORDED_SCORE:
        return None
    module = FOLDER.load(name)
    return WholeSet(module.label, module.of_labels) if hasattr(module, "of_labels") else None


def workers(name: str) -> int:
    """How many answers of a metric are graded at a time."""
    return 1 if name == RECORDED_SCORE else getattr(FOLDER.load(name), "WORKERS", 1)


def load(name: str) -> ScoreText:
    """Import `pipelines.metrics.<name>`.

    Raises:
        ConfigError: there is no such file.
    """
    if name == RECORDED_SCORE:
        return _needs_response
    return cast(ScoreText, FOLDER.load(name).score)


def _needs_response(example: Example, text: str, **params: JsonValue) -> float:
    raise ScoringError(f"{example.id}: only a recorded answer has a recorded score")
