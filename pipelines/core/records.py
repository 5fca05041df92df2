"""One row of data at each step: Example -> Response -> Score -> Estimate."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, JsonValue, model_validator


class Record(BaseModel):
    """Immutable row; unknown fields are refused, attribute docstrings become the schema."""

    # defer_build: schemas are built at first use, which keeps `--help` under half a second.
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, defer_build=True
    )

    @property
    def sha256(self) -> str:
        """SHA-256 of the canonical JSON; equal records have equal digests."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class Message(Record):
    """One chat turn."""

    role: Literal["system", "user", "assistant"]
    content: str


class Passage(Record):
    """A piece of a knowledge base."""

    id: str
    title: str
    text: str


class Example(Record):
    """One item of an eval set: what is sent and what a right answer is."""

    id: str
    """Stable across versions of the eval set, so that runs can be compared pairwise."""
    messages: tuple[Message, ...]
    target: str
    """Reference answer."""
    group: str | None = None
    """Items that are not independent share it (turns of one conversation); None = independent."""
    context: tuple[Passage, ...] = ()
    """Passages that were retrieved for it, best first."""
    metadata: Mapping[str, JsonValue] = {}


class TrainingRow(Record):
    """One conversation to learn from; the last turn is the assistant's."""

    messages: tuple[Message, ...]
    id: str | None = None
    metadata: Mapping[str, JsonValue] = {}
    group: str | None = None
    """Rows that belong together share it; they never stand in two splits."""
    licence: str | None = None
    """SPDX id, or a provider's terms: a file in configs/licences/. None = not stated."""
    answered_by: str | None = None
    """The model that wrote the answer; None = not stated."""
    answered_at: AwareDatetime | None = None
    source: str | None = None
    """The log that the row was taken from; None = a file of rows."""
    request_id: str | None = None
    """Of the logged call."""

    @model_validator(mode="after")
    def _ends_with_answer(self) -> Self:
        if not self.messages or self.messages[-1].role != "assistant":
            raise ValueError("the last message must be the assistant's: that is what is learned")
        if not self.messages[-1].content.strip():
            raise ValueError("the assistant's turn is empty")
        return self


class Usage(Record):
    """Tokens billed for one call, as the provider reported them."""

    input_tokens: int
    """All prompt tokens, cached ones included."""
    cached_input_tokens: int = 0
    """The part of `input_tokens` that was read from a prompt cache."""
    cache_write_5m_tokens: int = 0
    """The part of `input_tokens` that was written to a cache of the usual, short life."""
    cache_write_1h_tokens: int = 0
    """The part of `input_tokens` that was written to a cache that lives for an hour."""
    output_tokens: int
    """All generated tokens, reasoning included."""
    reasoning_tokens: int = 0
    """The part of `output_tokens` that was thought and not shown."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        written = self.cache_write_5m_tokens + self.cache_write_1h_tokens
        counts = (
            self.cached_input_tokens,
            self.cache_write_5m_tokens,
            self.cache_write_1h_tokens,
            self.reasoning_tokens,
        )
        if min(counts) < 0:
            raise ValueError("a number of tokens is negative")
        if self.cached_input_tokens + written > self.input_tokens:
            raise ValueError(
                f"{self.cached_input_tokens} cached and {written} written tokens are more than the "
                f"{self.input_tokens} input tokens, which include them"
            )
        if self.reasoning_tokens > self.output_tokens:
            raise ValueError(
                f"{self.reasoning_tokens} reasoning tokens are more than the "
                f"{self.output_tokens} output tokens, which include them"
            )
        return self

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            cached_input_tokens=self.cached_input_tokens + other.cached_input_tokens,
            cache_write_5m_tokens=self.cache_write_5m_tokens + other.cache_write_5m_tokens,
            cache_write_1h_tokens=self.cache_write_1h_tokens + other.cache_write_1h_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
        )


Outcome = Literal[
    "answered", "truncated", "refused", "filtered", "context_length", "failed", "not_asked"
]
"""How one call ended.

answered: the model stopped by itself · truncated: it ran into the token limit · refused: the model
said no · filtered: a content filter of the provider did · context_length: the prompt is too long
for the model · failed: transport, rate limit or server error · not_asked: the budget was reached.
The first five are the candidate's doing; the last two are nobody's and lower the coverage.
"""
NOBODYS: frozenset[Outcome] = frozenset({"failed", "not_asked"})


class Response(Record):
    """What one candidate answered to one example: a text or an error, never both."""

    example_id: str
    request_sha256: str
    """Content address of what was asked: model, messages, parameters."""
    text: str | None = None
    error: str | None = None
    """Why there is no text. A failed call is a row, not a crash and not a wrong answer."""
    outcome: Outcome = "answered"
    usage: Usage | None = None
    """None when the provider reported none."""
    model: str
    """The name the server says it served, which may be newer than the one asked for."""
    finish_reason: str | None = None
    n_attempts: int = 1
    wasted_usage: Usage | None = None
    """Tokens that the provider reported for attempts which broke off; they are billed, too."""
    n_broken_off: int = 0
    """Attempts that broke off after the answer began: billed perhaps, tokens perhaps unknown."""
    recorded_scores: Mapping[str, float] = {}
    """In [0, 1]: what another harness scored, by its own name for the metric."""
    started_at_s: float
    """Unix time at which the request was sent."""
    ttft_s: float | None = None
    """Seconds from sending to the first non-empty token; None when the answer had none."""
    latency_s: float | None
    """Seconds from sending to the last token; None when it was not recorded."""
    mean_logprob: float | None = None
    """Natural logarithm of the probability of a token, mean over the answer's tokens as the server
    lists them, thoughts left out; None when it was not asked for, or not said."""
    simulated: bool = False
    """True when no model produced the answer."""

    @model_validator(mode="after")
    def _text_or_error(self) -> Self:
        if (self.text is None) == (self.error is None):
            raise ValueError(f"{self.example_id}: a response has either a text or an error")
        return self

    @property
    def is_final(self) -> bool:
        """False when asking again may end differently."""
        return self.outcome not in NOBODYS


class Score(Record):
    """One metric's value on one response."""

    example_id: str
    metric: str
    value: float | None
    """In [0, 1], higher is better. None = not scored: it lowers coverage, it is never a 0."""
    human: float | None = None
    """Of a judged metric: the human label of this very answer."""
    weight: float = 1.0
    """What the value counts for in the mean: the number of fields, the 0 or 1 of "applies here"."""
    labels: tuple[str, str] | None = None
    """The target's label and the answer's, for metrics over the whole set."""
    reason: str = ""
    """Why `value` is None, or 0 without a look at the answer."""


class Estimate(Record):
    """A mean over an eval set with its 95 % interval and how much of the set it covers."""

    mean: float
    low: float
    high: float
    n_scored: int
    n_total: int

    @property
    def coverage(self) -> float:
        """Share of the eval set behind `mean`, in [0, 1]."""
        return self.n_scored / self.n_total


class Difference(Record):
    """Mean paired difference candidate - incumbent with its 95 % interval, in [-1, 1]."""

    mean: float
    low: float
    high: float
    n: int
    """Number of pairs in which both sides were scored."""
