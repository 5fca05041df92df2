"""Break-even times that others published, again with their inputs, and with traffic as it comes."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from pipelines.core.records import Record
from pipelines.economics.fleet import Shape, plan

SOURCE = (
    "Pan, Chodnekar, Roy, Wang: A Cost-Benefit Analysis of On-Premise Large Language Model "
    "Deployment, arXiv 2509.18101v3, tables I to IV"
)
HOURS_PER_MONTH = 176
"""Eight hours on 22 days: what their tokens per month come from."""
USD_PER_KWH = Decimal("0.15")
NEVER = "never"


class Box(Record):
    """An open model on hardware that was bought for it."""

    model: str
    billions: int
    """Of parameters."""
    usd: int
    kw: Decimal
    tokens_per_s: int
    published_months: dict[str, Decimal]
    """API -> months until the hardware is paid for."""


class Api(Record):
    """Dollars per million tokens."""

    input: Decimal
    output: Decimal


APIS = {
    "GPT-5": Api(input=Decimal("1.25"), output=Decimal(10)),
    "Claude-4 Opus": Api(input=Decimal(15), output=Decimal(75)),
    "Claude-4 Sonnet": Api(input=Decimal(3), output=Decimal(15)),
    "Grok-4": Api(input=Decimal(3), output=Decimal(15)),
}
"""Gemini 2.5 Pro is left out: they list it at GPT-5's prices, and publish other months for it."""


def _box(model: str, billions: int, gpus: int, gpu: str, tokens_per_s: int, months: str) -> Box:
    usd, kw = {"A100": (15_000, "0.4"), "RTX 5090": (2_000, "0.575")}[gpu]
    return Box(
        model=model,
        billions=billions,
        usd=gpus * usd,
        kw=gpus * Decimal(kw),
        tokens_per_s=tokens_per_s,
        published_months=dict(zip(APIS, map(Decimal, months.split()), strict=True)),
    )


BOXES = (
    _box("EXAONE 4.0 32B", 32, 1, "RTX 5090", 200, "2.26 0.3 1.4 1.4"),
    _box("Qwen3-30B", 30, 1, "RTX 5090", 180, "2.5 0.3 1.6 1.6"),
    _box("Magistral Small", 24, 1, "RTX 5090", 150, "3.0 0.4 1.9 1.9"),
    _box("Llama-3.3-70B", 70, 1, "A100", 190, "17.8 2.3 11.4 11.4"),
    _box("GLM-4.5-Air", 106, 2, "A100", 200, "34.0 4.3 21.8 21.8"),
    _box("gpt-oss-120B", 120, 2, "A100", 220, "30.9 3.9 19.8 19.8"),
    _box("Qwen3-235B", 235, 4, "A100", 400, "34.0 4.3 21.8 21.8"),
    _box("GLM-4.5", 355, 6, "A100", 400, "51.5 6.5 32.8 32.8"),
    _box("Kimi-K2", 1000, 16, "A100", 800, "69.3 8.7 44.0 44.0"),
)


def months_to_break_even(box: Box, api: Api, utilisation: float = 1.0) -> Decimal | None:
    """Months until the API's bill for the same tokens exceeds hardware and electricity.

    A third of the tokens is input, the rest output, and the box is on for 176 hours a month.

    Args:
        box: the hardware and what it can do.
        api: what the tokens would cost.
        utilisation: share of what the box can do that is asked of it; they assume all.
    """
    millions = Decimal(box.tokens_per_s * 3600 * HOURS_PER_MONTH) / 1_000_000
    bill = millions * Decimal(repr(utilisation)) * (api.input + 2 * api.output) / 3
    electricity = box.kw * HOURS_PER_MONTH * USD_PER_KWH
    return box.usd / (bill - electricity) if bill > electricity else None


def real_utilisation(shape: Shape, spares: int) -> float:
    """Share of the capacity that is used by traffic which just fits in its busiest minute.

    Args:
        shape: of the traffic while the machines are on.
        spares: machines beside the one that carries it.
    """
    return plan(
        shape,
        1 / shape.peak_to_mean,
        1.0,
        headroom=0,
        spares=spares,
        min_replicas=1,
        scaling="always_on",
    ).utilisation


def table(shapes: Mapping[str, Shape], api: str = "GPT-5") -> str:
    """Months as published, as recomputed, and for real traffic without and with a spare.

    Args:
        shapes: name of some traffic -> its shape.
        api: one of `APIS`.
    """
    used = {"full": 1.0}
    for name, shape in shapes.items():
        used[name] = real_utilisation(shape, spares=0)
        used[f"{name}, spare"] = real_utilisation(shape, spares=1)
    head = [f"months against {api}", "published"]
    head += [f"{name} ({share:.0%})" for name, share in used.items()]
    rows = [head]
    for box in BOXES:
        found = (months_to_break_even(box, APIS[api], share) for share in used.values())
        cells = (NEVER if months is None else f"{months:.1f}" for months in found)
        rows.append([box.model, f"{box.published_months[api]}", *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
