"""Groups are kept back whole, in the same way every time, in the shares that were asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from pipelines.core.errors import DataError
from pipelines.core.records import Message, TrainingRow
from pipelines.core.row_file import RowFile, spooled
from pipelines.core.study import SplitConfig
from pipelines.data.partition import describe, partition


def row(
    question: str, answer: str = "a", group: str | None = None, day: int | None = None, **about: str
) -> TrainingRow:
    return TrainingRow(
        messages=(
            Message(role="user", content=question), Message(role="assistant", content=answer)
        ),
        id=question,
        group=group,
        answered_at=None if day is None else datetime(2026, 11, day, tzinfo=UTC),
        metadata=about,
    )  # fmt: skip


def ids(rows: Sequence[TrainingRow]) -> list[str | None]:
    return [each.id for each in rows]


MANY = [row(f"question {k}", group=f"g{k // 3}") for k in range(600)]


def test_nothing_is_kept_back_unless_asked_for() -> None:
    assert partition(MANY, SplitConfig()) == (MANY, [])


def test_groups_stay_whole_and_the_share_is_about_right() -> None:
    train, validation = partition(MANY, SplitConfig(validation=0.2))
    assert ids(sorted([*train, *validation], key=MANY.index)) == ids(MANY)
    assert not {each.group for each in train} & {each.group for each in validation}
    # 200 groups drawn with 0.2: 40 with a standard deviation of 5.7 groups of 3 rows
    assert 75 <= len(validation) <= 165


def test_a_row_stays_on_its_side_when_rows_are_added_or_change_places() -> None:
    half = partition(MANY[::2], SplitConfig(validation=0.2))
    whole = partition(MANY[::-1], SplitConfig(validation=0.2))
    assert set(ids(half.validation)) == set(ids(whole.validation)) & set(ids(MANY[::2]))
    other = partition(MANY, SplitConfig(validation=0.2, seed=1))
    assert set(ids(other.validation)) != set(ids(whole.validation))


def test_a_conversation_and_its_continuation_stay_together() -> None:
    first = [row(f"My parcel {k} is late") for k in range(60)]
    longer = [
        TrainingRow(
            messages=(
                Message(role="user", content=f"my parcel {k} is LATE!"),
                Message(role="assistant", content="a"),
                Message(role="user", content=f"and now? {k}"),
                Message(role="assistant", content="b"),
            ),
            id=f"My parcel {k} is late",
        )
        for k in range(60)
    ]
    train, validation = partition(first + longer, SplitConfig(validation=0.3))
    assert Counter(Counter(ids(train)).values()).keys() == {2}
    assert Counter(Counter(ids(validation)).values()).keys() == {2}


def test_each_stratum_gives_its_share() -> None:
    rows = [row(f"q{k}", answer="rare" if k < 10 else "common") for k in range(110)]
    _, validation = partition(rows, SplitConfig(validation=0.2, stratify="answer"))
    assert Counter(each.messages[-1].content for each in validation) == {"rare": 2, "common": 20}
    by_key = [row(f"q{k}", country="at" if k < 10 else "de") for k in range(110)]
    _, validation = partition(by_key, SplitConfig(validation=0.2, stratify="country"))
    assert Counter(each.metadata["country"] for each in validation) == {"at": 2, "de": 20}


def test_a_group_of_two_strata_counts_for_the_larger_and_stays_whole() -> None:
    rows = [row(f"q{k}", answer="x" if k % 3 else "y", group=f"g{k // 3}") for k in range(30)]
    train, validation = partition(rows, SplitConfig(validation=0.2, stratify="answer"))
    assert len(validation) == 6
    assert not {each.group for each in train} & {each.group for each in validation}


def test_by_time_the_newest_rows_are_kept_back() -> None:
    rows = [row(f"q{day}", day=day) for day in (5, 1, 4, 2, 3, 10, 9, 8, 7, 6)]
    train, validation = partition(rows, SplitConfig(validation=0.2, by="time"))
    assert ids(validation) == ["q10", "q9"]
    assert len(train) == 8


def test_by_time_a_group_is_as_new_as_its_newest_row() -> None:
    rows = [row(f"q{day}", day=day, group="g" if day in (1, 10) else None) for day in range(1, 11)]
    train, validation = partition(rows, SplitConfig(validation=0.2, by="time"))
    assert ids(validation) == ["q1", "q10"]
    assert max(each.answered_at for each in train if each.answered_at) < datetime(
        2026, 11, 10, tzinfo=UTC
    )


def test_groups_of_the_same_time_are_taken_by_name() -> None:
    rows = [row(f"q{k}", day=3 if k == 4 else 2, group=f"g{k}") for k in (1, 5, 2, 4, 3, 6, 8, 7)]
    # 3.2 of 8 rows: the newest, then the last names; more than half of another one were too many
    assert ids(partition(rows, SplitConfig(validation=0.4, by="time")).validation) == [
        "q4", "q8", "q7",
    ]  # fmt: skip


def test_a_group_of_two_equal_strata_is_of_the_first_by_name() -> None:
    pairs = [row(f"{k}{answer}", answer, group=f"g{k}") for k in range(40) for answer in "yx"]
    alone = [row(f"q{k}", "y") for k in range(20)]
    _, validation = partition([*pairs, *alone], SplitConfig(validation=0.2, stratify="answer"))
    # x: the 40 groups with 80 rows give 16, y: its 20 rows give 4
    counts = Counter(each.group is None for each in validation)
    assert counts == {True: 4, False: 16}


@pytest.mark.parametrize(
    "rule",
    [
        SplitConfig(),
        SplitConfig(validation=0.2),
        SplitConfig(validation=0.3, stratify="answer"),
        SplitConfig(validation=0.3, stratify="team", group="customer"),
        SplitConfig(validation=0.25, by="time"),
    ],
    ids=["none", "hash", "answer", "metadata", "time"],
)
def test_rows_of_a_file_are_split_as_rows_in_memory_are(rule: SplitConfig) -> None:
    rows = [
        row(f"q{k}", "ab"[k % 2], day=1 + k % 9, team=f"t{k % 3}", customer=f"c{k % 50}")
        for k in range(200)
    ]
    here, there = partition(rows, rule), partition(spooled(rows), rule)
    assert [*here.train] == [*there.train]
    assert [*here.validation] == [*there.validation]
    assert not rule.validation or isinstance(there.train, RowFile)


def test_by_time_needs_times() -> None:
    with pytest.raises(DataError, match="1 of 2 rows have none, the first of them q2"):
        partition([row("q1", day=1), row("q2")], SplitConfig(validation=0.5, by="time"))
    with pytest.raises(ValidationError, match="no `stratify`"):
        SplitConfig(validation=0.5, by="time", stratify="answer")


def test_groups_may_be_named_by_the_metadata() -> None:
    rows = [row(f"q{k}", customer=f"c{k % 20}") for k in range(200)]
    train, validation = partition(rows, SplitConfig(validation=0.3, group="customer"))
    here, there = (
        {str(each.metadata["customer"]) for each in side} for side in (train, validation)
    )
    assert not here & there
    with pytest.raises(DataError, match="no training row has 'client' in its metadata; they have"):
        partition(rows, SplitConfig(validation=0.3, group="client"))


def test_an_empty_side_is_an_error() -> None:
    rows = [row(f"q{k}", group="one") for k in range(10)]
    with pytest.raises(DataError, match="10 rows in 1 groups leaves"):
        partition(rows, SplitConfig(validation=0.2))


def test_the_rule_is_told_in_words() -> None:
    told = describe(SplitConfig(validation=0.1, group="customer", stratify="answer"))
    assert "10% of the rows" in told
    assert "metadata `customer`" in told
    assert "the same share of each answer" in told
