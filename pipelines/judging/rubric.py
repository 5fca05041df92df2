"""One answer against a rubric: pass or fail, or a whole score from 1 to N."""

from __future__ import annotations

from pydantic import Field, JsonValue, StrictBool, StrictInt

from pipelines.core.records import Record
from pipelines.judging import AskJudge, Item, Judgement
from pipelines.judging.defence import CUT, NOTHING_LEFT, cleaned, sanitised
from pipelines.judging.prompt import (
    Form,
    Unreadable,
    Verdict,
    control,
    material,
    parameters,
    question,
    verdict,
)

TASK = "Judge the answer by the rubric."
PASS_OR_FAIL = Form("verdict", ("pass", "fail"))


class Params(Record):
    """What a study may set."""

    rubric: str = Field(pattern=r"\S")
    """What makes an answer good, and what makes it bad."""
    scale: StrictInt = Field(default=1, ge=1, le=100)
    """1 = pass or fail; N = a whole score from 1 to N, which counts as (score - 1) / (N - 1)."""
    reference: StrictBool = True
    """Show the reference answer."""
    context: StrictBool = False
    """Show the passages."""


async def judge(ask: AskJudge, item: Item, **params: JsonValue) -> Judgement:
    """Judge one answer; `params` are those of `Params`.

    Raises:
        ProviderError: a call to the judge failed for good.
        ScoringError: the reference or the passages are to be shown and the example has none.
        ConfigError: `params` are wrong.
    """
    p = parameters(Params, "rubric", params)
    texts = material(item, reference=p.reference, context=p.context)
    form = PASS_OR_FAIL if p.scale == 1 else Form("score", range(1, p.scale + 1))
    worst = "fail" if p.scale == 1 else 1

    async def judged(answer: str, rubric: str, texts: dict[str, str]) -> Verdict:
        shown = {**texts, "rubric": rubric, "answer": answer}
        return await verdict(ask, question(item, TASK, form, shown))

    async def steers(answer: str) -> bool:
        try:
            found = await judged(answer, control(item)[0], {"question": texts["question"]})
        except Unreadable:
            return True
        return found.choice != worst

    attacked = False
    try:
        text, attacked = await cleaned(item.answer, item.example, steers)
        if text is None:
            return Judgement(value=0.0, reason=NOTHING_LEFT, attacked=True)
        choice, reason = await judged(text, p.rubric, texts)
    except Unreadable as error:
        return Judgement(value=None, reason=f"no verdict: {error}", attacked=attacked)
    value = (choice - 1) / (p.scale - 1) if isinstance(choice, int) else float(choice == "pass")
    reason = (CUT if attacked else "") + sanitised(reason)
    return Judgement(value=value, reason=reason, attacked=attacked)
