"""Dollars, counts and shares as text."""

from __future__ import annotations

from decimal import Decimal


def usd(amount: Decimal | None) -> str:
    """`$1,235`, `$12.34`, `$0.0012`, `-$3.00`, `unknown`."""
    if amount is None:
        return "unknown"
    size = abs(amount)
    if 0 < size < Decimal("0.0001"):
        return "under $0.0001"
    digits = 0 if size >= 1000 else 2 if size >= 1 or not size else 4
    return f"{'-' if amount < 0 else ''}${size:,.{digits}f}"


def count(n: int | None) -> str:
    """`1,234`, `unknown`."""
    return "unknown" if n is None else f"{n:,}"


def percent(share: float | None) -> str:
    """`98.2 %`; what is not all of it is never rounded up to 100 %."""
    if share is None:
        return "unknown"
    text = f"{100 * share:.1f} %"
    return "over 99.9 %" if text == "100.0 %" and share < 1 else text
