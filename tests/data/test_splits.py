"""Nothing of the eval set is trained on."""

from __future__ import annotations

from pipelines.core.paths import ROOT
from pipelines.core.records import Example, Message, TrainingRow
from pipelines.core.row_file import RowFile, spooled
from pipelines.core.workload import DataSource
from pipelines.data.sources import load_eval, load_training
from pipelines.data.splits import clean_split, without_copies


def row(text: str, answer: str = "a") -> TrainingRow:
    return TrainingRow(
        messages=(Message(role="user", content=text), Message(role="assistant", content=answer))
    )


def item(text: str) -> Example:
    return Example(id=text, messages=(Message(role="user", content=text),), target="a")


def test_duplicates_conflicts_and_leaks_are_counted_apart() -> None:
    split = clean_split(
        [
            row("Where is my parcel?"),
            row("where is my PARCEL"),  # the same question, the same answer: a duplicate
            row("Where is my parcel", "b"),  # the same question, another answer: a conflict
            row("I would like my money back as soon as you can"),
            row("i would like my money back, as soon as you can !!"),  # a duplicate
            row("Please close my account today"),  # stands in the eval set
            row("please do close my account today!"),  # nearly so
        ],
        [item("please close my account today")],
        near_copy=0.7,
    )
    assert [r.messages[0].content for r in split.rows] == [
        "Where is my parcel?",
        "I would like my money back as soon as you can",
    ]
    assert (split.n_duplicates, split.n_conflicts, split.n_leaked) == (2, 1, 2)


def test_rows_whose_question_is_asked_elsewhere_are_taken_out() -> None:
    rows = [row("Please close my account today"), row("Where is my parcel?")]
    kept_back = [row("please do close my account today!", "b")]
    assert without_copies(rows, kept_back, near_copy=0.7) == rows[1:]
    assert without_copies(rows, kept_back, near_copy=1.0) == rows


def test_rows_of_a_file_stay_there() -> None:
    rows = [
        row("Please close my account today"),
        row("Where is my parcel?"),
        row("where is MY parcel"),
    ]
    file = spooled(rows)
    split = clean_split(file, [item("please close my account today")], near_copy=0.7)
    assert isinstance(split.rows, RowFile)
    assert [*split.rows] == rows[1:2]
    assert (split.n_leaked, split.n_duplicates) == (1, 1)
    assert [*without_copies(file, file[:1], near_copy=0.7)] == rows[1:2]


def test_the_shipped_support_set_keeps_its_promises() -> None:
    folder = "eval_sets/support"
    items = load_eval(DataSource(path=f"{folder}/eval.jsonl"))
    rows = load_training(DataSource(path=f"{folder}/train.jsonl"))
    assert len(items) >= 300
    assert len(rows) >= 1200
    split = clean_split(rows, items, near_copy=0.5)
    assert len(split.rows) == len(rows), "a training row is a copy of another or of an eval item"
    readme = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    import hashlib

    for name in ("eval.jsonl", "train.jsonl", "replies.json"):
        digest = hashlib.sha256((ROOT / folder / name).read_bytes()).hexdigest()
        assert digest in readme, f"README.md of the eval set states another digest for {name}"


def test_no_template_shows_in_the_support_set() -> None:
    rows = load_training(DataSource(path="eval_sets/support/train.jsonl"))
    openings: dict[str, int] = {}
    for r in rows:
        key = " ".join(r.messages[0].content.lower().split()[:3])
        openings[key] = openings.get(key, 0) + 1
    assert max(openings.values()) <= len(rows) // 200
