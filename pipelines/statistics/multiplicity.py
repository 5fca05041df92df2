"""Several candidates, one error rate: p-values adjusted so that each may be read at alpha."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PValues = Sequence[float | None]
"""None = could not be tested; it counts as 1, so that it never passes."""


def fixed_sequence(p_values: PValues) -> NDArray[np.float64]:
    """Largest p-value up to each place of an order that was fixed before the data were seen.

    Below alpha means rejected, and everything before it, too. The order is paid for by nothing,
    but the first candidate that is not rejected ends the sequence.

    Args:
        p_values: in that order.

    Raises:
        ValueError: a p-value is not in [0, 1]; so in `holm`.
    """
    return np.maximum.accumulate(_checked(p_values))


def holm(p_values: PValues) -> NDArray[np.float64]:
    """P-values adjusted by Holm (1979), in the order given: valid for any dependence."""
    p = _checked(p_values)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, stepped)
    return adjusted


def _checked(p_values: PValues) -> NDArray[np.float64]:
    p = np.array([1.0 if value is None else value for value in p_values], dtype=float)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"a p-value is not in [0, 1]: {list(p_values)}")
    return p
