"""What an audit of usage logs found: dollars, differences to bills, and where a study may pay."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines.core.prices import Terms
from pipelines.core.records import Record
from pipelines.core.usage_log import BadRow, GroupedBy, SourceFile

TokenClass = Literal["fresh_input", "cached_input", "cache_write_5m", "cache_write_1h", "output"]
TOKEN_CLASSES: tuple[TokenClass, ...] = (
    "fresh_input",
    "cached_input",
    "cache_write_5m",
    "cache_write_1h",
    "output",
)
"""What is priced apart; together they are all tokens, each once."""


class AgreedTerms(Terms):
    """What a company pays one provider instead of the list price."""

    provider: str = Field(pattern=r"\S")
    """As the audit names it: `openai`, `anthropic`, `bedrock`."""
    model: str | None = None
    """As the log or the price book names it; None = every model of the provider."""
    region: str | None = None
    """As the log names it; None = wherever the calls ran."""
    account: str | None = Field(default=None, pattern=r"\S")
    """The billing account, for cost rows."""
    source: str = Field(pattern=r"\S")
    """Where they are written: a contract, an offer."""
    checked_on: date

    @model_validator(mode="after")
    def _tier_is_in_the_log(self) -> Self:
        if self.service_tier != "standard":
            raise ValueError("no service_tier here: the log says which tier each call had")
        return self

    @property
    def whose(self) -> str:
        """Which calls they are for, such as `openai/gpt-6.1-sol in eu`."""
        name = f"{self.provider}/{self.model}" if self.model else self.provider
        return f"{name} in {self.region}" if self.region else name


class Spend(Record):
    """Calls, tokens and dollars of one part of the log."""

    n_calls: int
    n_failed: int
    n_without_usage: int
    """Calls whose tokens the log does not state."""
    n_calls_priced: int
    """Calls that are in the dollars: tokens stated, model priced."""
    tokens: dict[TokenClass, int]
    n_tokens_without_calls: int
    """Tokens of sums that do not say over how many calls; these calls are in no count."""
    reasoning_tokens: int
    """Part of the output."""
    n_tokens_priced: int
    usd: Decimal | None
    """List price of the priced calls; None = none is priced, `why_not` says why."""
    usd_by_class: dict[TokenClass, Decimal]
    """Sums to `usd`; empty when that is None."""
    usd_at_terms: Decimal | None = None
    """`usd` after discounts and regional uplifts; None = no terms were given, or no price."""
    why_not: tuple[str, ...] = ()
    """Why calls are missing from the dollars."""

    @property
    def n_tokens(self) -> int:
        """All of them, input and output."""
        return sum(self.tokens.values())

    @property
    def n_input_tokens(self) -> int:
        """Fresh, cached and written."""
        return self.n_tokens - self.tokens["output"]


class Caching(Record):
    """What the prompt cache did to the priced calls."""

    hit_share: float | None
    """Cached tokens over all input tokens of all calls; None without input."""
    usd_saved_reading: Decimal | None
    """Cached tokens at the rate of fresh ones, less what they cost; None = nothing is priced."""
    usd_extra_writing: Decimal | None
    """What writing cost more than fresh input would have."""


class Batching(Record):
    """What the provider's batch rates would change, if the callers could wait for a day."""

    n_calls_batched: int
    """Calls that came at batch rates already."""
    n_calls: int
    """Calls at other rates whose price has a batch rate."""
    usd: Decimal | None
    """What these cost now; None = no such call."""
    usd_saved: Decimal | None
    """Off this if all of them were batched. A log cannot tell whether they could wait."""


class TrafficShape(Record):
    """When the calls come, by the hour (UTC)."""

    n_calls: int
    """Calls whose hour the log states."""
    busiest_hour: datetime
    busiest_hour_calls: int
    peak_to_mean: float
    """Busiest hour over the mean hour of all covered days; the busiest minute is above it."""
    hour_of_week: tuple[int, ...]
    """168 counts of calls, the first that of Monday 0:00 to 1:00 UTC."""


class Sign(Record):
    """One thing that makes a workload easier to take over, or not."""

    name: Literal["one model", "short outputs", "steady traffic", "batchable"]
    holds: bool | None
    """None = the log does not tell."""
    figure: str
    """What was found, with the limit it was held against."""


class WorkloadSpend(Record):
    """One workload; they are ranked by dollars per month."""

    workload: str
    grouped_by: GroupedBy
    spend: Spend
    usd_per_month: Decimal | None
    usd_per_month_at_terms: Decimal | None = None
    """None = no terms were given."""
    calls_per_month: int | None
    """None = part of the log does not say how many calls it sums."""
    by_model: dict[str, Spend]
    """`provider/model` -> its part, the most expensive first."""
    caching: Caching
    batching: Batching
    traffic: TrafficShape | None
    """None = the log states no time of day for it."""
    signs: tuple[Sign, ...]
    usd_per_hour: Decimal | None
    """Dollars per month, at your terms where they were given, over the hours of a month: what a
    machine around the clock may cost."""
    n_machines_paid: int | None
    """Whole machines (`AuditResult.machine`) that these dollars rent; None = one is unknown."""


class ModelSpend(Record):
    """One model of one provider."""

    provider: str
    """Empty = not known."""
    model: str
    """As the log names it."""
    price: str | None
    """Name in the price book; None = not found there."""
    source: str
    """Of the price."""
    spend: Spend
    usd_per_month: Decimal | None


class DaySpend(Record):
    """One day (UTC)."""

    day: date
    n_calls: int
    usd: Decimal | None
    usd_by_model: dict[str, Decimal]


class Comparison(Record):
    """Our dollars beside somebody else's."""

    subject: str
    """Whose dollars: a provider's, `provider/model` beside the log's own; empty = all of them."""
    against: Literal["cost report", "invoice", "log"]
    """`log`: the dollars that the logs themselves state, for the calls that carry some."""
    format: str = ""
    """Of the log that states them; empty = not a log."""
    day: date | None
    """None = all days together."""
    usd_list: Decimal | None
    """Ours, at list prices."""
    usd_at_terms: Decimal | None = None
    """Ours, at your terms; None = none were given, or the other side states list prices (a log)."""
    usd_stated: Decimal | None
    """Theirs."""
    usd_difference: Decimal | None
    """Ours - theirs, at your terms where they were given; None where one is missing."""
    share: float | None
    """The difference over theirs."""
    agrees: bool | None
    """Within the tolerance; None = cannot be compared."""
    note: str = ""


class Retirement(Record):
    """A model in use that its provider takes away soon, or has."""

    provider: str
    model: str
    on: date
    days_left: int
    """Negative = it is past."""
    n_calls: int
    usd_per_month: Decimal | None


class Machine(Record):
    """The machine that dollars are translated into."""

    name: str
    description: str
    usd_per_hour: Decimal


class AuditResult(Record):
    """All that an audit says."""

    schema_version: Literal[1] = 1
    run_id: str
    sources: tuple[str, ...]
    """What was asked for: files, folders, experiments."""
    files: tuple[SourceFile, ...]
    first_day: date
    last_day: date
    n_days: int
    """From the first to the last, days without calls included."""
    n_days_with_calls: int
    as_of: date
    """Retirements are counted from it."""
    prices_as_of: date | None
    """The prices of that date were used for every day; None = each day's own."""
    n_rows: int
    n_bad: dict[str, int]
    bad_rows: tuple[BadRow, ...]
    n_repeated: int
    repeated: tuple[BadRow, ...]
    row_coverage: float
    """Share of the rows that could be counted; repeated ones are rightly left out."""
    call_coverage: float | None
    """Share of the calls that are in the dollars; None without calls."""
    token_coverage: float | None
    """Share of the tokens that are in the dollars; None without tokens."""
    n_calls_summed: int
    """Calls that the log states only as sums."""
    total: Spend
    terms: tuple[AgreedTerms, ...] = ()
    """What is paid instead of list prices; empty = nothing is known of it."""
    usd_per_month: Decimal | None
    comparisons: tuple[Comparison, ...]
    workloads: tuple[WorkloadSpend, ...]
    models: tuple[ModelSpend, ...]
    days: tuple[DaySpend, ...]
    caching: Caching
    batching: Batching
    retirements: tuple[Retirement, ...]
    machine: Machine | None
    notes: tuple[str, ...]
    """What a reader must know before trusting the figures."""
