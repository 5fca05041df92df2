"""What each candidate is asked with: its prompt, model and parameters, and how MLflow shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from pipelines import providers
from pipelines.core.candidate import Baseline, Candidate, Own, Rent, Serving
from pipelines.core.errors import ConfigError
from pipelines.core.prices import STANDARD, Terms, TokenPrice
from pipelines.core.prompt import with_passages
from pipelines.core.records import Example, Message, Usage
from pipelines.core.results import FinetuneResult, PrepareResult
from pipelines.core.study import Study
from pipelines.economics.token_cost import usd_of_call
from pipelines.evaluation.recorded import file_sha256
from pipelines.metrics import SAMPLE
from pipelines.providers import ChatRequest

CHARACTERS_PER_TOKEN = 4
"""For estimates before a call only; afterwards the provider's own count holds."""
TOKENS_PER_MESSAGE = 8
"""Role marks and separators of a chat template."""


def what_is_asked(
    study: Study,
    name: str,
    prepared: PrepareResult,
    tuned: FinetuneResult | None,
    base: str,
) -> dict[str, Any]:
    """All that the answers of a candidate depend on; `base` names the open weights."""
    workload, candidate = study.workload, study.candidates[name]
    asked: dict[str, Any] = {
        "kind": candidate.kind,
        "instructions": instructions(study, candidate, tuned),
        "max_output_tokens": workload.max_output_tokens,
        "concurrency": study.evaluate.concurrency,
    }
    if study.evaluate.hedge_after_s and candidate.kind == "rent":
        asked["hedge_after_s"] = study.evaluate.hedge_after_s
    match candidate:
        case Rent(standin=behaviour) if candidate.simulated and behaviour is not None:
            asked["standin"] = behaviour.model_dump(mode="json")
            asked["eval_sha256"] = prepared.eval_sha256  # it answers from the targets
        case Rent(recorded=str(path)):
            asked["recorded_sha256"] = file_sha256(path)
            asked["eval_sha256"] = prepared.eval_sha256
        case Rent() | Own():
            asked |= _model(study, candidate, tuned, base)
            # Only what differs from the default: what was answered before there was such a
            # question is not asked again for it, and has no such confidence.
            if isinstance(candidate, Rent) == _asks_logprobs(candidate):
                asked["logprobs"] = _asks_logprobs(candidate)
        case Baseline():
            asked["method"] = candidate.method
            if candidate.method == "patterns":
                asked["patterns"] = candidate.patterns
            elif candidate.method == "tfidf_logreg":
                asked["train_sha256"] = prepared.train_sha256
    return asked


def what_a_judge_is(
    study: Study, name: str, tuned: FinetuneResult | None, base: str
) -> dict[str, Any]:
    """All that a judge's verdicts depend on, beside what it is shown."""
    judge = study.judges[name]
    identity: dict[str, Any] = {"max_output_tokens": study.evaluate.judge_max_output_tokens}
    if isinstance(judge, Rent) and judge.simulated and judge.standin is not None:
        return identity | {"standin": judge.standin.model_dump(mode="json")}
    return identity | _model(study, judge, tuned, base)


def _model(
    study: Study, model: Rent | Own, tuned: FinetuneResult | None, base: str
) -> dict[str, Any]:
    if isinstance(model, Rent):
        identity = model.model_dump(mode="json", include={"provider", "model", "base_url"})
        return identity | {"request": fields_of(model)}
    weights = {
        "base": base,
        "chat_template_options": study.finetune.chat_template_options,
        "adapter_sha256": tuned.adapter_sha256 if model.tuned and tuned else None,
    }
    if model.serving == Serving():
        return weights
    return weights | {"serving": model.serving.model_dump(mode="json")}


def instructions(study: Study, candidate: Candidate, tuned: FinetuneResult | None) -> str:
    """System prompt: the tuned model gets the one it was trained with, a classifier none."""
    if isinstance(candidate, Baseline):
        return ""
    if candidate.instructions is not None:
        return candidate.instructions
    if isinstance(candidate, Own) and candidate.tuned and tuned is not None:
        return tuned.instructions
    return study.workload.instructions


def request_maker(
    study: Study, name: str, instructions: str, own_model: str
) -> Callable[[Example], ChatRequest]:
    """What is sent for an example: the instructions as system prompt, then its own turns.

    `own_model` is the name under which vLLM serves an own candidate.
    """
    candidate = study.candidates[name]
    model, extra = name, {}
    if isinstance(candidate, Own):
        model = own_model
    elif isinstance(candidate, Rent):
        model, extra = candidate.model, fields_of(candidate)
    logprobs = _asks_logprobs(candidate)
    temperature = extra.pop("temperature", 0.0)
    system = (Message(role="system", content=instructions),) if instructions else ()

    def request_of(example: Example) -> ChatRequest:
        sample = example.metadata.get(SAMPLE, 0)
        return ChatRequest(
            model=model,
            messages=system
            + (example.messages if candidate.closed_book else with_passages(example)),
            max_output_tokens=study.workload.max_output_tokens,
            temperature=None if temperature is None else float(temperature),
            extra=extra,
            sample=sample if isinstance(sample, int) else 0,
            logprobs=logprobs,
        )

    return request_of


def fields_of(model: Rent) -> dict[str, str | int | float | bool | None]:
    """More fields of the request body: those of the study, and the service tier where one is due.

    `logprobs: true` is not among them: each protocol has another field for it.

    Raises:
        ConfigError: the provider's requests name no tier, or they name another than the terms; or
            it never says how likely tokens were, and is asked for it.
    """
    request = dict(model.request)
    if _asks_logprobs(model):
        del request["logprobs"]
    if model.recorded or model.simulated:  # nothing is sent to the provider
        return request
    if _asks_logprobs(model) and not providers.tells_logprobs(model.provider):
        raise ConfigError(
            f"{model.title}: {model.provider} does not say how likely its tokens were; leave "
            "request.logprobs out"
        )
    tier = model.terms.as_sent.service_tier
    name = providers.tier_field(model.provider)
    if name is None and tier != "standard":
        raise ConfigError(
            f"{model.title}: requests to {model.provider} name no service tier; leave "
            f"terms.service_tier: {tier} out"
        )
    asked = request.get(name) if name else None
    if asked in ("flex", "priority") and asked != tier:
        raise ConfigError(
            f"{model.title}: request.{name} asks for {asked}, which terms.service_tier: "
            f"{model.terms.service_tier} does not pay; say it in the terms alone"
        )
    return request if tier == "standard" or not name else {**request, name: tier}


def _asks_logprobs(model: Candidate) -> bool:
    """Whether the study says `logprobs: true`; a number is some server's own and sent as it is."""
    match model:
        case Rent():
            return model.request.get("logprobs") is True
        case Own():
            return model.logprobs
        case Baseline():
            return False


def terms_of(model: Candidate) -> Terms:
    """Terms of what is paid per token; the standard ones for what is not."""
    return model.terms if isinstance(model, Rent) else STANDARD


def repeated(examples: Sequence[Example], n_samples: int) -> list[Example]:
    """Each item `n_samples` times, all of them in one group: they are not independent."""
    if n_samples == 1:
        return list(examples)
    return [
        example.model_copy(
            update={
                "id": f"{example.id}#{sample}",
                "group": example.group or example.id,
                "metadata": {**example.metadata, SAMPLE: sample},
            }
        )
        for example in examples
        for sample in range(n_samples)
    ]


def item_of(example_id: str, n_samples: int) -> str:
    """The item that an example of `repeated` is of."""
    return example_id if n_samples == 1 else example_id.rpartition("#")[0]


def params(study: Study, candidate: Candidate) -> dict[str, str]:
    """The candidate as MLflow shows it."""
    match candidate:
        case Rent():
            return {
                "kind": candidate.kind,
                "model": candidate.model,
                "provider": "recorded elsewhere"
                if candidate.recorded
                else "standin (simulated)"
                if candidate.simulated
                else candidate.provider,
                "price": candidate.price,
                **{
                    name: str(value)
                    for name, value in candidate.terms.model_dump(exclude_defaults=True).items()
                },
            }
        case Own():
            return {
                "kind": candidate.kind,
                "model": study.finetune.preset,
                "provider": "vllm",
                "adapter": "lora" if candidate.tuned else "none",
                "hardware": candidate.hardware.name,
            }
        case Baseline():
            return {
                "kind": candidate.kind,
                "model": candidate.method,
                "provider": "re" if candidate.method == "patterns" else "scikit-learn",
                "hardware": candidate.hardware.name,
            }


def estimated_usd(price: TokenPrice, request: ChatRequest, terms: Terms = STANDARD) -> Decimal:
    """Dollars of one call before it is made: four characters a token, and the longest answer."""
    n_characters = sum(len(m.content) for m in request.messages)
    usage = Usage(
        input_tokens=n_characters // CHARACTERS_PER_TOKEN
        + TOKENS_PER_MESSAGE * len(request.messages),
        output_tokens=request.max_output_tokens,
    )
    return usd_of_call(price, usage, terms)
