"""Wrong answers are found by votes, form, refusals and rows that are alike."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from pipelines.core.records import Example, Message, TrainingRow
from pipelines.core.row_file import spooled
from pipelines.core.workload import DataSource, MetricSpec
from pipelines.data import noise
from pipelines.data.sources import load_eval, load_training, resolve
from pipelines.serving.classical import fit


def row(text: str, answer: str) -> TrainingRow:
    return TrainingRow(
        messages=(Message(role="user", content=text), Message(role="assistant", content=answer))
    )


def found(
    rows: Sequence[TrainingRow],
    items: Sequence[Example] = (),
    specs: dict[str, MetricSpec] | None = None,
) -> dict[int, tuple[str, str | None]]:
    return {f.row: (f.reason, f.answer) for f in noise.find(rows, items, specs or {}, 0.8)}


def test_the_majority_of_the_same_request_wins() -> None:
    rows = [
        row("Where is my parcel?", "status"),
        row("where is my parcel", "status"),
        row("Where is my PARCEL", "refund"),
        row("Is it open?", "yes"),
        row("is it open", "no"),
        row("Which size?", "one"),
        row("which size", "one"),
        row("Which SIZE", "one"),
        row("which size!", "two"),
        row("which size.", "three"),
    ]
    # 2 of 3 are clear; 1 of 2 is a tie; 3 of 5 outvote the others, but not clearly.
    assert found(rows) == {
        2: ("outvoted", "status"),
        3: ("tie", None),
        4: ("tie", None),
        8: ("outvoted", None),
        9: ("outvoted", None),
    }


def test_near_copies_vote_only_where_answers_are_labels() -> None:
    near = [f"please cancel the order that i placed yesterday evening{end}" for end in " .abc"]
    rows = [row(text, "cancel") for text in near[:4]] + [row(near[4], "refund")]
    labels = [row(f"{word} {k}", word) for word in ("cancel", "refund") for k in range(6)]
    assert found([*rows, *labels])[4] == ("outvoted", "cancel")
    drafts = [row(f"write text {k} about topic {k * 7}", f"text {k}") for k in range(30)]
    assert found([*rows, *drafts]) == {}


def test_answers_that_the_json_metric_cannot_read() -> None:
    specs = {"fields": MetricSpec(metric="json_fields")}
    rows = [row("a", '{"total": 3}'), row("b", "The total is 3."), row("c", '{"total": 4')]
    assert found(rows, specs=specs) == {1: ("form", None), 2: ("form", None)}
    assert found(rows) == {}


@pytest.mark.parametrize(
    ("answer", "is_refusal"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I cannot assist with this request", True),
        ("Unfortunately, I am unable to provide the details.", True),
        ("As an AI language model, I have no access to orders.", True),
        ("I\u2019m not able to answer that.", True),
        ("We cannot refund gift cards.", False),
        ("I'm sorry that it broke. We send a new one.", False),
        ("You can't help it: the pan has to be replaced.", False),
        ("I can help with that.", False),
        ("I cannot find this in the passages.", False),
        ('{"intent": "other"}', False),
    ],
)
def test_refusals_are_told_from_answers(answer: str, is_refusal: bool) -> None:
    assert (found([row("q", answer)]) == {0: ("refusal", None)}) is is_refusal


def test_a_refusal_is_right_where_an_eval_item_wants_one() -> None:
    refusal = "I cannot help with that."
    item = Example(id="1", messages=(Message(role="user", content="x"),), target=refusal)
    assert found([row("q", refusal)], [item]) == {}


def test_rows_are_dropped_or_relabelled_as_asked() -> None:
    rows = [row("a", "x"), row("b", "y"), row("c", "z")]
    findings = [noise.Finding(1, "label", "x"), noise.Finding(2, "tie")]
    dropped, done = noise.clean(rows, findings, relabel=False)
    assert [r.messages[1].content for r in dropped] == ["x"]
    assert done == {"label: drop": 1, "tie: drop": 1}
    relabelled, done = noise.clean(rows, findings, relabel=True)
    assert [r.messages[1].content for r in relabelled] == ["x", "x"]
    assert done == {"label: relabel": 1, "tie: drop": 1}


def test_rows_of_a_file_are_cleaned_as_rows_in_memory_are() -> None:
    rows = [row("a", "x"), row("b", " x "), row("c", "y"), row("d", "z")]
    findings = [noise.Finding(0, "tie"), noise.Finding(2, "label", "z")]
    for relabel in (False, True):
        kept, done = noise.clean(spooled(rows), findings, relabel=relabel)
        expected, told = noise.clean(rows, findings, relabel=relabel)
        assert [*kept] == [*expected]
        assert done == told
        answers = [each.messages[-1].content for each in kept]
        assert answers == ([" x ", "z", "z"] if relabel else [" x ", "z"])
    votes = [row("Where is it?", "a"), row("where is it", "a"), row("Where is it", "b")]
    assert noise.find(spooled(votes), [], {}, 0.8) == [noise.Finding(2, "outvoted", "a")]


def half_wrong(rows: Sequence[TrainingRow]) -> list[TrainingRow]:
    """Half of the rows with another label, each other label alike."""
    rng = random.Random(0)
    labels = sorted({r.messages[-1].content for r in rows})
    wrong: list[TrainingRow] = []
    for each in rows:
        text, label = each.messages[0].content, each.messages[-1].content
        other = rng.choice([known for known in labels if known != label])
        wrong.append(row(text, other if rng.random() < 0.5 else label))
    return wrong


def won_back(rows: Sequence[TrainingRow], items: Sequence[Example], *, relabel: bool) -> float:
    """Share of the accuracy lost to 50 % wrong labels that cleaning gives back."""

    def accuracy(train: Sequence[TrainingRow]) -> float:
        answers = fit(train).predict([item.messages[0].content for item in items])
        right = [a == item.target for a, item in zip(answers, items, strict=True)]
        return sum(right) / len(right)

    noisy = half_wrong(rows)
    cleaned, _ = noise.clean(noisy, noise.find(noisy, items, {}, 0.8), relabel=relabel)
    best, worst, after = accuracy(rows), accuracy(noisy), accuracy(cleaned)
    return (after - worst) / (best - worst)


def test_cleaning_wins_back_what_wrong_labels_cost_on_the_support_messages() -> None:
    """Six intents; about 110 messages each, so that half of them right is little to learn from."""
    folder = "eval_sets/support"
    items = load_eval(DataSource(path=f"{folder}/eval.jsonl"))
    rows = load_training(DataSource(path=f"{folder}/train.jsonl"))
    counts = Counter(str(r.metadata["intent"]) for r in rows)
    intents = {intent for intent, _ in counts.most_common(6)}
    rows = [
        row(r.messages[0].content, str(r.metadata["intent"]))
        for r in rows
        if r.metadata["intent"] in intents
    ]
    items = [
        item.model_copy(update={"target": str(item.metadata["intent"])})
        for item in items
        if item.metadata["intent"] in intents
    ]
    assert won_back(rows, items, relabel=True) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("relabel", [False, True])
def test_cleaning_wins_back_most_on_clinc150(relabel: bool) -> None:
    path = resolve("$FREEHOLD_DATA/clinc150/data_full.json")
    if path is None or not path.is_file():
        pytest.skip("needs the public CLINC150 set: set FREEHOLD_DATA to the folder above it")
    source = DataSource(
        path="$FREEHOLD_DATA/clinc150/data_full.json", format="clinc150", split="train"
    )
    rows = load_training(source)
    items = load_eval(source.model_copy(update={"split": "test"}))
    intents = set(sorted({item.target for item in items})[::15])
    rows = [r for r in rows if r.messages[-1].content in intents]
    items = [item for item in items if item.target in intents]
    assert won_back(rows, items, relabel=relabel) > 0.8
