"""What an evaluation would cost, before anything is sent: calls, tokens, dollars, hours."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import NamedTuple

from pipelines import judging
from pipelines.core.candidate import Own, Rent
from pipelines.core.errors import ProviderError, ScoringError
from pipelines.core.prices import STANDARD, PriceBook, Terms, TokenPrice
from pipelines.core.records import Example, Message, Usage
from pipelines.core.results import (
    EVAL_FILE,
    BenchmarkResult,
    FinetuneResult,
    Plan,
    PlannedStage,
    PrepareResult,
)
from pipelines.core.study import Study
from pipelines.core.workload import MetricSpec
from pipelines.data import passages, sources
from pipelines.data.labels import Label
from pipelines.economics.price_book import stale
from pipelines.economics.token_cost import usd_of_call
from pipelines.evaluation import asked, looks
from pipelines.evaluation.job import rows_of, stage_of
from pipelines.tracking import store

SECONDS_PER_CALL = 2.0
"""Guess for the duration."""
CHARACTERS_PER_TOKEN = (Decimal(5), Decimal(4), Decimal("2.5"))
"""Low, likely, high: English prose, mixed text, code and other languages."""
VERDICT_TOKENS = (60, 120)
"""Low, likely: a judge's reason and verdict; the high figure is the longest answer."""
JUDGE_CALLS = (1, 1, 3)
"""Questions per verdict: one, or more when an answer is suspicious or a reply unreadable."""


class Usd(NamedTuple):
    """Dollars, and the tokens of the likely figure; all are estimates."""

    low: Decimal
    likely: Decimal
    high: Decimal
    tokens: int

    def __add__(self, other: object) -> Usd:
        """Sum of each."""
        assert isinstance(other, Usd)
        return Usd(
            self.low + other.low,
            self.likely + other.likely,
            self.high + other.high,
            self.tokens + other.tokens,
        )

    def times(self, factors: Sequence[int]) -> Usd:
        """Product of each; the tokens go with the likely figure."""
        low, likely, high = factors
        return Usd(self.low * low, self.likely * likely, self.high * high, self.tokens * likely)


NOTHING = Usd(Decimal(0), Decimal(0), Decimal(0), 0)


def usd_of_answers(
    price: TokenPrice,
    conversations: Iterable[tuple[Sequence[Message], str]],
    longest: int,
    terms: Terms = STANDARD,
) -> Usd:
    """Dollars of asking for answers of about the references' length.

    Low and likely output is the reference in tokens (half of it, and all of it), the high one is
    the longest answer: a reasoning model, or one that rambles, gets there.

    Args:
        price: per token.
        conversations: what is sent, with the reference answer.
        longest: output tokens allowed.
        terms: under which the calls go out.
    """
    total = NOTHING
    for messages, reference in conversations:
        about = [len(reference) / float(each) for each in CHARACTERS_PER_TOKEN]
        output = (min(longest, about[0] / 2), min(longest, about[1]), longest)
        total += _usd(price, messages, output, terms)
    return total


def plan(
    study: Study,
    prices: PriceBook,
    upstream: Plan,
    labels: Sequence[Label],
    loads_of: Callable[[PrepareResult, FinetuneResult | None], Mapping[str, BenchmarkResult]],
) -> Plan:
    """The lines of all candidates and their judges; only rented, real models cost dollars.

    Args:
        study: the study.
        prices: of its rented models.
        upstream: lines of the stages before.
        labels: human labels, which an evaluation depends on.
        loads_of: finds the finished load tests, which it depends on, too.
    """
    by_stage = {each.stage: each for each in upstream.stages}
    prepared_id = by_stage["prepare"].run_id
    prepared = store.load_result(prepared_id, PrepareResult) if prepared_id else None
    tuned_line = by_stage.get("finetune")
    tuned_id = tuned_line.run_id if tuned_line else None
    tuned = store.load_result(tuned_id, FinetuneResult) if tuned_id else None
    examples = rows_of(prepared_id, EVAL_FILE, Example) if prepared_id else _unprepared(study)
    loads = loads_of(prepared, tuned) if prepared is not None else {}
    lines: list[PlannedStage] = []
    for name, candidate in study.candidates.items():
        waits = prepared is None or (isinstance(candidate, Own) and candidate.tuned and not tuned)
        done = None
        if prepared is not None and not waits:
            stage = stage_of(study, name, prepared, tuned, prices, labels, loads.get(name))
            done = store.find_finished(stage)
        state = "done" if done else "depends" if waits else "to do"
        n_calls = 0 if done else len(examples) * study.evaluate.n_samples
        usd, note = None, candidate.title
        if isinstance(candidate, Rent) and candidate.recorded:
            note += "; recorded answers, nothing is sent"
            n_calls = 0
        elif candidate.simulated:
            note += "; SIMULATED, costs nothing"
        elif isinstance(candidate, Rent):
            system = asked.instructions(study, candidate, tuned)
            request_of = asked.request_maker(study, name, system, name)
            note += _remarks(candidate, prices)
            usd = usd_of_answers(
                prices.token_price(candidate.price),
                ((request_of(e).messages, e.target) for e in examples) if n_calls else (),
                study.workload.max_output_tokens,
                candidate.terms.as_sent,
            ).times([study.evaluate.n_samples] * 3)
        if n_calls and looks.applies(study, name):
            least = 1 / study.evaluate.looks
            note += (
                f"; all items, of which {study.evaluate.looks} looks may save up to {1 - least:.0%}"
            )
        lines.append(_line(study, f"evaluate {name}", state, done, n_calls, usd, note))
        if not done:
            lines += _judge_lines(study, prices, name, examples)
    return Plan(stages=(*upstream.stages, *lines))


def _judge_lines(
    study: Study, prices: PriceBook, name: str, examples: Sequence[Example]
) -> list[PlannedStage]:
    """One line for each judge of a candidate's answers; the reference stands for the answer."""
    lines: list[PlannedStage] = []
    for judge, model in study.judges.items():
        specs = [spec for spec in study.workload.metrics.values() if judge in spec.judges]
        if not specs:
            continue
        shown = [_first_question(spec, example) for spec in specs for example in examples]
        orders = [2 if judging.needs_rival(s.metric) else 1 for s in specs for _ in examples]
        usd, note = None, "judge"
        if model.simulated:
            note += "; SIMULATED, costs nothing"
        elif isinstance(model, Rent):
            price, longest = prices.token_price(model.price), study.evaluate.judge_max_output_tokens
            note += _remarks(model, prices)
            usd = NOTHING
            for messages, times in zip(shown, orders, strict=True):
                each = _usd(price, messages, (*VERDICT_TOKENS, longest), model.terms.as_sent)
                usd += each.times([times * calls for calls in JUDGE_CALLS])
            usd = usd.times([study.evaluate.n_samples] * 3)
        n_calls = sum(orders) * study.evaluate.n_samples
        lines.append(_line(study, f"judge {name}: {judge}", "depends", None, n_calls, usd, note))
    return lines


def _line(
    study: Study,
    stage: str,
    state: str,
    done: str | None,
    n_calls: int,
    usd: Usd | None,
    note: str,
) -> PlannedStage:
    return PlannedStage.model_validate(
        {
            "stage": stage,
            "state": state,
            "run_id": done,
            "calls": n_calls,
            "tokens": usd.tokens if usd else None,
            "usd_low": usd.low if usd else None,
            "usd": usd.likely if usd else None,
            "usd_high": usd.high if usd else None,
            "hours": n_calls * SECONDS_PER_CALL / study.evaluate.concurrency / 3600,
            "note": note,
        }
    )


def _remarks(model: Rent, prices: PriceBook) -> str:
    """How the tokens were estimated, what the calls are billed as, and whether the price is old."""
    high, likely, low = (f"{each:g}" for each in CHARACTERS_PER_TOKEN)
    said = f"; estimate: {likely} characters a token ({low} to {high})"
    if model.terms.as_sent != model.terms:
        said += "; calls go out now and cost the standard tier, tasks are priced as a batch"
    doubt = stale(prices.token_price(model.price), date.today())
    return f"{said}; {doubt}" if doubt else said


def _usd(
    price: TokenPrice, messages: Sequence[Message], output: Sequence[float], terms: Terms
) -> Usd:
    n_characters = sum(len(message.content) for message in messages)
    marks = asked.TOKENS_PER_MESSAGE * len(messages)
    low, likely, high = (
        Usage(input_tokens=round(n_characters / each) + marks, output_tokens=round(tokens))
        for each, tokens in zip(CHARACTERS_PER_TOKEN, output, strict=True)
    )
    return Usd(
        usd_of_call(price, low, terms),
        usd_of_call(price, likely, terms),
        usd_of_call(price, high, terms),
        likely.input_tokens + likely.output_tokens,
    )


def _first_question(spec: MetricSpec, example: Example) -> tuple[Message, ...]:
    """What a judge would be shown first, if the candidate answered with the reference."""
    seen: list[tuple[Message, ...]] = []

    async def ask(messages: tuple[Message, ...]) -> str:
        seen.append(messages)
        raise ProviderError("a dry run asks nothing")

    item = judging.Item(example=example, answer=example.target, rival=f"{example.target} Indeed.")
    with contextlib.suppress(ProviderError, ScoringError):
        asyncio.run(_judge(judging.load(spec.metric), ask, item, spec))
    return seen[0] if seen else example.messages


async def _judge(
    method: judging.Method, ask: judging.AskJudge, item: judging.Item, spec: MetricSpec
) -> None:
    await method(ask, item, **spec.params)


def _unprepared(study: Study) -> list[Example]:
    """The items before `prepare` ran; the first passages stand for those to be found."""
    examples = sources.load_eval(study.workload.eval_set)
    retrieval = study.workload.retrieval
    if retrieval is None:
        return examples
    some = tuple(passages.load(retrieval))[: retrieval.k]
    return [example.model_copy(update={"context": some}) for example in examples]
