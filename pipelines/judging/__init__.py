"""How answers are judged by other models. To add a way of judging, add one file here.

`judging/style.py` with an async function `judge(ask, item, **params) -> Judgement` makes
`metric: style` with `judges: [...]` valid in a study. The file name is the registration. `ask`
sends one conversation to one judge, at temperature 0, and gives its text; all else (journal,
price, budget, retries) happens behind it, so that a conversation which was once answered is never
paid again. `NEEDS_RIVAL = True` says that the incumbent's answer to the same item is compared.
"""

from __future__ import annotations

from typing import Protocol, cast

from pydantic import JsonValue

from pipelines.core.plugins import Folder
from pipelines.core.records import Example, Message, Record

FOLDER = Folder(__name__, "way of judging", parts=("defence", "families", "prompt"))
names = FOLDER.names


class Item(Record):
    """What is judged."""

    example: Example
    """With its reference answer as `target` and its passages as `context`."""
    answer: str
    """The candidate's; hostile input."""
    rival: str | None = None
    """The incumbent's answer, for methods that compare."""


class Judgement(Record):
    """What one judge says of one answer."""

    value: float | None
    """In [0, 1], higher is better; None = no verdict, which lowers the coverage."""
    reason: str = ""
    """The judge's own words, or why there is no verdict."""
    orders: tuple[float, float] | None = None
    """Where two answers were compared: the verdict with the candidate's shown first, and second."""
    attacked: bool = False
    """True when the answer tried to steer the judge, and the judge would have followed."""

    @property
    def flipped(self) -> bool | None:
        """Whether the verdict changed with the order; None = nothing was compared."""
        return None if self.orders is None else self.orders[0] != self.orders[1]


class AskJudge(Protocol):
    """One judge."""

    async def __call__(self, messages: tuple[Message, ...]) -> str:
        """The judge's answer.

        Raises:
            ProviderError: the call failed for good.
        """
        ...


class Method(Protocol):
    """What `judge` in a file here looks like."""

    async def __call__(self, ask: AskJudge, item: Item, **params: JsonValue) -> Judgement:
        """Judge one answer.

        Raises:
            ProviderError: a call to the judge failed for good.
            ScoringError: the item cannot be judged, for lack of a reference for instance.
            ConfigError: `params` are wrong.
        """
        ...


def load(name: str) -> Method:
    """Import `pipelines.judging.<name>`.

    Raises:
        ConfigError: there is no such file.
    """
    return cast(Method, FOLDER.load(name).judge)


def needs_rival(name: str) -> bool:
    """True when the method compares with the incumbent's answer."""
    return bool(getattr(FOLDER.load(name), "NEEDS_RIVAL", False))
