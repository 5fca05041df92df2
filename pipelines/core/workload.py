"""The workload: its examples, how an answer is graded, how much of it there is."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Literal, Self, cast

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from pipelines.core.hardware import Figure
from pipelines.core.own_costs import OwnCosts
from pipelines.core.records import Record
from pipelines.core.traffic import NamedProfile, Timestamps, times_s
from pipelines.core.usage_log import GroupedBy

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=60)]
"""Lower case, digits, dash, underscore: MLflow model names allow no `/ : . %` nor quotes."""
EnvName = Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")]
"""An environment variable; a key that was written in its place has another form."""
Share = Annotated[float, Field(ge=0, le=1)]
Tier = Literal["public", "internal", "confidential", "restricted"]
TIERS: Mapping[Tier, str] = {
    "public": "anybody may read it",
    "internal": "everybody in the company may",
    "confidential": "few may: customers' data, contracts, personal data",
    "restricted": "it must not leave the company: health, secrets, what law or contract forbids",
}


def _known_tier(value: object) -> object:
    if isinstance(value, str) and value in TIERS:
        return value
    said = "\n".join(f"    {name:<13} {meaning}" for name, meaning in TIERS.items())
    raise ValueError(f"it decides which endpoints may see the data; write one of\n{said}\n   ")


KnownTier = Annotated[Tier, BeforeValidator(_known_tier)]

MLFLOW_TRACES, MLFLOW_DATASET = "mlflow:", "mlflow-dataset:"
"""Begin a path that is a name in the tracking store: of an experiment, of a data set."""


class LoggedCalls(Record):
    """Which calls of a log become training rows."""

    workload: str | None = None
    """As `audit` names it; None = all calls."""
    by: GroupedBy | None = None
    """What names a workload; None = the first that a call has."""


class DataSource(Record):
    """Rows of one split: a file, logged calls, rows of the tracking store, or a set of the hub."""

    path: str
    """`.jsonl`, `.csv` or `.parquet`, or what `format` reads; with `calls`, a file, folder or
    pattern of logs, or `mlflow:EXPERIMENT`; or `mlflow-dataset:NAME`. A path that begins with
    `$NAME/` starts in the folder which that environment variable names; where it is unset, the hub
    is asked."""
    format: str | None = None
    """How a public set lies on disk: a file in pipelines/data/formats/."""
    split: str | None = None
    """Which of the format's splits."""
    text: str | None = None
    """The column that becomes the user's turn; needed for CSV and hub. A JSON Lines or Parquet file
    without it holds conversations."""
    target: str | None = None
    """The column that becomes the answer; in JSON Lines it may be an object."""
    hub: str | None = None
    """Hub data set, `owner/name`, used where the environment variable in `path` is unset."""
    hub_split: str | None = None
    hub_target: str | None = None
    """The hub's name for the target column, where it differs."""
    calls: LoggedCalls | None = None
    """`{}` or more: the path holds logged calls, in a format that `audit` reads."""
    licence: str | None = None
    """Of rows that state none: SPDX id, or a provider's terms. See configs/licences/."""
    answered_by: str | None = None
    """The model that wrote the answers of rows that do not say so."""

    @property
    def is_tracked(self) -> bool:
        """Whether the rows lie in the tracking store."""
        return self.path.startswith((MLFLOW_TRACES, MLFLOW_DATASET))

    @model_validator(mode="after")
    def _logs_know_their_columns(self) -> Self:
        logged = self.calls is not None or self.is_tracked
        if logged and (self.format or self.text or self.target or self.hub):
            raise ValueError("logs know their columns: leave out format, text, target and hub")
        if self.calls is not None and self.path.startswith(MLFLOW_DATASET):
            raise ValueError("an MLflow data set holds rows, not calls: leave out `calls`")
        return self

    @model_validator(mode="after")
    def _format_or_columns(self) -> Self:
        if (self.format is None) != (self.split is None):
            raise ValueError("`format` and `split` belong together")
        if self.format and (self.text or self.target or self.hub):
            raise ValueError("a `format` knows the columns: leave out text, target and hub")
        return self


class MetricSpec(Record):
    """One metric and its parameters: computed, or judged by other models."""

    metric: str
    """A file in pipelines/metrics/; with `judges`, one in pipelines/judging/."""
    params: dict[str, JsonValue] = {}
    judges: tuple[Name, ...] = ()
    """Names in the study's `judges`; several are a jury, whose median counts."""


class Requirements(Record):
    """What a candidate must meet before its price matters."""

    max_quality_loss: float = Field(ge=0, lt=1)
    """Non-inferiority margin: how much lower than the incumbent's the quality may be."""
    min_quality: Share = 0.0
    """The lower end of the quality's 95 % interval must reach this."""
    min_coverage: Share = 0.98
    """Share of the examples that must be answered and scored."""
    max_error_share: Share = 0.005
    """Share of the calls that may fail for no reason of the candidate's."""
    max_latency_p95_s: float = Field(gt=0)
    """The upper 95 % bound of the latency's 95th percentile must keep it."""
    usd_per_error: Decimal | None = Field(default=None, ge=0, allow_inf_nan=False)
    """What a wrong answer costs that nobody notices. It sets how much quality a saving may lose,
    and lets the lowest expected loss decide in place of the lowest price. None = not known."""
    slice_margin: Share | None = None
    """How much lower the quality may be in a slice; None = `max_quality_loss`."""
    max_failure_rates: dict[str, Share] = {}
    """Metric -> share of answers that may score below 1 on it; the upper 95 % bound must keep it.
    For errors that must hardly ever happen: to show 1 % takes 299 items without one."""
    min_judge_kappa: Share = 0.4
    """Judges of the quality metric must agree with human labels at least this well (Cohen's kappa,
    the lower end of its 95 % interval); the default is the floor of "moderate" agreement."""


class Traffic(Record):
    """How much of the workload there is, and when it comes."""

    tasks_per_month: int = Field(gt=0)
    tasks_per_month_low: int | None = Field(default=None, gt=0)
    """As few as there may be; None = as `tasks_per_month`."""
    tasks_per_month_high: int | None = Field(default=None, gt=0)
    """As many as there may be; None = as `tasks_per_month`."""
    peak_to_mean: float | None = Field(default=None, ge=1, allow_inf_nan=False)
    """Busiest minute over the mean rate of its hour; own machines are bought for the peak. None =
    4, or what `timestamps` tell."""
    profile: NamedProfile | None = None
    """Hours of the week, or their name in configs/traffic/; None = every hour is alike."""
    timestamps: Timestamps | None = None
    """Times of real requests, taken to be typical of every month."""

    @property
    def volume(self) -> Figure:
        """Tasks a month, low, likely and high."""
        likely = self.tasks_per_month
        return Figure(
            low=Decimal(self.tasks_per_month_low or likely),
            likely=Decimal(likely),
            high=Decimal(self.tasks_per_month_high or likely),
        )

    @model_validator(mode="after")
    def _told_once(self) -> Self:
        low, high = self.tasks_per_month_low, self.tasks_per_month_high
        if (low or 0) > self.tasks_per_month or (
            high or self.tasks_per_month
        ) < self.tasks_per_month:
            raise ValueError("tasks_per_month must lie between its low and its high end")
        if self.timestamps is not None:
            if self.profile is not None or self.peak_to_mean is not None:
                raise ValueError("timestamps tell the profile and peak_to_mean: leave these out")
            times_s(self.timestamps)
        return self


RetrievalMethod = Literal["bm25", "embeddings", "hybrid"]


class Embedder(Record):
    """Turns texts into vectors."""

    base_url: str | None = Field(default=None, pattern=r"^https?://")
    """Of a server with `/embeddings`, such as `https://api.openai.com/v1`; None = the small model
    all-MiniLM-L6-v2, which is installed as a package."""
    model: str = "all-MiniLM-L6-v2"
    api_key_env: EnvName | None = None


class Retrieval(Record):
    """Passages that stand before each question."""

    passages: str
    """JSON Lines of `id`, `title`, `text`, or what `format` reads."""
    format: str | None = None
    """How a public set lies on disk: a file in pipelines/data/formats/ that has passages. Only
    then may `passages` begin with `$NAME/`."""
    method: RetrievalMethod = "hybrid"
    k: int = Field(default=5, gt=0, le=50)
    """Passages before each question."""
    embedder: Embedder = Embedder()


class Workload(Record):
    """One business task: its examples, how it is graded, how much of it there is."""

    name: Name
    title: str
    tier: KnownTier = Field(default=cast(Tier, None), validate_default=True)
    """How far the data may travel; configs/policies/egress.yaml says which endpoints see it."""
    eval_set: DataSource
    instructions: str
    """System prompt for a model that was not tuned on the workload."""
    retrieval: Retrieval | None = None
    """None = the questions stand alone."""
    metrics: dict[str, MetricSpec]
    quality: str
    """The metric in `metrics` that the decision rests on."""
    slice_by: tuple[str, ...] = ()
    """Keys of the examples' `metadata`; no candidate may be worse in one of their values."""
    labels: str | None = None
    """JSON Lines of human labels on answers (`id`, `metric`, `answer`, `label`, `labelled_by`):
    judges are measured against them."""
    max_output_tokens: int = Field(gt=0)
    requirements: Requirements
    traffic: Traffic
    can_wait_h: float | None = Field(default=None, gt=0)
    """Hours that an answer may take, so that cheaper tiers are allowed: flex with any figure, batch
    from 24; None = answers are needed at once."""
    own_costs: OwnCosts

    @model_validator(mode="after")
    def _quality_is_a_metric(self) -> Self:
        if self.quality not in self.metrics:
            raise ValueError(f"quality {self.quality!r} is not in metrics: {list(self.metrics)}")
        if absent := [
            name for name in self.requirements.max_failure_rates if name not in self.metrics
        ]:
            raise ValueError(
                f"max_failure_rates: {absent} are not in metrics: {list(self.metrics)}"
            )
        return self
