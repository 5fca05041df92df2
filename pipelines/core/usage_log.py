"""What usage logs say, grouped so that every row has one price: the audit's raw material."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal

from pipelines.core.prices import ServiceTier
from pipelines.core.records import Record

GroupedBy = Literal["tag", "project", "key", "prompt", "model"]
"""What a workload's name was taken from, the most telling first."""


@dataclass(frozen=True, slots=True)
class UsageGroup:
    """Calls of one day, one workload and one model that are priced alike."""

    day: date
    """UTC."""
    workload: str
    grouped_by: GroupedBy
    provider: str
    """As the price catalog names it (`openai`, `anthropic`, `bedrock`); empty = not known."""
    model: str
    """The model that answered, as the log names it."""
    service_tier: ServiceTier
    region: str
    """Where it ran, as the log names it; empty = not known, or everywhere."""
    context_over: int
    """The largest long-context threshold that the prompts exceed; 0 = none."""
    n_calls: int
    n_failed: int
    """Of these; what a failed call was billed is in the tokens."""
    input_tokens: int
    """All of the prompts: cached and cache-writing tokens included, whatever the log's habit."""
    cached_input_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    """Reasoning included."""
    reasoning_tokens: int
    n_without_usage: int
    """Calls whose tokens the log does not state: they are counted, and not in the dollars."""
    usd_reported: Decimal | None
    """What the log itself says they cost; None = it says nothing, or not for every call."""
    format: str
    """Title of the format of the log that they stand in."""
    is_sum: bool
    """True when the log gives sums over calls: `context_over` is then taken from their mean."""


class BadRow(Record):
    """A row that could not be counted."""

    file: str
    line: int
    """1-based line of a text file; row of a table or of a list, otherwise."""
    reason: str


class BilledLine(Record):
    """One line of a provider's own cost report."""

    day: date
    provider: str
    project: str
    """Or workspace; empty = the whole organisation."""
    description: str
    usd: Decimal


class SourceFile(Record):
    """One file of a log and what was found in it."""

    file: str
    format: str
    """Title of the format that it was recognised as."""
    n_rows: int
    n_bad: int


@dataclass(frozen=True, slots=True)
class UsageLog:
    """All that was read."""

    files: tuple[SourceFile, ...]
    groups: Sequence[UsageGroup]
    billed: Sequence[BilledLine]
    hourly: dict[str, dict[int, int]]
    """Workload -> Unix hour (seconds // 3600) -> calls; only from rows with a time of day."""
    n_rows: int
    n_bad: dict[str, int]
    """Reason -> rows that could not be counted."""
    bad_rows: tuple[BadRow, ...]
    """The first ones of each reason."""
    n_repeated: int
    """Rows whose request id had been seen before: left out, for they would count twice."""
    repeated: tuple[BadRow, ...] = ()
    """The first ones of these."""
    skipped: tuple[str, ...] = ()
    """Empty files, and files in folders that are of no known format."""
