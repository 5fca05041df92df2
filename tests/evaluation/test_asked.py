"""What is asked of a candidate about its tokens, and what that changes of its identity."""

from __future__ import annotations

import pytest

from pipelines.core.candidate import Rent
from pipelines.core.config import load_study
from pipelines.core.errors import ConfigError
from pipelines.core.paths import ROOT
from pipelines.core.records import Example, Message
from pipelines.core.results import PrepareResult
from pipelines.core.study import Study
from pipelines.evaluation import asked, load_test
from pipelines.providers import ChatRequest

EXAMPLE = Example(id="e", messages=(Message(role="user", content="q"),), target="a")
PREPARED = PrepareResult.model_construct(eval_sha256="e", train_sha256="t")
STUDY = ROOT / "configs" / "quickstart.yaml"
STANDIN, OWN = "frontier-standin", "tiny-base"
RENTED = ("standin=null", "provider=openai_compatible", "base_url=http://127.0.0.1:9/v1")


def study(*overrides: str) -> Study:
    """The quickstart with its stand-in turned into an API."""
    own = [f"candidates.{STANDIN}.{each}" for each in (*RENTED, *overrides)]
    return load_study(STUDY, own)


def request(study: Study, name: str) -> ChatRequest:
    return asked.request_maker(study, name, "", "base")(EXAMPLE)


def identity(study: Study, name: str) -> dict[str, object]:
    return asked.what_is_asked(study, name, PREPARED, None, "toy")


def test_an_own_model_is_always_asked_and_what_it_answered_before_still_counts() -> None:
    plain = study()
    sent = request(plain, OWN)
    assert sent.logprobs
    assert sent.sha256 == sent.model_copy(update={"logprobs": False}).sha256
    assert sent.extra == {}
    assert set(identity(plain, OWN)) == {
        "kind", "instructions", "max_output_tokens", "concurrency",
        "base", "chat_template_options", "adapter_sha256",
    }  # fmt: skip


def test_an_own_model_that_was_not_asked_is_asked_anew_once_it_shall_be() -> None:
    silent = load_study(STUDY, [f"candidates.{OWN}.logprobs=false"])
    assert not request(silent, OWN).logprobs
    assert identity(silent, OWN) == identity(study(), OWN) | {"logprobs": False}


def test_a_rented_model_is_asked_when_the_study_says_so_and_then_anew() -> None:
    plain, asking = study(), study("request.logprobs=true", "request.top_k=1")
    assert not request(plain, STANDIN).logprobs
    sent = request(asking, STANDIN)
    assert sent.logprobs
    assert sent.extra == {"top_k": 1}
    assert "logprobs" not in identity(plain, STANDIN)
    assert identity(asking, STANDIN)["logprobs"] is True


@pytest.mark.parametrize("value", ["1", "false", "null"])
def test_any_other_value_is_a_field_of_the_server_like_all_others(value: str) -> None:
    sent = request(study(f"request.logprobs={value}"), STANDIN)
    assert not sent.logprobs
    assert sent.extra == {"logprobs": {"1": 1, "false": False, "null": None}[value]}


@pytest.mark.parametrize("provider", ["anthropic", "bedrock"])
def test_a_provider_that_cannot_say_it_is_an_error_before_any_call(provider: str) -> None:
    asking = study("request.logprobs=true", f"provider={provider}")
    with pytest.raises(
        ConfigError, match=rf"{provider} does not say .*leave request\.logprobs out"
    ):
        identity(asking, STANDIN)


def test_the_same_file_as_a_judge_is_not_asked_and_keeps_its_verdicts() -> None:
    model = study("request.logprobs=true").candidates[STANDIN]
    assert isinstance(model, Rent)
    assert asked.fields_of(model) == {}


def test_repeated_examples_lead_back_to_their_item() -> None:
    twins = asked.repeated([EXAMPLE.model_copy(update={"id": "doc#3"})], 2)
    assert [asked.item_of(each.id, 2) for each in twins] == ["doc#3", "doc#3"]
    assert asked.item_of("doc#3", 1) == "doc#3"


def test_a_load_test_asks_no_own_model_and_is_not_redone_for_it() -> None:
    silent = load_study(STUDY, [f"candidates.{OWN}.logprobs=false"])
    before, after = (load_test.stage_of(each, OWN, PREPARED, None) for each in (silent, study()))
    assert before.inputs == after.inputs
    assert "logprobs" not in after.inputs["asked"]
