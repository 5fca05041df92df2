"""The candidates: a model and how it is reached, rented, owned or classical."""

from __future__ import annotations

import os
import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipelines.core.hardware import Hardware, use_contract
from pipelines.core.prices import Terms
from pipelines.core.records import Record
from pipelines.core.workload import EnvName, Name, Share


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
    terms: Terms = Terms()
    """What of the list price is paid, and for which service: tier, discount, regional uplift. The
    tiers flex and priority are asked for; batch is priced, while the calls of an evaluation go out
    at the standard tier and are budgeted so."""
    base_url: str | None = None
    """None = the provider's public address."""
    api_key_env: EnvName | None = None
    """Name of the environment variable that holds the key; the key itself is never in a file."""
    standin: StandIn | None = None
    """Used where the key is absent; everything it touches is marked simulated."""
    request: dict[str, str | int | float | bool | None] = {}
    """More fields of the request body, such as `reasoning_effort: low`; `temperature: null`
    leaves the temperature out, for models that accept only their own. `logprobs: true` asks how
    likely each token was, in the provider's own words: what a cascade escalates by."""
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


class Serving(Record):
    """How vLLM holds an own model; each setting is another server and gives other answers."""

    weights: Literal["adapter", "merged"] = "adapter"
    """`merged`: the adapter is added into the weights, which are then served alone."""
    quantization: Literal["none", "fp8", "int8", "awq"] = "none"
    """`fp8`, `int8`: the weights are rounded when the server loads them; on a GPU only. `awq`: the
    study's base was published that way."""

    @model_validator(mode="after")
    def _awq_cannot_be_merged(self) -> Self:
        if self.weights == "merged" and self.quantization == "awq":
            raise ValueError("an adapter cannot be merged into awq weights; serve the adapter")
        return self


class Own(Record):
    """The study's open model on our own machines, as published or tuned."""

    kind: Literal["own"]
    title: str
    tuned: bool
    """True = with the adapter of the finetune stage."""
    serving: Serving = Serving()
    logprobs: bool = True
    """In an evaluation, also ask how likely each token was: what a cascade escalates by. A load
    test never does: it costs a server that lacks CPU a part of its speed."""
    closed_book: bool = False
    """Ask without the retrieved passages."""
    instructions: str | None = None
    """System prompt of this candidate alone; None = the one it was tuned with, else the
    workload's."""
    control_of: Name | None = None
    """Asked for comparison with that candidate, and never chosen."""
    hardware: Hardware
    """With `contract` beside it: `on_demand`, `spot`, `reserved_1y`, `reserved_3y`, `own`."""
    simulated: ClassVar[bool] = False

    _contract = model_validator(mode="before")(use_contract)

    @model_validator(mode="after")
    def _only_an_adapter_is_merged(self) -> Self:
        if self.serving.weights == "merged" and not self.tuned:
            raise ValueError("serving.weights: merged needs tuned: true")
        return self


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
    """With `contract` beside it: `on_demand`, `spot`, `reserved_1y`, `reserved_3y`, `own`."""

    _contract = model_validator(mode="before")(use_contract)

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
