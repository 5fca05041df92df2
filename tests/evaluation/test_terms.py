"""Terms in the evaluate command: what is sent, what is spent, what a task costs."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.candidate import Rent
from pipelines.core.command import Options
from pipelines.core.config import load_study
from pipelines.core.errors import BudgetReached, ConfigError
from pipelines.core.results import EvaluateResult, EvaluateResults, Plan, PlannedStage
from pipelines.evaluate import evaluate
from pipelines.evaluation import asked
from tests.conftest import ThreadedServer, threaded_server

N = 60
API = "candidates.frontier"
WAITS = "workload.can_wait_h=24"


class Api:
    """Answers `refund` and keeps what it was asked."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, body: dict[str, Any]) -> str:
        self.bodies.append(body)
        return "refund"

    @property
    def n_input(self) -> int:
        """Tokens that `ThreadedServer` bills: four characters each; one for every answer."""
        return sum(
            sum(len(message["content"]) for message in body["messages"]) // 4
            for body in self.bodies
        )


def overrides(server: ThreadedServer, *more: str) -> list[str]:
    return [
        f"{API}.standin=null",
        f"{API}.title=A",
        f"{API}.base_url={server.url}/v1",
        *more,
    ]


def run(path: Path, uri: str, server: ThreadedServer, *more: str) -> EvaluateResult:
    study = load_study(path, overrides(server, *more))
    evaluated = evaluate(study, Options(path, uri, dry_run=False, json=False))
    assert isinstance(evaluated, EvaluateResults)
    return evaluated.results["frontier"]


def planned(path: Path, uri: str, server: ThreadedServer, *more: str) -> PlannedStage:
    study = load_study(path, overrides(server, *more))
    plan = evaluate(study, Options(path, uri, dry_run=True, json=False))
    assert isinstance(plan, Plan)
    [line] = [line for line in plan.stages if line.stage == "evaluate frontier"]
    return line


def test_a_batch_is_priced_as_one_and_spent_at_the_standard_tier(
    small_study: Path, store_uri: str
) -> None:
    api = Api()
    terms = f"{API}.terms={{service_tier: batch, discount: 0.2}}"
    with threaded_server(api) as server:
        result = run(small_study, store_uri, server, WAITS, terms)
        assert server.n_requests == N
        # The same answers under other terms are not bought again.
        again = run(small_study, store_uri, server)
        assert server.n_requests == N
    # gpt-6.1-sol: $2 in, $10 out; in a batch $1 and $5; a fifth of all is not paid.
    assert result.spent_usd == (api.n_input * 2 + N * 10) * Decimal("0.8") / 1_000_000
    per_task = (api.n_input * 1 + N * 5) * Decimal("0.8") / 1_000_000 / N
    assert result.cost.usd_per_task == per_task
    assert again.cost.usd_per_task == (api.n_input * 2 + N * 10) / Decimal(1_000_000) / N
    assert result.title == "A (batch, 20 % off)"
    assert again.title == "A"
    assert not any("service_tier" in body for body in api.bodies)


def test_the_budget_counts_a_batch_at_the_standard_tier(small_study: Path, store_uri: str) -> None:
    api = Api()
    with threaded_server(api) as server:
        whole = run(small_study, store_uri, server, WAITS, f"{API}.terms.service_tier=batch")
        assert whole.spent_usd is not None
        # Half of that is the price of a batch: it buys about half of the answers.
        budget = f"evaluate.budget_usd={whole.spent_usd / 2}"
        other = "workload.instructions=Name it."
        before, api.bodies = api.bodies, []
        with pytest.raises(BudgetReached):
            run(small_study, store_uri, server, WAITS, f"{API}.terms.service_tier=batch", budget,
                other)  # fmt: skip
    assert len(before) == N
    assert 0 < len(api.bodies) < N
    assert (api.n_input * 2 + len(api.bodies) * 10) / Decimal(1_000_000) <= whole.spent_usd / 2


def test_flex_is_asked_for_and_billed_as_flex(small_study: Path, store_uri: str) -> None:
    api = Api()
    with threaded_server(api) as server:
        flex = f"{API}.terms.service_tier=flex"
        result = run(small_study, store_uri, server, "workload.can_wait_h=1", flex)
    assert {body["service_tier"] for body in api.bodies} == {"flex"}
    # $1 in and $5 out.
    assert result.spent_usd == (api.n_input * 1 + N * 5) / Decimal(1_000_000)
    assert result.cost.usd_per_task == (api.n_input * 1 + N * 5) / Decimal(1_000_000) / N


def test_a_dry_run_says_how_it_estimates_and_what_is_spent_now(
    small_study: Path, store_uri: str
) -> None:
    with threaded_server(Api()) as server:
        standard = planned(small_study, store_uri, server)
        batch = planned(small_study, store_uri, server, WAITS, f"{API}.terms.service_tier=batch")
        flex = planned(small_study, store_uri, server, WAITS, f"{API}.terms.service_tier=flex")
        uplift = planned(small_study, store_uri, server, f"{API}.terms.regional_uplift=1.1")
        assert server.n_requests == 0
    assert "estimate: 4 characters a token (2.5 to 5)" in standard.note
    assert "batch" not in standard.note
    assert "calls go out now and cost the standard tier" in batch.note
    assert standard.usd is not None
    assert batch.usd == standard.usd
    assert flex.usd == standard.usd / 2
    assert uplift.usd == standard.usd * Decimal("1.1")


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        # Claude Haiku has a price for batches, and no flex.
        (
            [f"{API}.price=anthropic/claude-haiku-4-5", f"{API}.terms.service_tier=flex"],
            "A: no pri",
        ),
        (
            [f"{API}.provider=anthropic", f"{API}.terms.service_tier=priority"],
            "A: requests to anthropic name no service tier",
        ),
        ([f"{API}.request={{service_tier: flex}}"], "request.service_tier asks for flex"),
        ([f"{API}.price=openai/gpt-6.1-soll"], "look like it: openai/gpt-6.1-sol"),
    ],
)
def test_terms_that_cannot_be_kept_are_an_error_before_any_call(
    small_study: Path, store_uri: str, more: list[str], wrong: str
) -> None:
    with threaded_server(Api()) as server:
        with pytest.raises(ConfigError, match=wrong):
            run(small_study, store_uri, server, WAITS, *more)
        assert server.n_requests == 0


def test_a_stand_in_is_priced_at_the_terms_and_asked_without_them(small_study: Path) -> None:
    frontier = load_study(small_study, [f"{API}.terms.service_tier=priority"]).candidates[
        "frontier"
    ]
    assert isinstance(frontier, Rent)
    assert asked.fields_of(frontier) == {}
    real = frontier.model_copy(update={"standin": None})
    assert asked.fields_of(real) == {"service_tier": "priority"}
    bedrock = real.model_copy(update={"provider": "bedrock"})
    assert asked.fields_of(bedrock) == {"serviceTier.type": "priority"}
    google = real.model_copy(update={"provider": "google", "request": {"a": 1}})
    assert asked.fields_of(google) == {"a": 1, "serviceTier": "priority"}


def test_an_old_price_is_named(
    small_study: Path,
    store_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from pipelines.economics import own_prices

    (tmp_path / "prices").mkdir()
    (tmp_path / "prices" / "old.yaml").write_text(
        "tokens: {acme/m: {usd_per_million_input_tokens: 1, usd_per_million_output_tokens: 1, "
        "source: a page, checked_on: 2024-01-01}}",
        encoding="utf-8",
    )
    monkeypatch.setattr(own_prices, "FOLDER", tmp_path / "prices")
    with threaded_server(Api()) as server:
        line = planned(small_study, store_uri, server, f"{API}.price=acme/m")
    assert "price checked on 2024-01-01" in line.note
    assert "prices: acme/m: price checked on 2024-01-01" in capsys.readouterr().err
