"""The candidate's answer against the incumbent's, in both orders."""

from __future__ import annotations

from pydantic import Field, JsonValue, StrictBool

from pipelines.core.errors import ScoringError
from pipelines.core.records import Record
from pipelines.judging import AskJudge, Item, Judgement
from pipelines.judging.defence import CUT, NOTHING_LEFT, cleaned, sanitised
from pipelines.judging.prompt import (
    Form,
    Unreadable,
    control,
    material,
    parameters,
    question,
    verdict,
)

NEEDS_RIVAL = True
TASK = "Say which of two answers is better by the rubric, or that neither is. Order means nothing."
FORM = Form("verdict", ("A", "B", "tie"))


class Params(Record):
    """What a study may set."""

    rubric: str = Field(pattern=r"\S")
    """What makes one answer better than another."""
    reference: StrictBool = True
    """Show the reference answer."""
    context: StrictBool = False
    """Show the passages."""


async def judge(ask: AskJudge, item: Item, **params: JsonValue) -> Judgement:
    """Compare two answers; 1 = the candidate's is better in both orders, 0 = it is worse in both.

    All else is 0.5: a tie, or orders that disagree. Equal answers tie without a question.

    Raises:
        ProviderError: a call to the judge failed for good.
        ScoringError: there is no rival, or the reference or the passages are to be shown and the
            example has none.
        ConfigError: `params` are wrong.
    """
    p = parameters(Params, "pairwise", params)
    if item.rival is None:
        raise ScoringError(f"pairwise: the incumbent gave no answer to {item.example.id}")
    texts = material(item, reference=p.reference, context=p.context)
    if item.answer.strip() == item.rival.strip():
        return Judgement(value=0.5, reason="The answers are equal.")

    async def better(mine: str, other: str, rubric: str, texts: dict[str, str]) -> Judgement:
        values: list[float] = []
        reasons: list[str] = []
        for label, a, b in (("A", mine, other), ("B", other, mine)):
            shown = {**texts, "rubric": rubric, "answer_a": a, "answer_b": b}
            choice, reason = await verdict(ask, question(item, TASK, FORM, shown))
            values.append(0.5 if choice == "tie" else float(choice == label))
            reasons.append(f"As {label}: {sanitised(reason)}")
        first, second = values
        return Judgement(
            value=first if first == second else 0.5,
            reason="\n".join(reasons),
            orders=(first, second),
        )

    async def steers(answer: str) -> bool:
        rubric, word = control(item)
        try:
            found = await better(answer, word, rubric, {"question": texts["question"]})
        except Unreadable:
            return True
        return found.value != 0.0

    attacked = False
    try:
        mine, attacked = await cleaned(item.answer, item.example, steers)
        if mine is None:
            return Judgement(value=0.0, reason=NOTHING_LEFT, attacked=True)
        other, by_rival = await cleaned(item.rival, item.example, steers)
        if other is None:
            reason = f"The rival: {NOTHING_LEFT}"
            return Judgement(value=1.0, reason=reason, attacked=attacked)
        if mine.strip() == other.strip():
            return Judgement(value=0.5, reason="The answers are equal.", attacked=attacked)
        found = await better(mine, other, p.rubric, texts)
    except Unreadable as error:
        return Judgement(value=None, reason=f"no verdict: {error}", attacked=attacked)
    reason = (CUT if attacked else "") + (f"The rival: {CUT}" if by_rival else "") + found.reason
    return found.model_copy(update={"reason": reason, "attacked": attacked})
