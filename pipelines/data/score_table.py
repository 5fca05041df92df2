"""Anybody's results per item and candidate, read from one file as the evidence of a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from pipelines.core.errors import DataError
from pipelines.core.evidence import Evidence, Floats
from pipelines.core.results import Kind
from pipelines.data.score_columns import CHOICES, MAX_LISTED, NUMBERS, quoted
from pipelines.data.score_file import Rows, ScoreFile, Texts, opened

MAX_CANDIDATES = 50
MAX_SLICES = 100


@dataclass(frozen=True)
class ScoreTable(Evidence):
    """What a file says, and what of it was left out."""

    n_rows: int = 0
    notes: tuple[str, ...] = ()
    """In words: columns that were ignored."""


def read(path: str | Path, incumbent: str, kinds: Mapping[str, Kind] | None = None) -> ScoreTable:
    """Read one row per item and candidate; what is empty, or has no row, is NaN.

    The incumbent is the first candidate, the others follow by name; items stand in the order of
    their first rows. Dollars, seconds, confidences and groups are None where no row states any.

    Args:
        path: CSV, TSV, JSON Lines or Parquet, `.gz` or `.zst` too, with the columns `NEEDED` and
            any others of `KNOWN`, in any order.
        incumbent: the candidate that production uses today.
        kinds: candidate -> rented, owned or a baseline, beside what the file's `kind` says.

    Raises:
        DataError: the file cannot be read, lacks a column, holds a value that none may be, states
            an item twice for a candidate or in two ways, or gives nothing to compare.
    """
    with opened(Path(path)) as file:
        return _Reading(file, *file.read()).evidence(incumbent, kinds or {})


@dataclass(frozen=True)
class _Reading:
    """The rows of a file on their way to matrices."""

    file: ScoreFile
    texts: Mapping[str, Texts]
    numbers: Mapping[str, Floats]

    def evidence(self, incumbent: str, kinds: Mapping[str, Kind]) -> ScoreTable:
        """Matrices of what was read, after every check."""
        self._check_values()
        names = self._candidates(incumbent, kinds)
        cells = self._cells(names)
        matrices = {
            name: np.where(cells < 0, np.nan, values[cells])
            for name, values in self.numbers.items()
            if name == "score" or not np.isnan(values).all()
        }
        self._check_overlap(names, matrices["score"])
        return ScoreTable(
            candidates=tuple(names),
            ids=tuple(self.texts["example_id"].values),
            scores=matrices["score"],
            usd=matrices.get("usd"),
            latency_s=matrices.get("latency_s"),
            confidence=matrices.get("confidence"),
            groups=self._groups(),
            slices=self._slices(),
            kinds=self._kinds(kinds),
            n_rows=len(self.numbers["score"]),
            notes=self._notes(),
        )

    def _check_values(self) -> None:
        for name in ("example_id", "candidate"):
            rows = np.flatnonzero(self.texts[name].codes < 0)
            if len(rows):
                absent = f"no {name}" + ", or no JSON object" * (self.file.format == "json")
                what = "every row names its item and its candidate; fill in what is missing"
                raise self.file.bad(what, rows, [absent] * len(rows))
        for name, values in self.numbers.items():
            low, high, expected = NUMBERS[name]
            if name == "score" and 1 < np.nanmax(values, initial=0) <= 100:
                expected += "; if they are percentages, divide by 100"
            self._check_all(name, (values >= low) & (values <= high) | np.isnan(values), expected)
        for name, allowed in CHOICES.items():
            if name in self.texts:
                texts = self.texts[name]
                fits = np.array([*(value in allowed for value in texts.values), True])
                self._check_all(name, fits[texts.codes], f"{' or '.join(allowed)}, or empty")

    def _check_all(self, name: str, fits: NDArray[np.bool_], expected: str) -> None:
        rows = np.flatnonzero(~fits)
        if len(rows):
            says = map(quoted, self.file.raw(name, rows))
            raise self.file.bad(f"{name} must be {expected}", rows, says)

    def _candidates(self, incumbent: str, kinds: Mapping[str, Kind]) -> list[str]:
        """Names in the order of the columns."""
        self._check_few("candidate", MAX_CANDIDATES)
        names = sorted(self.texts["candidate"].values, key=lambda name: (name != incumbent, name))
        listed = ", ".join(map(quoted, sorted(names)))
        for name in (incumbent, *kinds):
            if name not in names:
                raise self._refusal(
                    f"{quoted(name)} is not among the candidates; name one of them: {listed}"
                )
        if len(names) == 1:
            raise self._refusal(
                f"only one candidate, {listed}; add the rows of another one on the same items"
            )
        return names

    def _check_few(self, name: str, limit: int) -> None:
        values = self.texts[name].values
        if len(values) > limit:
            raise self._refusal(
                f"{len(values):,} {name}s, {limit} at most; is `{name}` a name that differs from "
                f"row to row, like {', '.join(map(quoted, values[:3]))}?"
            )

    def _cells(self, names: Sequence[str]) -> Rows:
        """The row of each item and candidate, shape (items, candidates); -1 = there is none."""
        example, candidate = self.texts["example_id"], self.texts["candidate"]
        if len(example.values) < 2:
            raise self._refusal(
                f"only one item, {quoted(example.values[0])}; a comparison needs 2 and more"
            )
        column = np.array([names.index(name) for name in candidate.values])
        shape = (len(example.values), len(names))
        cell = example.codes * len(names) + column[candidate.codes]
        first = _first_rows(cell, shape[0] * shape[1])
        rows = np.flatnonzero(first[cell] != np.arange(len(cell)))
        if len(rows):
            raise self.file.bad(
                "an item has one row per candidate; take the mean of several samples, or give "
                "each sample an example_id of its own and the item as its group",
                rows,
                (
                    f"{self._said('example_id', row)} of "
                    f"{quoted(candidate.values[candidate.codes[row]])} stands already"
                    for row in rows
                ),
                first[cell[rows]],
            )
        return first.reshape(shape)

    def _check_overlap(self, names: Sequence[str], scores: Floats) -> None:
        known = ~np.isnan(scores)
        n_shared = (known[:, :1] & known).sum(axis=0)
        if n_shared[0] == 0:
            raise self._refusal(
                f"the incumbent {quoted(names[0])} has no score at all; fill in `score`"
            )
        if apart := [quoted(name) for name, n in zip(names, n_shared, strict=True) if n == 0]:
            raise self._refusal(
                f"no item has a score of {', '.join(apart)} and of the incumbent "
                f"{quoted(names[0])}; score both on the same items, under the same example_id"
            )

    def _groups(self) -> Rows | None:
        if not self._states("group"):
            return None
        codes = self._of_each("example_id", "group")
        alone = codes < 0
        codes[alone] = codes.max() + 1 + np.arange(alone.sum())
        return codes

    def _slices(self) -> dict[str, NDArray[np.bool_]]:
        if not self._states("slice"):
            return {}
        self._check_few("slice", MAX_SLICES)
        codes = self._of_each("example_id", "slice")
        names = enumerate(self.texts["slice"].values)
        return {name: codes == code for code, name in sorted(names, key=itemgetter(1))}

    def _kinds(self, given: Mapping[str, Kind]) -> dict[str, Kind]:
        if not self._states("kind"):
            return dict(given)
        codes = self._of_each("candidate", "kind").tolist()
        values = cast(list[Kind], self.texts["kind"].values)
        named = zip(self.texts["candidate"].values, codes, strict=True)
        stated = {name: values[code] for name, code in named if code >= 0}
        for name, kind in given.items():
            if stated.get(name, kind) != kind:
                raise self._refusal(
                    f"candidate {quoted(name)} is of kind {stated[name]} in the file, and of kind "
                    f"{kind} as it was called; leave out one of them"
                )
        return {**stated, **given}

    def _states(self, name: str) -> bool:
        return name in self.texts and bool(self.texts[name].values)

    def _of_each(self, owner: str, name: str) -> Rows:
        """Item or candidate -> code of its one value of a column; -1 = no row states it."""
        owners, texts = self.texts[owner], self.texts[name]
        stated = np.flatnonzero(texts.codes >= 0)
        of, codes = owners.codes[stated], texts.codes[stated]
        first = _first_rows(of, len(owners.values))
        differs = codes != codes[first[of]]
        if differs.any():
            rows, before = stated[differs], stated[first[of]][differs]
            raise self.file.bad(
                f"all rows with one and the same {owner} must have one {name}",
                rows,
                (
                    f"{self._said(owner, row)} has {self._said(name, row)}, and "
                    f"{quoted(texts.values[texts.codes[earlier]])}"
                    for row, earlier in zip(rows, before, strict=True)
                ),
                before,
            )
        return np.where(first < 0, -1, codes[first])

    def _said(self, name: str, row: int) -> str:
        return f"{name} {quoted(self.texts[name].values[self.texts[name].codes[row]])}"

    def _notes(self) -> tuple[str, ...]:
        notes: list[str] = []
        if ignored := self.file.ignored:
            listed = ", ".join(ignored[:MAX_LISTED])
            notes.append(f"columns ignored ({len(ignored)}): {listed}")
        tokens = [name for name in self.numbers if name.endswith("_tokens")]
        if stated := [name for name in tokens if not np.isnan(self.numbers[name]).all()]:
            notes.append(f"{', '.join(stated)}: checked, and not priced; dollars come from usd")
        return tuple(notes)

    def _refusal(self, what: str) -> DataError:
        return DataError(f"{self.file.name}: {what}")


def _first_rows(owners: Rows, n_owners: int) -> Rows:
    """The first row of each owner; -1 = it has none."""
    first = np.full(n_owners, -1, dtype=np.int64)
    first[owners[::-1]] = np.arange(len(owners))[::-1]
    return first
