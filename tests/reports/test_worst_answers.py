"""Which single answers the report shows, and how it makes them harmless."""

from __future__ import annotations

from pipelines.core.records import Example, Message, Response
from pipelines.reports import answers
from tests.reports.made import make


def item(k: int) -> Example:
    return Example(
        id=f"i{k}",
        messages=(
            Message(role="system", content="Rules."),
            Message(role="user", content=f"question {k}"),
        ),
        target="right",
        metadata={"channel": "mail" if k < 2 else "chat", "long": True},
    )


def said(k: int, text: str | None) -> Response:
    return Response(
        example_id=f"i{k}", request_sha256="0", text=text, error=None if text else "timed\x07out",
        model="m", started_at_s=0.0, latency_s=None,
    )  # fmt: skip


def test_the_worst_are_those_that_lose_most_against_the_incumbent() -> None:
    made = make(names=("frontier-standin", "tiny-lora"))
    decision = made.decision.model_copy(update={"chosen": "tiny-lora"})
    items = [item(k) for k in range(4)]
    ours = {"i0": 1.0, "i1": 0.0, "i2": 0.5, "i3": 0.0}
    theirs = {"i0": 0.0, "i1": 0.0, "i2": 1.0, "i3": 1.0}
    responses = {
        "frontier-standin": {f"i{k}": said(k, "right") for k in range(4)},
        "tiny-lora": {f"i{k}": said(k, "wrong\nin \x1b[31mred" if k else None) for k in range(3)},
    }
    values = {"frontier-standin": theirs, "tiny-lora": ours}
    found = answers.gather(made.study, decision, items, responses, values)
    assert found.subject == "tiny-lora"
    # i3 loses 1, i2 a half, i1 nothing though it is wrong; i0 is right.
    assert [each.id for each in found.worst] == ["i3", "i2", "i1"]
    assert found.worst[1].question == "question 2"
    assert found.worst[1].answers["tiny-lora"].text == "wrong\nin \N{REPLACEMENT CHARACTER}[31mred"
    assert found.worst[0].answers["tiny-lora"].error == "not asked"
    # By channel: chat has i2 and i3, mail i0 and i1.
    assert [(part.name, part.n) for part in found.slices] == [
        ("channel=chat", 2),
        ("channel=mail", 2),
    ]
    chat = found.slices[0].quality["tiny-lora"]
    assert chat is not None
    assert chat.mean == 0.25


def test_while_nobody_replaces_the_incumbent_an_open_question_is_shown() -> None:
    made = make(names=("frontier-standin", "tiny-lora", "tfidf-logreg"))
    for changes, subject in (
        ({"chosen": None, "open_questions": ("tfidf-logreg",)}, "tfidf-logreg"),
        ({"chosen": "frontier-standin", "open_questions": ()}, "tiny-lora"),
    ):
        decision = made.decision.model_copy(update=changes)
        values = {name: {"i0": 0.0} for name in decision.candidates}
        responses = {name: {"i0": said(0, "x")} for name in decision.candidates}
        found = answers.gather(made.study, decision, [item(0)], responses, values)
        assert found.subject == subject


def test_long_answers_are_cut() -> None:
    assert answers.cut("x" * 700) == "x" * 700
    assert answers.cut("x" * 701) == "x" * 700 + "\N{HORIZONTAL ELLIPSIS}"
