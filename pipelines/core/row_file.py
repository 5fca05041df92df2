"""Training rows in a file: of millions of them only the places are in memory."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import IO, overload

import numpy as np
from pydantic_core import PydanticSerializationError

from pipelines.core.errors import DataError
from pipelines.core.records import Record, TrainingRow

BATCH = 4096
"""Rows whose places are looked up at once."""


class RowFile(Sequence[TrainingRow]):
    """Rows in the order in which they were written, or some of them; each is read when asked for.

    Never changed. Those that hold some of its rows share the file; a temporary one goes with the
    last of them.
    """

    def __init__(self, file: IO[bytes], bounds: np.ndarray, places: np.ndarray) -> None:
        """Made by `spooled`, `opened` and `taken`.

        Args:
            file: JSON Lines.
            bounds: where each line starts, and the end; Int64[Array, "lines+1"].
            places: which lines are meant; Int[Array, "rows"].
        """
        self._file, self._bounds, self._places = file, bounds, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> TrainingRow: ...
    @overload
    def __getitem__(self, index: slice) -> RowFile: ...
    def __getitem__(self, index: int | slice) -> TrainingRow | RowFile:
        if isinstance(index, slice):
            return RowFile(self._file, self._bounds, self._places[index])
        place = int(self._places[index])
        start, end = self._bounds[place : place + 2].tolist()
        line = os.pread(self._file.fileno(), end - start, start)
        return TrainingRow.model_validate_json(line)

    def __iter__(self) -> Iterator[TrainingRow]:
        return map(TrainingRow.model_validate_json, self.lines())

    def lines(self) -> Iterator[bytes]:
        """The canonical JSON of each row, with the end of its line."""
        handle = self._file.fileno()
        for at in range(0, len(self), BATCH):
            places = self._places[at : at + BATCH]
            starts, sizes = self._bounds[places], self._bounds[places + 1] - self._bounds[places]
            for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
                yield os.pread(handle, size, start)

    def take(self, places: np.ndarray) -> RowFile:
        """Those rows, in that order; Int[Array, "rows"]."""
        return RowFile(self._file, self._bounds, self._places[places])


def spooled(rows: Iterable[TrainingRow]) -> RowFile:
    """Write the rows, as they come, into a file of their own.

    Raises:
        DataError: a row is no Unicode text, or there is no room for it.
    """
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the rows hold it open
    ends = array("q")
    end = 0
    for line in lines(rows):
        end += len(line)
        ends.append(end)
        _write(file, line)
    _write(file, None)
    bounds = np.fromiter(chain([0], ends), np.int64, len(ends) + 1)
    return RowFile(file, bounds, np.arange(len(ends), dtype=np.uint32))


def opened(path: Path) -> RowFile:
    """Rows of a file that `lines` wrote; it must not change meanwhile."""
    file = path.open("rb")
    bounds = np.fromiter(chain([0], accumulate(map(len, file))), np.int64)
    return RowFile(file, bounds, np.arange(len(bounds) - 1, dtype=np.uint32))


def taken(rows: Sequence[TrainingRow], places: np.ndarray) -> Sequence[TrainingRow]:
    """Those rows, in that order; rows of a file stay there."""
    if isinstance(rows, RowFile):
        return rows.take(places)
    numbers: list[int] = places.tolist()
    return [rows[number] for number in numbers]


def lines(rows: Iterable[Record]) -> Iterator[bytes]:
    """The canonical JSON of each row, with the end of its line.

    Raises:
        DataError: a row is no Unicode text.
    """
    if isinstance(rows, RowFile):
        yield from rows.lines()
        return
    for number, row in enumerate(rows, start=1):
        try:
            yield row.model_dump_json().encode() + b"\n"
        except PydanticSerializationError as error:
            raise DataError(f"row {number}: {error}; correct it, or leave it out") from None


def _write(file: IO[bytes], line: bytes | None) -> None:
    """Append a line; None = what is still held back."""
    try:
        if line is None:
            file.flush()
        else:
            file.write(line)
    except OSError as error:
        raise DataError(
            f"{tempfile.gettempdir()}: the rows cannot be kept there: {error}; set TMPDIR to a "
            "folder with room"
        ) from None
