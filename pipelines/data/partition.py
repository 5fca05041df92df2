"""Keep rows back for validation: whole groups, by digest, by stratum or by time."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import NamedTuple

import numpy as np

from pipelines.core.errors import DataError
from pipelines.core.records import TrainingRow
from pipelines.core.row_file import taken
from pipelines.core.study import SplitConfig
from pipelines.data.near_copies import digest
from pipelines.data.splits import normalise

ANSWER = "answer"
"""`stratify` by the answer itself."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""Times are compared as microseconds since then."""


class Partition(NamedTuple):
    """The two splits, both in the order of the rows."""

    train: Sequence[TrainingRow]
    validation: Sequence[TrainingRow]


def partition(rows: Sequence[TrainingRow], config: SplitConfig) -> Partition:
    """Split the rows; the same rows are split in the same way every time.

    By hash, a row stays on its side whatever rows are added. By stratum the shares are kept as
    closely as whole groups allow. By time a group is as new as its newest row, so that nothing is
    trained on that is newer than what is validated with.

    Args:
        rows: clean ones; a repeated question would be on both sides.
        config: `validation` = 0 keeps nothing back.

    Raises:
        DataError: a key of the metadata is nowhere, rows have no time, or a side would be empty.
    """
    if not config.validation:
        return Partition(rows, [])
    _check_keys(rows, config)
    read = _read(rows, config)
    if config.by == "time":
        kept_back = _newest(read, config)
    elif config.stratify is None:
        kept_back = read.ranks < config.validation
    else:
        kept_back = _per_stratum(read, config)
    is_kept_back = kept_back[read.group]
    train = taken(rows, np.flatnonzero(~is_kept_back))
    validation = taken(rows, np.flatnonzero(is_kept_back))
    if not train or not validation:
        raise DataError(
            f"prepare.split.validation: {config.validation} of {len(rows)} rows in "
            f"{len(read.sizes)} groups leaves {len(train)} to train on and {len(validation)} to "
            "validate with; take another share, or smaller groups"
        )
    return Partition(train, validation)


def describe(config: SplitConfig) -> str:
    """The rule in words."""
    if not config.validation:
        return "No rows are kept back for validation."
    how = {
        "time": "the newest rows",
        "hash": "groups drawn by their SHA-256"
        + (f", the same share of each {config.stratify}" if config.stratify else ""),
    }[config.by]
    group = f"metadata `{config.group}`" if config.group else "`group`, else the first question"
    return (
        f"{config.validation:.0%} of the rows are kept back for validation: {how} "
        f"(seed {config.seed}). Rows with the same {group} stay together."
    )


def _check_keys(rows: Iterable[TrainingRow], config: SplitConfig) -> None:
    stratify = None if config.stratify == ANSWER else config.stratify
    asked = {"group": config.group, "stratify": stratify}
    if all(key is None for key in asked.values()):
        return
    there = {key for row in rows for key in row.metadata}
    for name, key in asked.items():
        if key is not None and key not in there:
            have = ", ".join(sorted(there)) or "no keys"
            raise DataError(
                f"prepare.split.{name}: no training row has {key!r} in its metadata; they have "
                f"{have}"
            )


def _group(row: TrainingRow, key: str | None) -> str:
    named = row.group if key is None else row.metadata.get(key)
    if named is not None:
        return f"named {named}"
    first = next((each for each in row.messages if each.role == "user"), row.messages[0])
    return f"asked {normalise([first]) or first.content}"


def _place(group: str, seed: int) -> float:
    """Where a group lies in [0, 1): the same for every set of rows."""
    return int.from_bytes(hashlib.sha256(f"{seed} {group}".encode()).digest()[:6]) / 2**48


@dataclass(frozen=True)
class _Read:
    """What a split needs to know of the rows: numbers, however long the texts are."""

    group: np.ndarray
    """Of each row; Int[Array, "rows"]."""
    sizes: np.ndarray
    """Rows of each group; Int[Array, "groups"]."""
    ranks: np.ndarray
    """Of each group: its newest row in microseconds, or its place by hash."""
    values: np.ndarray
    """Digest of what each row is stratified by; UInt64[Array, "rows"], or none."""
    name: Callable[[int], str]
    """Of a group, read again."""
    value: Callable[[int], str]
    """What a row is stratified by, read again."""

    def in_order(self, order: np.ndarray, *keys: np.ndarray, reverse: bool) -> Iterator[int]:
        """Groups that are ordered by `keys`, with those that are equal in all by their names."""
        differs = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
        starts = np.concatenate([[0], np.flatnonzero(differs) + 1])
        for start, end in zip(starts, np.append(starts[1:], len(order)), strict=True):
            equal = order[start:end].tolist()
            yield from sorted(equal, key=self.name, reverse=reverse) if len(equal) > 1 else equal


def _read(rows: Sequence[TrainingRow], config: SplitConfig) -> _Read:
    groups, ranks, values = array("Q"), array("q" if config.by == "time" else "d"), array("Q")
    undated: list[str] = []
    n_undated = 0
    for number, row in enumerate(rows, start=1):
        name = _group(row, config.group)
        groups.append(_number(name))
        if config.by != "time":
            ranks.append(_place(name, config.seed))
            if config.stratify is not None:
                values.append(_number(_value(row, config.stratify)))
        elif row.answered_at is not None:
            ranks.append((row.answered_at - EPOCH) // timedelta(microseconds=1))
        else:
            n_undated += 1
            undated = undated or [row.id or row.request_id or f"number {number}"]
    if undated:
        raise DataError(
            f"prepare.split.by: time needs `answered_at`, and {n_undated} of {len(rows)} rows "
            f"have none, the first of them {undated[0]}; add the times, or split by hash"
        )
    _, first, group, sizes = np.unique(
        np.array(groups), return_index=True, return_inverse=True, return_counts=True
    )
    of_row = np.array(ranks)
    newest = of_row[first]
    np.maximum.at(newest, group, of_row)  # a place by hash is the same in the whole group
    return _Read(
        group,
        sizes,
        newest,
        np.array(values),
        lambda each: _group(rows[int(first[each])], config.group),
        lambda place: _value(rows[place], str(config.stratify)),
    )


def _number(text: str) -> int:
    return digest(text.encode("utf-8", "surrogatepass"))


def _value(row: TrainingRow, key: str) -> str:
    """What a row is stratified by."""
    return row.messages[-1].content.strip() if key == ANSWER else str(row.metadata.get(key))


def _newest(read: _Read, config: SplitConfig) -> np.ndarray:
    """Which groups are kept back; Bool[Array, "groups"]."""
    kept_back = np.zeros(len(read.sizes), bool)
    wanted, n_kept = config.validation * len(read.group), 0
    order = np.argsort(read.ranks)[::-1]
    for group in read.in_order(order, read.ranks, reverse=True):
        if n_kept + read.sizes[group] / 2 > wanted:
            break
        kept_back[group] = True
        n_kept += read.sizes[group]
    return kept_back


def _per_stratum(read: _Read, config: SplitConfig) -> np.ndarray:
    """Which groups are kept back; Bool[Array, "groups"]."""
    kept_back = np.zeros(len(read.sizes), bool)
    strata = _strata(read)
    wanted = config.validation * np.bincount(strata, read.sizes)
    n_kept = np.zeros(len(wanted))
    order = np.lexsort((read.ranks, strata))
    for group in read.in_order(order, read.ranks, strata, reverse=False):
        stratum, size = strata[group], read.sizes[group]
        if n_kept[stratum] + size / 2 <= wanted[stratum]:
            kept_back[group] = True
            n_kept[stratum] += size
    return kept_back


def _strata(read: _Read) -> np.ndarray:
    """The most frequent value of each group; Int[Array, "groups"], of equals the first by name."""
    values, value = np.unique(read.values, return_inverse=True)
    pairs, first, count = np.unique(
        read.group * len(values) + value, return_index=True, return_counts=True
    )
    group, value = np.divmod(pairs, len(values))
    most = np.zeros(len(read.sizes), count.dtype)
    np.maximum.at(most, group, count)
    top = np.flatnonzero(count == most[group])
    strata = np.zeros(len(read.sizes), np.int64)
    strata[group[top]] = value[top]
    is_tied = np.bincount(group[top])[group[top]] > 1
    for each, tied in groupby(top[is_tied].tolist(), key=group.__getitem__):
        strata[each] = value[min(tied, key=lambda pair: read.value(int(first[pair])))]
    return strata
