"""Keep rows back for validation: whole groups, by digest, by stratum or by time."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from pipelines.core.errors import DataError
from pipelines.core.records import TrainingRow
from pipelines.core.study import SplitConfig
from pipelines.data.splits import normalise

ANSWER = "answer"
"""`stratify` by the answer itself."""


class Partition(NamedTuple):
    """The two splits, both in the order of the rows."""

    train: list[TrainingRow]
    validation: list[TrainingRow]


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
        return Partition(list(rows), [])
    _check_keys(rows, config)
    groups = [_group(row, config.group) for row in rows]
    sizes = Counter(groups)
    if config.by == "time":
        kept_back = _newest(rows, groups, sizes, config)
    elif config.stratify is None:
        kept_back = {each for each in sizes if _place(each, config.seed) < config.validation}
    else:
        kept_back = _per_stratum(rows, groups, sizes, config, config.stratify)
    train = [row for row, group in zip(rows, groups, strict=True) if group not in kept_back]
    validation = [row for row, group in zip(rows, groups, strict=True) if group in kept_back]
    if not train or not validation:
        raise DataError(
            f"prepare.split.validation: {config.validation} of {len(rows)} rows in {len(sizes)} "
            f"groups leaves {len(train)} to train on and {len(validation)} to validate with; "
            "take another share, or smaller groups"
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
    there = {key for row in rows for key in row.metadata}
    for name, key in (("group", config.group), ("stratify", config.stratify)):
        if key is not None and key not in there and (name, key) != ("stratify", ANSWER):
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


def _newest(
    rows: Sequence[TrainingRow],
    groups: Sequence[str],
    sizes: Mapping[str, int],
    config: SplitConfig,
) -> set[str]:
    newest: dict[str, datetime] = {}
    undated: list[str] = []
    for number, (row, group) in enumerate(zip(rows, groups, strict=True), start=1):
        if row.answered_at is None:
            undated.append(row.id or row.request_id or f"number {number}")
        else:
            newest[group] = max(row.answered_at, newest.get(group, row.answered_at))
    if undated:
        raise DataError(
            f"prepare.split.by: time needs `answered_at`, and {len(undated)} of {len(rows)} rows "
            f"have none, the first of them {undated[0]}; add the times, or split by hash"
        )
    wanted, taken = config.validation * len(rows), 0
    kept_back: set[str] = set()
    for group in sorted(newest, key=lambda each: (newest[each], each), reverse=True):
        if taken + sizes[group] / 2 > wanted:
            break
        kept_back.add(group)
        taken += sizes[group]
    return kept_back


def _per_stratum(
    rows: Sequence[TrainingRow],
    groups: Sequence[str],
    sizes: Mapping[str, int],
    config: SplitConfig,
    key: str,
) -> set[str]:
    strata: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row, group in zip(rows, groups, strict=True):
        value = row.messages[-1].content.strip() if key == ANSWER else str(row.metadata.get(key))
        strata[group][value] += 1
    members: defaultdict[str, list[str]] = defaultdict(list)
    for group, values in strata.items():
        members[min(values, key=lambda each: (-values[each], each))].append(group)
    kept_back: set[str] = set()
    for of_stratum in members.values():
        wanted = config.validation * sum(sizes[group] for group in of_stratum)
        taken = 0
        for group in sorted(of_stratum, key=lambda each: (_place(each, config.seed), each)):
            if taken + sizes[group] / 2 <= wanted:
                kept_back.add(group)
                taken += sizes[group]
    return kept_back
