"""Two answers, in both orders."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from pipelines import judging
from pipelines.core.errors import ConfigError, ScoringError
from pipelines.core.records import Example, Message
from pipelines.judging import Item, Judgement
from pipelines.judging.pairwise import judge
from pipelines.judging.prompt import shown

EXAMPLE = Example(
    id="e1", messages=(Message(role="user", content="When does the frog come?"),), target="Friday"
)
ITEM = Item(example=EXAMPLE, answer="The frog comes on Friday.", rival="The frog comes soon.")


class Scripted:
    """Verdicts one after the other."""

    def __init__(self, *verdicts: str) -> None:
        self.verdicts = list(verdicts)
        self.asked: list[tuple[str, str]] = []

    async def __call__(self, messages: tuple[Message, ...]) -> str:
        found = shown(messages)
        assert found
        self.asked.append((found.texts["answer_a"], found.texts["answer_b"]))
        verdict = self.verdicts.pop(0)
        reason = f"said {verdict}"
        return json.dumps({"check": found.check, "reason": reason, "verdict": verdict})


def judged(scripted: Scripted, item: Item = ITEM, **params: Any) -> Judgement:
    return asyncio.run(judge(scripted, item, **{"rubric": "Names the day.", **params}))


@pytest.mark.parametrize(
    ("as_a", "as_b", "value", "flipped"),
    [
        ("A", "B", 1.0, False),
        ("B", "A", 0.0, False),
        ("tie", "tie", 0.5, False),
        ("A", "A", 0.5, True),
        ("B", "B", 0.5, True),
        ("A", "tie", 0.5, True),
        ("tie", "A", 0.5, True),
    ],
)
def test_both_orders_count(as_a: str, as_b: str, value: float, flipped: bool) -> None:
    scripted = Scripted(as_a, as_b)
    found = judged(scripted)
    assert (found.value, found.flipped) == (value, flipped)
    assert found.reason == f"As A: said {as_a}\nAs B: said {as_b}"
    assert scripted.asked == [(ITEM.answer, ITEM.rival), (ITEM.rival, ITEM.answer)]


def test_equal_answers_tie_without_a_question() -> None:
    scripted = Scripted()
    found = judged(scripted, ITEM.model_copy(update={"rival": f" {ITEM.answer}\n"}))
    assert (found.value, found.flipped, scripted.asked) == (0.5, None, [])


def test_one_unreadable_order_leaves_no_verdict() -> None:
    found = judged(Scripted("A", "C", "both"))
    assert (found.value, found.flipped) == (None, None)
    assert 'one of "A", "B", "tie"' in found.reason


def test_without_a_rival_there_is_no_score() -> None:
    assert judging.needs_rival("pairwise")
    assert not judging.needs_rival("rubric")
    with pytest.raises(ScoringError, match="e1"):
        judged(Scripted(), ITEM.model_copy(update={"rival": None}))


@pytest.mark.parametrize(
    ("params", "named"), [({"scale": 5}, r"params\.scale"), ({"rubric": ""}, r"params\.rubric")]
)
def test_wrong_parameters_are_named(params: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"pairwise: {named}"):
        judged(Scripted(), **params)
