"""Judges at work: every answer is shown to every judge, each conversation is paid once."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal

from pipelines import judging
from pipelines.core.candidate import Own, Rent
from pipelines.core.errors import ProviderError, ScoringError
from pipelines.core.prices import TokenPrice
from pipelines.core.progress import Advance, progress
from pipelines.core.records import Example, Message, Record, Response, Score
from pipelines.core.study import EvaluateConfig, Grading
from pipelines.core.workload import MetricSpec
from pipelines.data import labels
from pipelines.economics.token_cost import usd_of_response
from pipelines.evaluation.asked import estimated_usd, fields_of, terms_of
from pipelines.evaluation.budget import Budget
from pipelines.evaluation.connect import connected
from pipelines.evaluation.job import Job, Work, judge_journal_path, used
from pipelines.evaluation.journal import Journal
from pipelines.evaluation.runner import Answers, ask_once
from pipelines.governance.egress import gate_of
from pipelines.judging import AskJudge, Item, Judgement, Method, needs_rival
from pipelines.providers import Ask, ChatRequest
from pipelines.serving import candidate_server
from pipelines.serving.vllm_server import BASE, TUNED
from pipelines.tracking.store import Stage


class Verdict(Record):
    """What one judge said of one answer."""

    example_id: str
    metric: str
    judge: str
    value: float | None
    reason: str
    flipped: bool | None
    attacked: bool
    failed: bool = False
    """The call failed: asking again may give a verdict."""


class Judge:
    """A connected judge with its journal."""

    def __init__(
        self,
        name: str,
        spec: Rent | Own,
        model: str,
        ask: Ask,
        journal: Journal,
        budget: Budget,
        price: TokenPrice | None,
        config: EvaluateConfig,
    ) -> None:
        """Take its seat.

        Args:
            name: in the study's `judges`.
            spec: what stands there.
            model: the name under which its server knows it.
            ask: connected to it.
            journal: of this judge alone.
            budget: of the study.
            price: per token; None when it is own or simulated.
            config: concurrency and the longest answer.
        """
        self.name, self.simulated = name, spec.simulated
        self._model, self._ask, self._journal = model, ask, journal
        self._budget, self._price = budget if price else Budget(None), price
        self._max_output_tokens = config.judge_max_output_tokens
        self._terms = terms_of(spec).as_sent
        self._extra = fields_of(spec) if isinstance(spec, Rent) else {}
        self._temperature = self._extra.pop("temperature", 0.0)
        self._slots = asyncio.Semaphore(config.concurrency)
        self._in_flight: dict[str, asyncio.Lock] = {}

    def about(self, example_id: str) -> AskJudge:
        """The judge, asked about one item."""

        async def ask(messages: tuple[Message, ...]) -> str:
            request = ChatRequest(
                model=self._model,
                messages=messages,
                max_output_tokens=self._max_output_tokens,
                temperature=None if self._temperature is None else float(self._temperature),
                extra=self._extra,
            )
            response = await self._response(example_id, request)
            if response.text is None:
                raise ProviderError(response.error or response.outcome, response.outcome)
            return response.text

        return ask

    async def _response(self, example_id: str, request: ChatRequest) -> Response:
        digest = request.sha256
        async with self._in_flight.setdefault(digest, asyncio.Lock()):
            if digest in self._journal and (known := self._journal.get(digest)) is not None:
                return known
            async with self._slots:
                reserved = spent = Decimal(0)
                if self._price:
                    reserved = estimated_usd(self._price, request, self._terms)
                if not self._budget.reserve(reserved):
                    raise ProviderError("not asked: the budget was reached", "not_asked")
                response = await ask_once(self._ask, example_id, request, self.simulated)
                self._journal.add(response)
                if self._price:
                    spent = usd_of_response(self._price, response, self._terms)
                self._budget.settle(reserved, spent)
                return response

    def spent_usd(self) -> Decimal | None:
        """Price of all that this judge ever said; None when it is not paid by the token."""
        if self._price is None:
            return None
        price, terms = self._price, self._terms
        return sum((usd_of_response(price, r, terms) for r in self._journal.rows()), Decimal(0))


async def judge_all(
    name: str,
    spec: MetricSpec,
    examples: Sequence[Example],
    responses: Sequence[Response],
    rivals: Mapping[str, str | None] | None,
    judges: Sequence[Judge],
    grading: Grading,
    advance: Advance,
) -> tuple[list[Score], list[Verdict]]:
    """One score for each response: the median of the judges' verdicts.

    A call that failed is nobody's fault and is not scored; an answer that is wrong whatever its
    text says (`grading`) is 0 without asking; a judge without a verdict leaves the item unscored,
    since a jury of fewer is another jury.

    Args:
        name: the metric's.
        spec: how it is judged.
        examples: the items.
        responses: one for each of them, in the same order.
        rivals: example id -> the incumbent's answer; None where the method compares nothing.
        judges: the jury.
        grading: which outcomes are wrong.
        advance: called once for each item.
    """
    method = judging.load(spec.metric)

    async def one(example: Example, response: Response) -> tuple[Score, list[Verdict]]:
        value, reason, verdicts = None, "", []
        if not response.is_final:
            reason = response.error or response.outcome
        elif response.text is None or grading.is_wrong(response.outcome):
            value = 0.0
            reason = f"{response.outcome}: {response.error or response.finish_reason}"
        else:
            rival = rivals.get(example.id) if rivals is not None else None
            item = Item(example=example, answer=response.text, rival=rival)
            verdicts = await asyncio.gather(
                *(_verdict(name, method, judge, item, spec) for judge in judges)
            )
            values = [v.value for v in verdicts if v.value is not None]
            if len(values) == len(verdicts):
                value = statistics.median(values)
            reason = "; ".join(f"{v.judge}: {v.reason}" for v in verdicts)
        advance()
        return Score(example_id=example.id, metric=name, value=value, reason=reason), verdicts

    found = await asyncio.gather(
        *(one(example, response) for example, response in zip(examples, responses, strict=True))
    )
    return [score for score, _ in found], [v for _, verdicts in found for v in verdicts]


async def _verdict(
    metric: str,
    method: Method,
    judge: Judge,
    item: Item,
    spec: MetricSpec,
) -> Verdict:
    failed = False
    try:
        said = await method(judge.about(item.example.id), item, **spec.params)
    except (ProviderError, ScoringError) as error:
        said = Judgement(value=None, reason=str(error))
        failed = isinstance(error, ProviderError)
    return Verdict(
        example_id=item.example.id,
        metric=metric,
        judge=judge.name,
        value=said.value,
        reason=said.reason,
        flipped=said.flipped,
        attacked=said.attacked,
        failed=failed,
    )


@dataclass
class Judged:
    """What the judges of one candidate's answers said."""

    scores: dict[str, list[Score]]
    verdicts: list[Verdict]
    usd: Decimal | None
    """Of all calls to paid judges, earlier runs included; None when none is paid."""
    simulated: set[str]
    """Metrics that a stand-in judged."""

    @property
    def n_failed(self) -> int:
        """Calls to judges that failed."""
        return sum(verdict.failed for verdict in self.verdicts)

    def add(self, more: Judged) -> None:
        """Take in what the same judges said of the answers that follow."""
        for name, scores in more.scores.items():
            self.scores.setdefault(name, []).extend(scores)
        self.verdicts += more.verdicts
        self.usd = more.usd  # of all calls so far
        self.simulated |= more.simulated


async def judge_answers(job: Job, answers: Answers) -> Judged:
    """Let the judges see the answers."""
    specs = {name: spec for name, spec in job.study.workload.metrics.items() if spec.judges}
    judged = Judged({}, [], None, set())
    if not specs:
        return judged
    responses = list(answers)
    texts = {r.example_id: r.text for r in responses if r.text is not None}
    async with AsyncExitStack() as stack:
        judges = {
            name: await stack.enter_async_context(connected_judge(job.work, job.stage, name))
            for name in sorted(used(job.study))
        }
        with progress(f"judge: {job.name}", len(specs) * len(responses), "answers") as advance:
            for name, spec in specs.items():
                rivals = None
                if needs_rival(spec.metric):
                    is_incumbent = job.name == job.study.incumbent
                    rivals = texts if is_incumbent else job.work.rivals()
                scores, verdicts = await judge_all(
                    name, spec, answers.examples, responses, rivals,
                    [judges[judge] for judge in spec.judges], job.study.evaluate.grading, advance,
                )  # fmt: skip
                human = labels.of_answers(job.work.labels, name, texts)
                judged.scores[name] = [
                    score.model_copy(update={"human": human.get(score.example_id)})
                    for score in scores
                ]
                judged.verdicts += verdicts
                if any(judges[judge].simulated for judge in spec.judges):
                    judged.simulated.add(name)
        paid = [judge.spent_usd() for judge in judges.values()]
        known = [usd for usd in paid if usd is not None]
        judged.usd = sum(known, Decimal(0)) if known else None
    return judged


@asynccontextmanager
async def connected_judge(work: Work, stage: Stage, name: str) -> AsyncGenerator[Judge]:
    """A judge ready to be asked, with its journal for `stage`."""
    model, config = work.study.judges[name], work.study.evaluate
    gate = gate_of(work.study.workload)
    price = None
    if isinstance(model, Rent) and not model.simulated:
        price = work.prices.token_price(model.price)
    own_name = TUNED if isinstance(model, Own) and model.tuned else BASE
    with Journal(judge_journal_path(stage, name)) as journal:
        async with (
            candidate_server.serve_judge(model, work.vllm) as url,
            connected(gate, f"judge {name}", model, url, config) as ask,
        ):
            served = model.model if isinstance(model, Rent) else own_name
            yield Judge(name, model, served, ask, journal, work.budget, price, config)
