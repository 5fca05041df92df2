"""Compare a served model, token by token, with what it says in-process."""

from __future__ import annotations

import http.client
import json
import urllib.error
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pipelines.core.errors import ServerError
from pipelines.core.results import ReferenceAnswer
from pipelines.core.study import ParityConfig
from pipelines.serving import own_server

N_LIKELIEST = 20
"""Log-probabilities asked for at each place; the most that vLLM gives."""
FP32_SHARE = 0.01
"""Of both tolerances, where both sides compute in fp32: its steps are 65,536 times finer."""
CLEARLY = 4.0
"""Effect of the adapter over the shift, from which on it is told whether the adapter is there."""
SHOWN = 160
"""Characters of a prompt or an answer in a message."""
TIMEOUT_S = 300.0
WEIGHTS_TO_CHECK = (
    "  Check that the adapter was merged into the base it was trained on, in bf16 or fp32 and not "
    "in 4 bits, and the type that the server computes in"
)


@dataclass(frozen=True)
class Comparison:
    """What came out; the fields are those of `ParityResult`."""

    n_prompts: int
    n_tokens: int
    agreement: float | None = None
    n_ties: int = 0
    shift_nats: float | None = None
    effect_nats: float | None = None
    adapter_seen: bool | None = None
    failure: str | None = None


def compare(
    base_url: str,
    model: str,
    reference: Sequence[ReferenceAnswer],
    config: ParityConfig,
    *,
    fp32: bool,
    strict: bool,
) -> Comparison:
    """Put the prompts to the server and hold its tokens against those of the reference.

    In this order: the prompts must be rendered alike; the served model must be nearer to the one
    with the adapter than to the one without, as far as the adapter has an effect that can be told;
    all tokens must be the same, but for ties; the log-probabilities must be alike. `strict: false`
    leaves the last two out.

    An adapter that changes no token is told from a missing one by the log-probabilities. It must
    change them by more than `CLEARLY` times what lies between the served model and the nearer of
    the two; else the answer is "cannot tell", which does not stop a study: such an adapter does
    next to nothing, or quantisation does as much as it.

    Args:
        base_url: of vLLM's OpenAI protocol.
        model: name that is asked.
        reference: what is expected; without tokens, only the prompts are compared.
        config: the tolerances.
        fp32: both sides compute in fp32, with the same weights.
        strict: False where the server quantises the weights.

    Raises:
        ServerError: the server fails, or does not tell its token ids.
    """
    share = FP32_SHARE if fp32 else 1.0
    tie_nats, shift_nats = config.tie_nats * share, config.shift_nats * share
    n_tokens = sum(len(answer.token_ids) for answer in reference)
    pairs = [(answer, _ask(base_url, model, answer)) for answer in reference]
    for ours, served in pairs:
        if served.prompt_ids != ours.prompt_ids:
            return Comparison(len(reference), n_tokens, failure=_other_prompt(ours, served))
    if not n_tokens:
        return Comparison(len(reference), 0)
    places = [place for ours, served in pairs for place in _places(ours, served)]
    parted = [(ours, served, at) for ours, served in pairs if (at := _parts(ours, served)) >= 0]
    ties = [each for each in parted if _gap(*each) <= tie_nats]
    shift = fmean(abs(place.served - place.ours) for place in places)
    effect = fmean(abs(place.ours - place.base) for place in places)
    from_base = fmean(abs(place.served - place.base) for place in places)
    can_tell = effect > CLEARLY * min(shift, from_base)
    seen = shift < from_base if can_tell else None
    failure = None
    if seen is False:
        failure = _no_adapter(shift, from_base, pairs)
    elif strict and len(parted) > len(ties):
        worst = next(each for each in parted if each not in ties)
        failure = _other_token(*worst, tie_nats)
    elif strict and shift > shift_nats:
        failure = _shifted(shift, shift_nats)
    n_same = sum(
        len(ours.token_ids) if (at := _parts(ours, served)) < 0 else at for ours, served in pairs
    )
    return Comparison(
        len(reference), n_tokens, n_same / n_tokens, len(ties), shift, effect, seen, failure
    )


@dataclass(frozen=True)
class _Served:
    """An answer of the server."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    likeliest: tuple[dict[int, float], ...]
    text: str


@dataclass(frozen=True)
class _Place:
    """Log-probabilities of the expected token where all have said the same before."""

    served: float
    ours: float
    base: float


def _ask(base_url: str, model: str, ours: ReferenceAnswer) -> _Served:
    body = {
        "model": model,
        "messages": [message.model_dump() for message in ours.messages],
        "max_tokens": max(1, len(ours.token_ids)),
        "temperature": 0,
        "repetition_penalty": 1.0,  # some bases come with another default
        "ignore_eos": True,  # the end of the turn is compared as a token
        "logprobs": True,
        "top_logprobs": N_LIKELIEST,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }
    try:
        with own_server.post(f"{base_url}/chat/completions", body, TIMEOUT_S) as answer:
            return _read(json.loads(answer.read()))
    except (OSError, http.client.HTTPException) as error:
        detail = error.read(300) if isinstance(error, urllib.error.HTTPError) else b""
        raise ServerError(f"parity: {model!r} does not answer: {error} {_shown(detail)}") from None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ServerError(
            f"parity: the server's answer as {model!r} has no token ids and log-probabilities as "
            f"vLLM 0.32 gives them ({error!r})"
        ) from None


def _read(answer: Any) -> _Served:
    choice = answer["choices"][0]
    if not choice["logprobs"]["content"]:
        raise ValueError("no log-probabilities")
    return _Served(
        prompt_ids=tuple(answer["prompt_token_ids"]),
        token_ids=tuple(choice["token_ids"]),
        likeliest=tuple(
            {int(top["token"].removeprefix("token_id:")): top["logprob"] for top in each}
            for each in (token["top_logprobs"] for token in choice["logprobs"]["content"])
        ),
        text=choice["message"]["content"] or "",
    )


def _parts(ours: ReferenceAnswer, served: _Served) -> int:
    """Place of the first token that is another one; -1 = there is none."""
    for at, token in enumerate(ours.token_ids):
        if at >= len(served.token_ids) or served.token_ids[at] != token:
            return at
    return -1


def _gap(ours: ReferenceAnswer, served: _Served, at: int) -> float:
    """How much likelier the expected token is in-process than the one that was served, in nats."""
    if at >= len(served.token_ids):
        return float("inf")
    known = ours.likeliest[at]
    other = known.get(served.token_ids[at], float("-inf"))
    return known[ours.token_ids[at]] - other


def _places(ours: ReferenceAnswer, served: _Served) -> list[_Place]:
    """Up to the first other token. What the server does not list is at most its least likely."""
    end = _parts(ours, served)
    n = len(ours.token_ids) if end < 0 else min(end + 1, len(served.likeliest))
    found: list[_Place] = []
    for at in range(n):
        token, listed = ours.token_ids[at], served.likeliest[at]
        three = listed.get(token), ours.likeliest[at][token], ours.base_logprobs[at]
        floor = min(listed.values()) if three[0] is None else float("-inf")
        found.append(_Place(*(floor if each is None else max(each, floor) for each in three)))
    return found


def _other_prompt(ours: ReferenceAnswer, served: _Served) -> str:
    pair = zip(ours.prompt_ids, served.prompt_ids, strict=False)
    at = next((k for k, (a, b) in enumerate(pair) if a != b), None)
    if at is None:
        at = min(len(ours.prompt_ids), len(served.prompt_ids))
    return (
        f"the server renders a prompt as {len(served.prompt_ids)} tokens, training as "
        f"{len(ours.prompt_ids)}; they part at token {at}.\n"
        f"  prompt:   {_shown(ours.messages[-1].content)}\n"
        f"  training: ... {list(ours.prompt_ids[at : at + 8])}\n"
        f"  served:   ... {list(served.prompt_ids[at : at + 8])}\n"
        "  Check the chat template of the base's folder (chat_template.jinja, "
        "tokenizer_config.json) and finetune.chat_template_options"
    )


def _no_adapter(
    shift: float, from_base: float, pairs: Sequence[tuple[ReferenceAnswer, _Served]]
) -> str:
    ours, served = next((each for each in pairs if _parts(*each) >= 0), pairs[0])
    return (
        "the served model answers as the base does, the adapter is not in it: log-probabilities "
        f"differ by {shift:.3g} nats from base + adapter, by {from_base:.3g} from the base.\n"
        f"{_both(ours, served)}"
        "  Check that the server's log names the adapter, and that its modules are those of the "
        "base"
    )


def _other_token(ours: ReferenceAnswer, served: _Served, at: int, tie_nats: float) -> str:
    gap = _gap(ours, served, at)
    apart = (
        f"{gap:.3g} nats apart, more than a tie ({tie_nats:.3g}, serve.parity.tie_nats)"
        if gap < float("inf")
        else f"far apart: the served one is not among the {N_LIKELIEST} likeliest"
    )
    return (
        f"the served model says another token at place {at + 1} of an answer. In-process, base + "
        f"adapter have the two {apart}.\n{_both(ours, served)}{WEIGHTS_TO_CHECK}"
    )


def _shifted(shift: float, shift_nats: float) -> str:
    return (
        f"the served model says the same tokens, but their log-probabilities differ by {shift:.3g} "
        f"nats on average; rounding explains {shift_nats:.3g} (serve.parity.shift_nats).\n"
        f"{WEIGHTS_TO_CHECK}"
    )


def _both(ours: ReferenceAnswer, served: _Served) -> str:
    return (
        f"  prompt:     {_shown(ours.messages[-1].content)}\n"
        f"  in-process: {_shown(ours.text)}\n"
        f"  served:     {_shown(served.text)}\n"
    )


def _shown(text: str | bytes) -> str:
    """A hostile text in one line: control characters and what turns the writing are escaped."""
    plain = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return repr(plain if len(plain) <= SHOWN else plain[:SHOWN] + " ...")
