"""Where answers come from. To add a provider, add one file here.

`providers/acme.py` with an async context manager `connect(spec, client) -> Ask` makes
`provider: acme` valid in a candidate. The file name is the registration. The client is the gate's:
it speaks to the endpoint of `address` and to nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol, cast

from pydantic import Field

from pipelines.core.errors import ConfigError
from pipelines.core.plugins import Folder
from pipelines.core.records import Message, Outcome, Record, Usage

if TYPE_CHECKING:
    from pipelines.governance.egress import Client

FOLDER = Folder(__name__, "provider", parts=("hedge", "http", "throttle"))
names = FOLDER.names


class ChatRequest(Record):
    """One question, with everything that can change its answer."""

    model: str
    messages: tuple[Message, ...]
    max_output_tokens: int
    temperature: float | None = 0.0
    """None = not sent: some models accept only their own default."""
    extra: dict[str, str | int | float | bool | None] = {}
    sample: int = 0
    """Which repetition this is; not sent, it only tells equal requests apart."""
    logprobs: bool = Field(default=False, exclude=True)
    """Also ask how likely each token of the answer was. It changes no answer, so that it is no part
    of the digest."""


class Completion(Record):
    """What a provider returns for one call."""

    text: str
    model: str
    usage: Usage | None
    finish_reason: str | None
    ttft_s: float | None
    latency_s: float
    started_at_s: float
    n_attempts: int
    outcome: Outcome = "answered"
    wasted_usage: Usage | None = None
    """Tokens that broken-off attempts reported."""
    n_broken_off: int = 0
    mean_logprob: float | None = None
    """Natural logarithm of the probability of a token, mean over the answer's; None = not said."""


class Endpoint(Record):
    """Where a provider speaks to."""

    base_url: str | None = None
    """None = the provider's public address."""
    api_key_env: str | None = None
    timeout_s: float = 120
    max_attempts: int = 4
    """Tries per request; those that meet a rate limit do not count, they wait."""
    concurrency: int = 16
    """Most requests in flight; fewer while the provider says 429."""


class Ask(Protocol):
    """A connected provider."""

    async def __call__(self, request: ChatRequest) -> Completion:
        """Answer one request; raise ProviderError when the call fails for good."""
        ...


Connect = Callable[[Endpoint, "Client"], AbstractAsyncContextManager[Ask]]


def tier_field(name: str) -> str | None:
    """Field of the request that asks `pipelines.providers.<name>` for a service tier.

    None where the API has none; a dot leads into an object.
    """
    return getattr(FOLDER.load(name), "SERVICE_TIER", None)


def address(name: str, base_url: str | None) -> str:
    """Where `pipelines.providers.<name>` speaks to.

    Args:
        name: of the provider.
        base_url: the candidate's; None = the provider's public address.

    Raises:
        ConfigError: the provider has no public address, and none was given.
    """
    module = FOLDER.load(name)
    if url := base_url or getattr(module, "PUBLIC_URL", None):
        return str(url)
    form = getattr(module, "ADDRESS", "https://HOST/v1")
    raise ConfigError(f"the candidate has no base_url; with {name} it looks like {form}")


def tells_logprobs(name: str) -> bool:
    """True when `pipelines.providers.<name>` can say how likely each token was."""
    return getattr(FOLDER.load(name), "LOGPROBS", False)


def load(name: str) -> Connect:
    """Import `pipelines.providers.<name>`.

    Raises:
        ConfigError: there is no such file.
    """
    return cast(Connect, FOLDER.load(name).connect)
