"""The card states what was measured, says what nobody stated, and is no place for markup."""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from pipelines.core.records import Example, Message, TrainingRow
from pipelines.data import card
from pipelines.data.licences import Licence, Standing, Survey

MIT = Licence(
    title="MIT License", training="allowed", clause="Permission notice", summary="Free.",
    source="https://opensource.org/license/mit", checked_on=date(2026, 11, 22),
)  # fmt: skip


def row(
    question: str, answer: str, day: int | None = None, model: str | None = None
) -> TrainingRow:
    return TrainingRow(
        messages=(
            Message(role="user", content=question),
            Message(role="assistant", content=answer),
        ),
        answered_at=None if day is None else datetime(2026, 11, day, tzinfo=UTC),
        answered_by=model,
    )


ROWS = [row("a" * n, "b" * (n + 1), day, "m|odel<b>") for n, day in ((1, 3), (2, 1), (3, None))]
ITEMS = [Example(id="e", messages=(Message(role="user", content="abcd"),), target="xy")]


def made(**changes: object) -> card.Card:
    models, n_unknown = card.answered_by([*ROWS, row("x", "y")])
    return card.Card(
        title="Claims\n# injected",
        workload="claims",
        run_id="r1",
        sources=(card.SourceFile(name="train.jsonl", digest="ab", n_bytes=7),),
        eval_sources=(card.SourceFile(name="hub a/b", digest=None, n_bytes=None),),
        steps=(card.Step(name="clean", n_before=4, n_after=3, left_out={"duplicates": 1, "x": 0}),),
        splits=(
            card.split_card("train", "train.jsonl", ROWS, "s1"),
            card.eval_card("eval.jsonl", ITEMS, "s2"),
        ),
        licences=Survey(
            standings=(
                Standing(name="mit", n_rows=3, licence=MIT),
                Standing(name="House <rules>", n_rows=1, licence=None),
            ),
            n_rows=4,
            n_without=0,
        ),
        answered_by=models,
        n_answered_by_unknown=n_unknown,
        personal_data=None,
        split_rule="No rows are kept back.",
        near_copy=0.8,
    ).model_copy(update=changes)


def test_lengths_and_dates_are_measured() -> None:
    train, items = made().splits
    assert train.lengths.question == (1, 2, 3, 3)
    assert train.lengths.answer == (2, 3, 4, 4)
    assert train.lengths.turns == (2, 2, 2, 2)
    assert (train.first_at, train.last_at) == (ROWS[1].answered_at, ROWS[0].answered_at)
    assert train.n_undated == 1
    assert items.lengths.question == (4, 4, 4, 4)
    assert items.n_undated is None


def test_the_middle_and_the_95th_percentile_are_of_the_rows() -> None:
    rows = [row("a" * n, "b") for n in range(1, 101)]
    # Places 49.5 and 94.05, from 0, are rounded up: the 51st and the 96th length.
    assert card.split_card("t", "t", rows, "s").lengths.question == (1, 51, 96, 100)


def test_the_markdown_has_every_figure() -> None:
    text = card.markdown(made())
    for line in (
        "| train | train.jsonl | 3 | s1 | 2026-11-01 to 2026-11-03 | 1 |",
        "| eval | eval.jsonl | 1 | s2 | not stated | - |",
        "| train | 1, 2, 3, 3 | 2, 3, 4, 4 | 2, 2, 2, 2 |",
        "| training | train.jsonl | 7 | ab |",
        "| eval | hub a/b | not stated | not stated |",
        "| clean | 4 | 3 | 1 duplicates |",
        "Licence not stated: 0 of 4 rows read.",
        "| not stated | 1 |",
        "Not searched for; what is in the rows is not stated.",
        "license: other",
        "| mit | 3 | allowed | Permission notice: Free. | https://opensource.org/license/mit, "
        "checked 2026-11-22 | - |",
        "| House &lt;rules&gt; | 1 | unknown: nobody has looked at it | not stated |",
    ):
        assert line in text, line


def test_names_out_of_logs_are_no_markup() -> None:
    text = card.markdown(made())
    assert "# Claims # injected" in text.splitlines()
    assert "| m\\|odel&lt;b&gt; | 3 |" in text
    assert "House &lt;rules&gt;" in text
    assert "<" not in text


def test_one_licence_for_all_rows_stands_in_the_front_matter() -> None:
    alone = Survey(standings=(Standing(name="mit", n_rows=4, licence=MIT),), n_rows=4, n_without=0)
    assert "license: mit" in card.markdown(made(licences=alone))
    some = alone.model_copy(update={"n_without": 1})
    assert "license: other" in card.markdown(made(licences=some))


def test_found_personal_data_is_counted_not_shown() -> None:
    found = card.PersonalDataFound(n_rows=2, n_values={"EMAIL": 3}, masked=True, names_sought=False)
    text = card.markdown(made(personal_data=found))
    assert "Rows with findings: 2. Values, replaced by placeholders: EMAIL 3." in text
    assert "Names and places were not looked for." in text


def test_only_the_most_frequent_models_are_listed() -> None:
    models, _ = card.answered_by([row("q", "a", model=f"m{k:02d}") for k in range(25)])
    text = card.markdown(made(answered_by=models))
    assert "| m19 | 1 |" in text
    assert "m20" not in text
    assert "| 5 more | 5 |" in text


def test_files_and_folders_have_a_digest(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc")
    one, folder = card.files([tmp_path / "a.txt", tmp_path])
    assert (one.digest, one.n_bytes) == (hashlib.sha256(b"abc").hexdigest(), 3)
    named = hashlib.sha256(f"a.txt {one.digest}\n".encode()).hexdigest()
    assert (folder.digest, folder.n_bytes) == (named, 3)
    (tmp_path / "a.txt").write_text("abd")
    assert card.files([tmp_path])[0].digest != folder.digest


def test_the_json_form_holds_the_same() -> None:
    about = made()
    assert card.Card.model_validate_json(about.model_dump_json()) == about


@pytest.mark.parametrize("text", ["a\nb", "a\tb", "a  b"])
def test_a_cell_is_one_line(text: str) -> None:
    assert "# a b" in card.markdown(made(title=text)).splitlines()
