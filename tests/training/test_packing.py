"""Steps, packs and what lies in them, counted by hand."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training.chat_rows import IGNORED
from pipelines.training.packing import Packer, Row, divide, lay, n_scored, steps


def row(*labels: int) -> Row:
    """Its tokens are 10, 11, ...; negative labels are ignored ones."""
    ids = list(range(10, 10 + len(labels)))
    return {"input_ids": ids, "labels": [IGNORED if x < 0 else x for x in labels]}


def test_each_epoch_holds_every_row_once_in_another_order() -> None:
    planned = steps(10, 4, 3, seed=7)
    assert [len(each) for each in planned] == [4, 4, 2] * 3
    epochs = [list(chain(*planned[at : at + 3])) for at in (0, 3, 6)]
    assert all(sorted(each) == list(range(10)) for each in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert planned == steps(10, 4, 3, seed=7)
    assert planned != steps(10, 4, 3, seed=8)


def test_part_of_an_epoch_ends_after_that_part_of_the_steps() -> None:
    assert len(steps(10, 4, 1.5, seed=0)) == 5
    assert steps(10, 4, 1.5, seed=0) == steps(10, 4, 3, seed=0)[:5]


def test_documents_are_dealt_out_longest_first_into_the_shortest_pack() -> None:
    # 9 | 7 | 9:0 7:4 -> 7+4=11, 9+3=12; 23 tokens need two packs of 12.
    assert divide([3, 9, 4, 7], 12) == [[1, 0], [3, 2]]
    assert divide([3, 9, 4, 7], 23) == [[1, 3, 2, 0]]


def test_packs_grow_to_the_longest_document() -> None:
    assert divide([50, 2, 2], 10) == [[0], [1, 2]]


def test_packs_keep_to_the_rows_and_the_multiple_that_are_asked_for() -> None:
    assert [len(pack) for pack in divide([1] * 7, 100, max_rows=3)] == [3, 2, 2]
    assert [len(pack) for pack in divide([1] * 7, 100, max_rows=1)] == [1] * 7
    assert [len(pack) for pack in divide([5, 5, 5], 5, multiple=2)] == [1, 1, 1, 0]


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=60),
    st.integers(1, 1000),
    st.none() | st.integers(1, 9),
    st.integers(1, 4),
)
def test_no_document_is_lost_and_no_pack_overflows(
    lengths: list[int], max_tokens: int, max_rows: int | None, multiple: int
) -> None:
    packs = divide(lengths, max_tokens, max_rows, multiple)
    assert sorted(chain(*packs)) == list(range(len(lengths)))
    assert len(packs) % multiple == 0
    for pack in packs:
        assert max_rows is None or len(pack) <= max_rows
        assert sum(lengths[k] for k in pack) <= max(max_tokens, *lengths)


def test_rows_lie_behind_one_another_and_each_starts_at_position_0() -> None:
    pack = lay([row(-1, -1, 12, 13), row(99, -1, 12)])
    assert pack["input_ids"].tolist() == [[10, 11, 12, 13, 10, 11, 12]]
    assert pack["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert pack["document_ends"].tolist() == [0, 4, 7]
    assert pack["document_ends"].dtype == torch.int32
    assert pack["document_lengths"] == [4, 3]
    # Position 3 ends a document: what follows belongs to another one, whose first label is void.
    assert pack["scored"].tolist() == [1, 2, 5]
    assert pack["targets"].tolist() == [12, 13, 12]


@pytest.mark.parametrize("n_processes", [1, 2, 3])
def test_processes_share_a_step_without_overlap_and_agree_on_its_counts(n_processes: int) -> None:
    rows = [row(*[-1] * 2, *range(12, 12 + k)) for k in (1, 5, 2, 9, 3)]
    shares = [Packer(14, None, rank, n_processes)(list(rows)) for rank in range(n_processes)]
    packs = [pack for share in shares for pack in share["packs"]]
    assert sorted(n for pack in packs for n in pack["document_lengths"]) == [3, 4, 5, 7, 11]
    assert sum(len(pack["scored"]) for pack in packs) == n_scored(rows) == 20
    assert len({len(share["packs"]) for share in shares}) == 1
    for share in shares:
        assert (share["n_rows"], share["n_tokens"], share["n_scored"]) == (5, 30, 20)


def test_a_process_without_rows_keeps_step_without_a_loss() -> None:
    share = Packer(100, None, rank=1, n_processes=2)([row(-1, 11)])
    assert share["n_tokens"] == 2
    [pack] = share["packs"]
    assert pack["input_ids"].tolist() == [[10]]
    assert pack["scored"].tolist() == []
