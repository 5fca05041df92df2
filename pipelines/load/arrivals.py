"""When requests are due: seeded schedules, pure functions of their arguments."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from pipelines.core.errors import ConfigError, DataError
from pipelines.core.paths import ROOT
from pipelines.core.study import Arrivals

COLUMN = "timestamp"
"""Of a file to be replayed, in either case."""


def schedule(
    arrivals: Arrivals, rate: float, n: int, seed: int, gaps: np.ndarray | None = None
) -> np.ndarray:
    """Seconds from the start at which `n` requests are due, ascending; the first waits one gap.

    The times are never stretched afterwards to meet the rate: that would not be the process.

    Args:
        arrivals: the process.
        rate: requests per second, in the mean.
        n: how many.
        seed: equal seeds give equal times.
        gaps: of the recording, for `replay`.

    Returns:
        Float[ndarray, "n"], seconds.
    """
    dice = np.random.default_rng(seed)
    match arrivals.process:
        case "constant":
            drawn = np.ones(n)
        case "poisson":
            drawn = dice.exponential(size=n)
        case "gamma":
            assert arrivals.cv is not None
            shape = arrivals.cv**-2
            drawn = dice.gamma(shape, 1 / shape, size=n)
        case "replay":
            assert gaps is not None
            first = int(dice.integers(len(gaps)))  # a stretch of the recording, round its end
            drawn = gaps[(first + np.arange(n)) % len(gaps)] / gaps.mean()
    return np.cumsum(drawn) / rate


def recorded_gaps(path: str) -> np.ndarray:
    """Seconds between the rows of a CSV file with a column `timestamp`.

    Args:
        path: relative to the project; may begin with `$NAME/`, an environment variable's folder.

    Returns:
        Float[ndarray, "rows - 1"], none below 0.

    Raises:
        ConfigError: the environment variable is not set, or there is no such file.
        DataError: the file has no such column, an unreadable time, or all rows have the same one.
    """
    times = np.sort(_times(resolved(path)))
    gaps = np.diff(times)
    if not gaps.size or not gaps.any():
        raise DataError(f"{path}: a replay needs rows with at least two different times")
    return gaps


def _times(path: Path) -> Sequence[float]:
    """Unix seconds of all rows; a plain number is taken as seconds."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        column = next((c for c in reader.fieldnames or () if c.casefold() == COLUMN), None)
        if column is None:
            raise DataError(f"{path}: no column {COLUMN!r}; there are: {reader.fieldnames}")
        found: list[float] = []
        for row in reader:
            try:
                found.append(_seconds(row[column]))
            except (TypeError, ValueError):
                raise DataError(
                    f"{path}:{reader.line_num}: {row[column]!r} is no time; "
                    "write ISO 8601 or seconds"
                ) from None
    return found


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        # Some recordings carry seven decimals; datetime reads six.
        whole, _, rest = text.strip().partition(".")
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        moment = datetime.fromisoformat(whole + rest[len(digits) :])
        return moment.timestamp() + float(f"0.{digits or 0}")
    if not np.isfinite(value):
        raise ValueError(text)
    return value


def resolved(path: str) -> Path:
    """Where the recording lies.

    Raises:
        ConfigError: the environment variable is not set, or there is no such file.
    """
    if path.startswith("$"):
        name, _, rest = path[1:].partition("/")
        folder = os.environ.get(name)
        if not folder:
            raise ConfigError(f"benchmark.arrivals.path: {path}: set the variable {name}")
        found = Path(folder, rest)
    else:
        found = ROOT / path
    if not found.is_file():
        raise ConfigError(f"benchmark.arrivals.path: {path}: no such file")
    return found
