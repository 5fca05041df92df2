"""A study: one workload, its candidates, and what each stage needs to know."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BeforeValidator, Field, model_validator

from pipelines.core.candidate import Baseline, Candidate, JudgeModel, Own, Rent
from pipelines.core.model_shape import ModelShape
from pipelines.core.records import Outcome, Record
from pipelines.core.workload import DataSource, Name, Share, Workload

VLLM_MAX_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM 0.32 accepts for `--max-lora-rank`."""
AUTO_RANKS = {2_000_000: 16, 20_000_000: 32, math.inf: 128}
"""Fewer scored tokens than this -> rank. A rule of thumb: an adapter keeps about two bits a
parameter, and an 8B model's has 42 million of them at rank 16."""
RSLORA_FROM = 64
BATCH_H = 24
"""Hours within which providers answer a batch."""


class Acknowledgement(Record):
    """Somebody has read a licence and takes responsibility for training under it."""

    licence: str
    """Name of a file in configs/licences/."""
    by: str = Field(pattern=r"\S")
    """Who: a person, or a role with a name behind it."""
    why: str = Field(pattern=r"\S")
    """What makes it right: a written permission, an exception of the terms, no commercial use."""


class SplitConfig(Record):
    """Which rows are kept back to validate the training; the rows of one group stay together."""

    validation: float = Field(default=0.0, ge=0, lt=1)
    """Share of the rows."""
    by: Literal["hash", "time"] = "hash"
    """`hash`: a group's digest decides. `time`: the newest rows, by `answered_at`."""
    group: str | None = None
    """Key of the rows' metadata that names a group; None = the row's `group`, else its first
    question, so that a conversation and its continuation stay together."""
    stratify: str | None = None
    """`answer`, for answers that are labels, or a key of the metadata: each of its values gives the
    same share."""
    seed: int = 0

    @model_validator(mode="after")
    def _time_has_no_strata(self) -> Self:
        if self.by == "time" and self.stratify is not None:
            raise ValueError("by: time takes the newest rows, whatever they hold: no `stratify`")
        return self


class PrepareConfig(Record):
    """Which rows to train on."""

    train: DataSource
    split: SplitConfig = SplitConfig()
    acknowledge: tuple[Acknowledgement, ...] = ()
    """Licences whose conditions somebody answers for; without, they refuse the training."""
    require_licence: bool = False
    """Refuse rows of which nobody says what they may be used for."""
    near_copy: float = Field(default=0.8, ge=0.1, le=1)
    """Rows whose pieces of characters (three, or five of long texts) overlap this much (Jaccard)
    are copies of one another."""
    near_duplicates: Literal["keep", "drop"] = "keep"
    """Training rows that are near-copies of one before them and have the same answer. Verbatim
    repetitions and copies of eval items are always dropped."""
    noise: Literal["off", "drop", "relabel"] = "off"
    """Rows whose answer is probably wrong: outvoted by the same request, unreadable, a refusal, or
    a label that rows like it do not have. `relabel`: a clear answer is written instead."""
    personal_data: Literal["off", "report", "mask"] | None = None
    """E-mail addresses, telephone, card, account and identity numbers and the like in the training
    rows; `mask` puts `<EMAIL_1>` in their place. None = `mask` where the workload's tier is
    confidential or restricted, else `off`."""
    name_model: Path | None = None
    """Folder of a spaCy pipeline that finds names and places, too; None = they are not looked
    for."""


class BaseModelRef(Record):
    """Where the open weights come from: exactly one of `build`, `hub`, `path`."""

    build: Literal["toy"] | None = None
    """`toy`: a small Llama is pre-trained on the spot on generated text; for trying things out."""
    hub: str | None = None
    revision: str | None = None
    """Commit of the hub repository, so that the same study means the same weights."""
    path: Path | None = None
    licence: str | None = None
    """Of the weights; None = told by the hub's name, see configs/licences/."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if sum(x is not None for x in (self.build, self.hub, self.path)) != 1:
            raise ValueError("give exactly one of build, hub, path")
        return self


class LoraConfig(Record):
    """The adapter."""

    rank: int
    """A study may say `auto`: by the tokens that are learned from; then this is the highest rank
    that may come out, until the rows are counted."""
    auto: bool = False
    """True when the study says `rank: auto`."""
    alpha: float = Field(gt=0)
    dropout: Share = 0.0
    rslora: bool = False
    """Scale by alpha / sqrt(rank); worth it from rank 64 on, where `auto` turns it on."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Names of the layers that are adapted."""
    init: str = "default"
    """How the adapter begins, by peft's name. Those that change the base, as `pissa` does, are
    refused: vLLM does not serve them."""
    dora: bool = False
    """Weight-decomposed LoRA; vLLM serves it merged only."""

    @model_validator(mode="before")
    @classmethod
    def _rank_by_the_data(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        fields = cast(dict[str, Any], value)
        if fields.get("rank") != "auto":
            return fields
        return {**fields, "rank": max(AUTO_RANKS.values()), "auto": True}

    def for_tokens(self, n_scored: int) -> LoraConfig:
        """The adapter for rows with so many scored tokens; itself unless its rank is `auto`."""
        if not self.auto:
            return self
        rank = next(rank for most, rank in AUTO_RANKS.items() if n_scored < most)
        more = {"rank": rank, "auto": False, "rslora": self.rslora or rank >= RSLORA_FROM}
        return self.model_copy(update=more)

    @model_validator(mode="after")
    def _vllm_accepts_rank(self) -> Self:
        if self.rank not in VLLM_MAX_RANKS:
            raise ValueError(f"rank {self.rank}: vLLM serves only {VLLM_MAX_RANKS}")
        return self


class SearchConfig(Record):
    """Settings of the training to try: all combinations, an empty list keeps the preset's value.

    The best is the one with the lowest loss on training rows that are held out; the eval set has
    no say.
    """

    learning_rate: tuple[Annotated[float, Field(gt=0)], ...] = ()
    rank: tuple[int, ...] = ()
    epochs: tuple[Annotated[float, Field(gt=0)], ...] = ()
    seeds: int = Field(default=1, gt=0)
    """Trainings of each setting. Settings are compared by their mean, and the adapter is that of
    the first seed: the luckiest of several seeds would promise too much."""
    validation_share: float = Field(default=0.1, gt=0, le=0.5)
    """Of the training rows; rows with the same question are held out together."""

    @model_validator(mode="after")
    def _vllm_accepts_ranks(self) -> Self:
        if wrong := [rank for rank in self.rank if rank not in VLLM_MAX_RANKS]:
            raise ValueError(f"rank {wrong[0]}: vLLM serves only {VLLM_MAX_RANKS}")
        return self


def _policy(given: object) -> object:
    return {True: "full", False: "none"}[given] if isinstance(given, bool) else given


GradientCheckpointing = Annotated[
    Literal["auto", "none", "selective", "full", "offload"], BeforeValidator(_policy)
]


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
    """Rows per forward pass at most; None = as many as `micro_batch_tokens` holds."""
    packing: bool = True
    """Rows lie behind one another in a forward pass, each seeing itself alone; false = one row per
    forward pass."""
    micro_batch_tokens: int | None = Field(default=None, gt=0)
    """Tokens per forward pass at most, if no row is longer; None = 8,192 on a GPU, 2,048 on a
    CPU. Lower it when memory is short."""
    warmup_share: Share = 0.05
    weight_decay: float = Field(default=0.0, ge=0)
    label_smoothing: Share = 0.0
    max_tokens_per_row: int = Field(default=1024, gt=0)
    """Longer rows are refused, never cut in silence."""
    quantization: Literal["none", "nf4", "int8"] = "none"
    """`nf4`: QLoRA, the frozen base in 4 bits; `int8`: in 8 bits (bitsandbytes)."""
    gradient_checkpointing: GradientCheckpointing = "none"
    """Layers whose activations are computed again in the backward pass, to save memory: all, every
    second one (`selective`), or none, which is fastest; `offload`: all, and their inputs wait in
    the machine's memory. true and false mean full and none; `auto` takes the fastest that is
    estimated to fit the GPU."""
    checkpoints: int = Field(default=4, gt=0)
    """How often the training state is saved, to resume after a kill; with validation rows, their
    loss is measured as often and the adapter with the lowest is kept."""
    patience: int | None = Field(default=None, gt=0)
    """Training ends when the validation loss has not fallen so many times in a row; None = never
    before the last epoch."""
    seed: int = 0
    chat_template_options: dict[str, bool] = {}
    """Passed to the chat template in training and in serving, e.g. `enable_thinking: false`."""
    loss: Literal["last", "all"] = "last"
    """Which answers of a conversation are learned: the last one, or those of all assistant turns.
    The end of a turn is learned with it."""
    chat_template: Name | None = None
    """File in pipelines/training/templates/ that prints what the base's own template prints and
    marks the assistant's turns; None = the base's own is good enough."""
    shape: ModelShape | None = None
    """Sizes of the base, for an estimate before it is on the disk; its config.json goes first."""
    hardware: Name | None = None
    """File in configs/hardware/ that the estimate of time, memory and dollars is for; None = this
    machine, which has no price."""
    instructions: str | None = None
    """System prompt of the training rows and of the tuned model; None = the workload's."""
    launcher: Literal["local", "torchrun", "ray"] = "local"
    """`local`: in this process. `torchrun`: in several of this machine. `ray`: in several of the
    cluster at $RAY_ADDRESS, or of this machine when there is none."""
    n_processes: int = Field(default=1, gt=0)
    """Of `torchrun` or `ray`; they share `batch_size` and, on GPUs, have one each."""
    n_retries: int = Field(default=2, ge=0)
    """How often processes that died are started again; they go on from the last checkpoint."""
    shared_dir: Path | None = None
    """Folder that all machines of the cluster see, for rows, checkpoints and the adapter; None = a
    folder of this machine."""
    sharding: Literal["auto", "none", "fsdp2"] = "auto"
    """`fsdp2`: each process holds a part of every frozen weight and gathers a layer when its turn
    comes; the adapter is whole in all of them. `auto`: where one GPU is estimated not to hold base
    and activations and there are several processes."""
    search: SearchConfig | None = None
    """Settings to try; None = train once with those above."""

    @model_validator(mode="after")
    def _processes_share_the_batch(self) -> Self:
        if self.launcher == "local" and self.n_processes > 1:
            raise ValueError(f"n_processes {self.n_processes} needs launcher: torchrun or ray")
        if self.n_processes > self.batch_size:
            raise ValueError(
                f"n_processes {self.n_processes} share batch_size {self.batch_size}: "
                "some would have no row"
            )
        return self

    @model_validator(mode="after")
    def _base_can_be_sharded(self) -> Self:
        if self.sharding == "fsdp2" and (why := self.why_not_sharded):
            raise ValueError(f"sharding: fsdp2 {why}")
        return self

    @property
    def why_not_sharded(self) -> str | None:
        """Why the processes cannot share the base; None = they can."""
        if self.launcher == "local":
            return "divides the base among processes: it needs launcher: torchrun or ray"
        if self.n_processes == 1:
            return "divides the base among processes: it needs n_processes of 2 or more"
        if self.quantization != "none":
            return (
                f"cannot divide a base in {self.quantization}: take quantization: none, or "
                "sharding: none, where each process holds the whole quantised base"
            )
        if self.lora.dora:
            return "has no whole weights, which lora.dora measures: take lora.dora: false"
        return None


class ParityConfig(Record):
    """When the served model counts as the one that was trained; asked before any score is believed.

    Both defaults are for weights in bf16. Where both sides compute in fp32, a hundredth counts.
    """

    n_prompts: int = Field(default=4, gt=0)
    """Training prompts that are put to both, chosen by their digests."""
    max_new_tokens: int = Field(default=16, gt=0)
    """Tokens of each answer that are compared."""
    tie_nats: float = Field(default=0.25, ge=0)
    """The served model may say another token where the trained one gives the two log-probabilities
    that are no further apart. 0.25 = two steps of bf16 for a logit between 16 and 32."""
    shift_nats: float = Field(default=0.1, gt=0)
    """Most by which the log-probabilities of the answers' tokens may differ, on average."""


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
    parity: ParityConfig = ParityConfig()


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
    hedge_after_s: float | None = Field(default=None, gt=0)
    """Send a call again when it has not answered after so long, and take the first answer; None =
    never. It shortens the slowest answers and is billed twice."""
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
    looks: int = Field(default=1, ge=1, le=5)
    """Times at which a candidate is compared with the incumbent, and may be stopped because it is
    good enough within `max_quality_loss`, or hardly can be shown to be; 5 = after each fifth of the
    items, which are then asked in a random order. 1 = all items are asked and compared once."""
    n_traces: int = Field(default=10, ge=0)
    """Items of each candidate that are written to MLflow as traces, to read and to label."""


class Arrivals(Record):
    """When the requests of a load test leave; none of them waits for an earlier one."""

    process: Literal["poisson", "constant", "gamma", "replay"] = "poisson"
    cv: float | None = Field(default=None, gt=0)
    """`gamma`: standard deviation of the gaps over their mean; 1 = Poisson, more = burstier."""
    path: str | None = None
    """`replay`: CSV with a column `timestamp`; its gaps are kept and scaled to the rate. May begin
    with `$NAME/`, the folder which that environment variable names."""

    @model_validator(mode="after")
    def _own_setting_only(self) -> Self:
        for process, key in (("gamma", "cv"), ("replay", "path")):
            if (self.process == process) != (getattr(self, key) is not None):
                raise ValueError(f"process `{process}` needs `{key}`, and only it takes one")
        return self


class LatencyLimits(Record):
    """What 95 of 100 requests must keep, from the moment they were due; None = no limit."""

    ttft_p95_s: float | None = Field(default=None, gt=0)
    """To the first token."""
    tpot_p95_s: float | None = Field(default=None, gt=0)
    """Per output token after the first."""
    latency_p95_s: float | None = Field(default=None, gt=0)
    """To the end of the answer."""

    @model_validator(mode="after")
    def _at_least_one(self) -> Self:
        if not self.given():
            raise ValueError("give at least one of ttft_p95_s, tpot_p95_s, latency_p95_s")
        return self

    def given(self) -> dict[str, float]:
        """The limits that are set, in seconds."""
        return {name: value for name, value in self.model_dump().items() if value is not None}


class BenchmarkConfig(Record):
    """How the capacity of the candidates is measured.

    The defaults are for trying things out; a figure to buy machines by needs `step_s: 60` or more
    and `repeats: 5`.
    """

    candidates: tuple[Name, ...] | None = None
    """None = all that are not rented."""
    rent: bool = False
    """Send load to rented candidates, too. It costs money and meets their rate limits."""
    budget_usd: Decimal | None = Field(default=None, gt=0)
    """Most that the rented candidates' load may cost, that of the workload's earlier runs included;
    needed for `rent`."""
    arrivals: Arrivals = Arrivals()
    limits: LatencyLimits | None = None
    """None = the workload's `max_latency_p95_s`."""
    step_s: float = Field(default=2.0, gt=0)
    """Seconds of each offered rate, at least; never less than the longest limit, since no queue
    could grow that long."""
    min_requests: int = Field(default=60, ge=59)
    """Requests at each offered rate, at least; fewer than 59 say nothing about a p95."""
    repeats: int = Field(default=2, gt=1)
    """Searches with other arrivals; their spread is the capacity's interval. Over k of them it
    covers the median of all further ones with a probability of 1 - 2^(1-k): 5 for 94 %."""
    max_rate: float = Field(default=200, gt=0)
    """Highest rate that is offered, requests per second."""
    seed: int = 0

    @model_validator(mode="after")
    def _rent_is_capped(self) -> Self:
        if self.rent and self.budget_usd is None:
            raise ValueError("rent: true sends paid requests and needs budget_usd")
        return self


class Study(Record):
    """Everything one workload's verdict is made from."""

    workload: Workload
    prepare: PrepareConfig
    finetune: FinetuneConfig
    serve: ServeConfig = ServeConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()
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

    @model_validator(mode="after")
    def _cheap_tiers_may_wait(self) -> Self:
        wait_h = self.workload.can_wait_h
        models = {f"candidates.{name}": each for name, each in self.candidates.items()}
        models |= {f"judges.{name}": each for name, each in self.judges.items()}
        for name, model in models.items():
            tier = model.terms.service_tier if isinstance(model, Rent) else "standard"
            if tier == "batch" and name.startswith("judges."):
                raise ValueError(f"{name}: judges are asked one by one, never as a batch")
            if tier == "batch" and (wait_h is None or wait_h < BATCH_H):
                raise ValueError(
                    f"{name}: a batch may take {BATCH_H} hours, but workload.can_wait_h is "
                    f"{wait_h}; raise it if answers may take so long, or take another service_tier"
                )
            if tier == "flex" and wait_h is None:
                raise ValueError(
                    f"{name}: flex answers when there is room, but workload.can_wait_h is not "
                    "given; say how many hours an answer may take, or take another service_tier"
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
