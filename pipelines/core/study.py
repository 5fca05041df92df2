"""A study: one workload, its candidates, and what each stage needs to know."""

from __future__ import annotations

import os
import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, JsonValue, model_validator

from pipelines.core.prices import Hardware
from pipelines.core.records import Outcome, Record

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=60)]
"""Lower case, digits, dash, underscore: MLflow model names allow no `/ : . %` nor quotes."""
Share = Annotated[float, Field(ge=0, le=1)]
VLLM_MAX_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM 0.32 accepts for `--max-lora-rank`."""


class DataSource(Record):
    """Rows of one split: chat JSON Lines or CSV from a file, else a data set from the hub."""

    path: str
    """`.jsonl` or `.csv`, or what `format` reads. A path that begins with `$NAME/` starts in the
    folder which that environment variable names; where it is unset, the hub is asked."""
    format: str | None = None
    """How a public set lies on disk: a file in pipelines/data/formats/."""
    split: str | None = None
    """Which of the format's splits."""
    text: str | None = None
    """The column that becomes the user's turn; needed for CSV and hub. A JSON Lines file without
    it holds conversations."""
    target: str | None = None
    """The column that becomes the answer; in JSON Lines it may be an object."""
    hub: str | None = None
    """Hub data set, `owner/name`, used where the environment variable in `path` is unset."""
    hub_split: str | None = None
    hub_target: str | None = None
    """The hub's name for the target column, where it differs."""

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

    max_quality_loss: Share
    """Non-inferiority margin: how much lower than the incumbent's the quality may be."""
    min_quality: Share = 0.0
    """The lower end of the quality's 95 % interval must reach this."""
    min_coverage: Share = 0.98
    """Share of the examples that must be answered and scored."""
    max_latency_p95_s: float = Field(gt=0)
    min_judge_kappa: Share = 0.4
    """Judges of the quality metric must agree with human labels at least this well (Cohen's kappa,
    the lower end of its 95 % interval); the default is the floor of "moderate" agreement."""


class Traffic(Record):
    """How much of the workload there is."""

    tasks_per_month: int = Field(gt=0)
    peak_to_mean: float = Field(default=4.0, ge=1)
    """Busiest minute over the mean rate; own machines are bought for the peak."""


class OwnCosts(Record):
    """What owning costs beside the machines. Never zero by default: say it and say why."""

    operations_usd_per_month: Decimal = Field(ge=0)
    """People, on-call, monitoring."""
    tuning_usd_per_month: Decimal = Field(default=Decimal(0), ge=0)
    """Labels, training runs and evaluations, spread over the life of the tuned model."""
    max_utilisation: float = Field(default=0.6, gt=0, le=1)
    """Share of the measured throughput that the busiest minute may use."""
    source: str
    """Where these figures come from."""


RetrievalMethod = Literal["bm25", "embeddings", "hybrid"]


class Embedder(Record):
    """Turns texts into vectors."""

    base_url: str | None = Field(default=None, pattern=r"^https?://")
    """Of a server with `/embeddings`, such as `https://api.openai.com/v1`; None = the small model
    all-MiniLM-L6-v2, which is installed as a package."""
    model: str = "all-MiniLM-L6-v2"
    api_key_env: str | None = None


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
    eval_set: DataSource
    instructions: str
    """System prompt for a model that was not tuned on the workload."""
    retrieval: Retrieval | None = None
    """None = the questions stand alone."""
    metrics: dict[str, MetricSpec]
    quality: str
    """The metric in `metrics` that the decision rests on."""
    labels: str | None = None
    """JSON Lines of human labels on answers (`id`, `metric`, `answer`, `label`, `labelled_by`):
    judges are measured against them."""
    max_output_tokens: int = Field(gt=0)
    requirements: Requirements
    traffic: Traffic
    own_costs: OwnCosts

    @model_validator(mode="after")
    def _quality_is_a_metric(self) -> Self:
        if self.quality not in self.metrics:
            raise ValueError(f"quality {self.quality!r} is not in metrics: {list(self.metrics)}")
        return self


class PrepareConfig(Record):
    """Which rows to train on."""

    train: DataSource
    near_copy: Share = 0.8
    """Rows whose character 5-grams overlap this much (Jaccard) are copies of one another."""


class BaseModelRef(Record):
    """Where the open weights come from: exactly one of `build`, `hub`, `path`."""

    build: Literal["toy"] | None = None
    """`toy`: a small Llama is pre-trained on the spot on generated text; for trying things out."""
    hub: str | None = None
    revision: str | None = None
    """Commit of the hub repository, so that the same study means the same weights."""
    path: Path | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if sum(x is not None for x in (self.build, self.hub, self.path)) != 1:
            raise ValueError("give exactly one of build, hub, path")
        return self


class LoraConfig(Record):
    """The adapter."""

    rank: int
    alpha: float = Field(gt=0)
    dropout: Share = 0.0
    rslora: bool = False
    """Scale by alpha / sqrt(rank); worth it from rank 64 on."""

    @model_validator(mode="after")
    def _vllm_accepts_rank(self) -> Self:
        if self.rank not in VLLM_MAX_RANKS:
            raise ValueError(f"rank {self.rank}: vLLM serves only {VLLM_MAX_RANKS}")
        return self


class FinetuneConfig(Record):
    """How the open model is tuned; a preset in configs/training/ gives most of it."""

    preset: str
    base: BaseModelRef
    lora: LoraConfig
    learning_rate: float = Field(gt=0)
    epochs: float = Field(gt=0)
    batch_size: int = Field(gt=0)
    """Rows per optimiser step."""
    micro_batch_size: int | None = Field(default=None, gt=0)
    """Rows per forward pass; None = batch_size. Lower it when memory is short."""
    warmup_share: Share = 0.05
    weight_decay: float = Field(default=0.0, ge=0)
    label_smoothing: Share = 0.0
    max_tokens_per_row: int = Field(default=1024, gt=0)
    """Longer rows are refused, never cut in silence."""
    quantization: Literal["none", "nf4"] = "none"
    """`nf4`: QLoRA, the frozen base in 4 bits (bitsandbytes)."""
    gradient_checkpointing: bool = False
    checkpoints: int = Field(default=4, gt=0)
    """How often the training state is saved, to resume after a kill."""
    seed: int = 0
    chat_template_options: dict[str, bool] = {}
    """Passed to the chat template in training and in serving, e.g. `enable_thinking: false`."""
    instructions: str | None = None
    """System prompt of the training rows and of the tuned model; None = the workload's."""


class ServeConfig(Record):
    """The vLLM process."""

    port: int | None = Field(default=None, gt=0, lt=65536)
    """None = a free one."""
    max_model_len: int = Field(default=1024, gt=0)
    startup_timeout_s: float = Field(default=300, gt=0)
    gpu_memory_share: Share = 0.9
    """GPU only: share of the memory that vLLM takes."""
    cpu_kv_cache_gib: int = Field(default=1, gt=0)
    """CPU only: memory for the key-value cache."""


class Grading(Record):
    """Whether an answer that did not end by itself is wrong, or is graded like any other."""

    truncated: Literal["wrong", "graded"] = "graded"
    """It ran into `max_output_tokens`; what is there may be right."""
    refused: Literal["wrong", "graded"] = "wrong"
    """`graded`: for workloads where refusing can be the right answer."""
    filtered: Literal["wrong", "graded"] = "wrong"

    def is_wrong(self, outcome: Outcome) -> bool:
        """True when an answer with this outcome is wrong whatever its text says."""
        return getattr(self, outcome, "graded") == "wrong"


class EvaluateConfig(Record):
    """How the candidates are asked."""

    concurrency: int = Field(default=16, gt=0)
    """Requests in flight per candidate."""
    timeout_s: float = Field(default=120, gt=0)
    max_attempts: int = Field(default=4, gt=0)
    """Tries per request; only server errors, timeouts and broken connections are tried again.
    A rate limit makes all requests wait and does not count."""
    n_samples: int = Field(default=1, gt=0)
    """Answers asked for per item; the intervals treat those of one item as one cluster."""
    budget_usd: Decimal | None = Field(default=None, gt=0)
    """Most that the paid calls of this study may cost, those to judges and those of earlier runs
    included; None = no limit."""
    judge_max_output_tokens: int = Field(default=1024, gt=0)
    """A judge gives its reason before its verdict."""
    grading: Grading = Grading()
    prompt_debt: tuple[Name, ...] = ()
    """Candidates that are asked a second time, with the incumbent's system prompt word for word:
    what they lose is the prompt debt of the workload."""
    calibration_items: int = Field(default=100, gt=0)
    """Items of each part of a public set that `--calibrate-judge=SET` asks the judges about."""
    n_traces: int = Field(default=10, ge=0)
    """Items of each candidate that are written to MLflow as traces, to read and to label."""


class StandIn(Record):
    """How the stand-in for a closed model behaves. Its answers are simulated, not measured."""

    error_rate: Share
    ttft_s: float = Field(ge=0)
    tokens_per_s: float = Field(gt=0)
    seed: int = 0


class Rent(Record):
    """A model behind somebody else's API, paid per token."""

    kind: Literal["rent"]
    title: str
    provider: str = "openai_compatible"
    """A file in pipelines/providers/."""
    recorded: str | None = None
    """File of answers that were given elsewhere: they are graded, nothing is sent. JSON Lines of
    `id`, `text` or `error`, and what is known of `usage`, `latency_s`, `ttft_s`, `model`,
    `outcome`, `scores`; or what another harness wrote, in a format of
    pipelines/evaluation/imports/. `FILE#NAME` chooses one of several models or prompts in it."""
    model: str
    price: str
    """`provider/model` in the price book."""
    base_url: str | None = None
    """None = the provider's public address."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; the key itself is never in a file."""
    standin: StandIn | None = None
    """Used where the key is absent; everything it touches is marked simulated."""
    request: dict[str, str | int | float | bool | None] = {}
    """More fields of the request body, such as `reasoning_effort: low`; `temperature: null`
    leaves the temperature out, for models that accept only their own."""
    closed_book: bool = False
    """Ask without the retrieved passages: a control that shows what the model knows by heart."""
    instructions: str | None = None
    """System prompt of this candidate alone; None = the workload's."""
    control_of: Name | None = None
    """Asked for comparison with that candidate, and never chosen."""

    @property
    def simulated(self) -> bool:
        """True when the stand-in answers, because there is no key."""
        has_key = self.api_key_env is not None and bool(os.environ.get(self.api_key_env))
        return self.standin is not None and self.recorded is None and not has_key


class Own(Record):
    """The study's open model on our own machines, as published or tuned."""

    kind: Literal["own"]
    title: str
    tuned: bool
    """True = with the adapter of the finetune stage."""
    closed_book: bool = False
    """Ask without the retrieved passages."""
    instructions: str | None = None
    """System prompt of this candidate alone; None = the one it was tuned with, else the
    workload's."""
    control_of: Name | None = None
    """Asked for comparison with that candidate, and never chosen."""
    hardware: Hardware
    simulated: ClassVar[bool] = False


class Baseline(Record):
    """A classical model, no LLM: the cheap rival."""

    simulated: ClassVar[bool] = False
    control_of: ClassVar[None] = None
    closed_book: bool = False
    """Ask without the retrieved passages; for a method that learned without them."""
    kind: Literal["baseline"]
    title: str
    method: Literal["tfidf_logreg", "patterns", "extractive"]
    """`tfidf_logreg`: repeats a training answer · `extractive`: quotes the sentence of the passages
    that is nearest to the question."""
    patterns: dict[str, tuple[str, ...]] = {}
    """`patterns`: field of the JSON answer -> regular expressions; the first group of the first
    one that is found is the value. `^` and `$` match at line ends, letters in either case."""
    hardware: Hardware

    @model_validator(mode="after")
    def _patterns_compile(self) -> Self:
        if (self.method == "patterns") != bool(self.patterns):
            raise ValueError("method `patterns` needs `patterns`, and only that method takes them")
        for name, alternatives in self.patterns.items():
            for pattern in alternatives:
                try:
                    groups = re.compile(pattern).groups
                except re.error as error:
                    raise ValueError(f"patterns.{name}: {pattern!r}: {error}") from None
                if groups < 1:
                    raise ValueError(f"patterns.{name}: {pattern!r} has no group")
        return self


Candidate = Annotated[Rent | Own | Baseline, Field(discriminator="kind")]
JudgeModel = Annotated[Rent | Own, Field(discriminator="kind")]


class Study(Record):
    """Everything one workload's verdict is made from."""

    workload: Workload
    prepare: PrepareConfig
    finetune: FinetuneConfig
    serve: ServeConfig = ServeConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    incumbent: Name
    """The candidate that production uses today."""
    candidates: dict[Name, Candidate]
    judges: dict[Name, JudgeModel] = {}
    """Models that judge answers; written like candidates."""

    @model_validator(mode="after")
    def _incumbent_is_a_candidate(self) -> Self:
        if self.incumbent not in self.candidates:
            raise ValueError(
                f"incumbent {self.incumbent!r} is not a candidate: {', '.join(self.candidates)}"
            )
        return self

    @model_validator(mode="after")
    def _prompts_can_be_swapped(self) -> Self:
        for name in self.evaluate.prompt_debt:
            candidate = self.candidates.get(name)
            if name == self.incumbent or not isinstance(candidate, Rent | Own):
                raise ValueError(
                    f"evaluate.prompt_debt: {name!r} must be a candidate with a prompt of its own, "
                    "other than the incumbent"
                )
        return self

    def with_controls(self) -> Study:
        """The study with one more candidate for each of `evaluate.prompt_debt`."""
        theirs = self.candidates[self.incumbent]
        own = None if isinstance(theirs, Baseline) else theirs.instructions
        controls: dict[Name, Candidate] = {}
        for name in self.evaluate.prompt_debt:
            candidate = self.candidates[name]
            controls[f"{name}-incumbent-prompt"] = candidate.model_copy(
                update={
                    "title": f"{candidate.title}, with the prompt of {self.incumbent}",
                    "instructions": own or self.workload.instructions,
                    "control_of": name,
                }
            )
        return self.model_copy(update={"candidates": {**self.candidates, **controls}})

    @model_validator(mode="after")
    def _judges_are_there(self) -> Self:
        for name, spec in self.workload.metrics.items():
            if absent := [judge for judge in spec.judges if judge not in self.judges]:
                known = ", ".join(self.judges) or "there are none"
                raise ValueError(
                    f"workload.metrics.{name}: {', '.join(absent)}: not in judges: {known}"
                )
        return self
