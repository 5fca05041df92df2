"""What a machine costs per hour in use, and what its tokens cost at the rate they come."""

from __future__ import annotations

from decimal import Decimal

from pipelines.core.hardware import END_NAMES, Figure, Hardware

RESERVED = ("reserved_1y", "reserved_3y")


def usd_per_machine_hour(hardware: Hardware) -> Figure:
    """Dollars per hour in use, under the contract in use.

    On demand and spot: the list price. Reserved: hours that are paid and not used come on top, as
    `idle_reserved_share` says. Own: the annuity of the purchase; `Purchase` says how.
    """
    price = hardware.list_price
    if hardware.contract not in RESERVED:
        return price
    low, likely, high = (
        price.at(end) * (1 + hardware.idle_reserved_share.at(end)) for end in END_NAMES
    )
    return price.model_copy(update={"low": low, "likely": likely, "high": high})


def usd_per_million_output_tokens(
    usd_per_hour: Decimal, output_tokens_per_s: float
) -> Decimal | None:
    """What a million generated tokens cost when the machine gives this many per second.

    All cost is put on the output; None without any output.
    """
    if output_tokens_per_s <= 0:
        return None
    return usd_per_hour / (Decimal(repr(output_tokens_per_s)) * 3600) * 1_000_000
