"""Every item is asked once, a kill loses nothing, a failure is never a wrong answer."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path

import pytest

from pipelines.core.config import load_study
from pipelines.core.errors import ProviderError
from pipelines.core.paths import ROOT
from pipelines.core.records import Example, Message, Outcome, Response, Score
from pipelines.core.study import Grading
from pipelines.core.workload import MetricSpec
from pipelines.evaluation import asked
from pipelines.evaluation.budget import Budget
from pipelines.evaluation.grading import grade
from pipelines.evaluation.journal import Journal
from pipelines.evaluation.runner import Answers, respond
from pipelines.evaluation.summary import throughput
from pipelines.providers import ChatRequest, Completion
from tests.conftest import write_jsonl

EXAMPLES = [
    Example(id=f"e{k}", messages=(Message(role="user", content=f"q{k}"),), target=f"a{k}")
    for k in range(6)
]


def request_of(example: Example) -> ChatRequest:
    return ChatRequest(model="m", messages=example.messages, max_output_tokens=4)


class Scripted:
    """Answers `a<k>`; questions in `failing` fail. Counts what it was asked."""

    def __init__(
        self, failing: dict[str, Outcome] | None = None, mean_logprob: float | None = None
    ) -> None:
        self.failing = failing or {}
        self.mean_logprob = mean_logprob
        self.asked: list[str] = []

    async def __call__(self, request: ChatRequest) -> Completion:
        question = request.messages[-1].content
        self.asked.append(question)
        await asyncio.sleep(0)
        if question in self.failing:
            raise ProviderError("HTTP 400: no", self.failing[question])
        return Completion(
            text=question.replace("q", "a"),
            model="m-1",
            usage=None,
            finish_reason="stop",
            ttft_s=None,
            latency_s=0.5,
            started_at_s=100.0,
            n_attempts=1,
            mean_logprob=self.mean_logprob,
        )


def run(
    ask: Scripted,
    path: Path,
    examples: list[Example] = EXAMPLES,
    budget: Budget | None = None,
    usd: str = "0",
) -> list[Response]:
    """One run over `examples`; each call is reserved and settled at `usd`."""
    with Journal(path) as journal:
        digests = [request_of(example).sha256 for example in examples]
        asyncio.run(
            respond(
                ask,
                examples,
                digests,
                request_of,
                journal,
                concurrency=3,
                simulated=False,
                advance=lambda n=1, /, **_: None,
                budget=budget or Budget(None),
                reserve_usd=lambda _: Decimal(usd),
                usd_of=lambda _: Decimal(usd),
            )
        )
        return list(Answers(examples, digests, journal, "m"))


def graded(responses: list[Response], spec: MetricSpec, grading: Grading) -> list[Score]:
    return list(grade("metric", spec, EXAMPLES, responses, grading))


EXACT = MetricSpec(metric="exact_match")


def test_the_instructions_come_first_and_no_instructions_mean_no_system_prompt() -> None:
    study = load_study(ROOT / "configs" / "quickstart.yaml", [])
    instructed = asked.request_maker(study, "frontier-standin", "Answer.", "")(EXAMPLES[0])
    assert [m.role for m in instructed.messages] == ["system", "user"]
    bare = asked.request_maker(study, "frontier-standin", "", "")(EXAMPLES[0])
    assert [m.role for m in bare.messages] == ["user"]


def test_repeated_items_are_asked_apart_and_counted_as_one_cluster() -> None:
    study = load_study(ROOT / "configs" / "quickstart.yaml", [])
    request_of = asked.request_maker(study, "frontier-standin", "", "")
    twice = asked.repeated(EXAMPLES[:2], 2)
    assert [e.id for e in twice] == ["e0#0", "e0#1", "e1#0", "e1#1"]
    assert [e.group for e in twice] == ["e0", "e0", "e1", "e1"]
    assert len({request_of(e).sha256 for e in twice}) == 4
    assert asked.repeated(EXAMPLES, 1) == EXAMPLES


def test_answered_requests_are_not_sent_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first, second = Scripted(), Scripted()
    before = run(first, path)
    after = run(second, path)
    assert len(first.asked) == 6
    assert second.asked == []
    assert [r.model_dump() for r in before] == [r.model_dump() for r in after]


def test_a_line_that_a_kill_cut_off_is_asked_again_and_only_that(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    run(Scripted(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    again = Scripted()
    responses = run(again, path)
    assert len(again.asked) == 1
    assert [r.text for r in responses] == [f"a{k}" for k in range(6)]
    assert path.read_bytes().count(b"\n") == 6
    third = Scripted()
    run(third, path)
    assert third.asked == []


def test_how_likely_the_tokens_were_is_kept_and_its_absence_asks_nothing_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal.jsonl"
    responses = run(Scripted(mean_logprob=-0.25), path)
    assert [r.mean_logprob for r in responses] == [-0.25] * 6
    # A journal that was written before there was such a field.
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        del row["mean_logprob"]
    write_jsonl(path, rows)
    again = Scripted(mean_logprob=-0.25)
    assert [r.mean_logprob for r in run(again, path)] == [None] * 6
    assert again.asked == []


def test_a_failed_call_is_a_row_with_a_reason_and_is_asked_again_next_time(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    responses = run(Scripted(failing={"q2": "failed"}), path)
    assert responses[2].error == "HTTP 400: no"
    assert responses[2].text is None
    again = Scripted()
    assert run(again, path)[2].text == "a2"
    assert again.asked == ["q2"]


def test_another_prompt_asks_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    run(Scripted(), path)
    changed = [e.model_copy(update={"messages": (*e.messages, *e.messages)}) for e in EXAMPLES[:2]]
    again = Scripted()
    run(again, path, changed)
    assert len(again.asked) == 2


def test_an_unanswered_item_has_no_score_rather_than_a_zero(tmp_path: Path) -> None:
    responses = run(Scripted(failing={"q2": "failed"}), tmp_path / "journal.jsonl")
    scores = graded(responses, EXACT, Grading())
    assert [s.value for s in scores] == [1.0, 1.0, None, 1.0, 1.0, 1.0]
    assert scores[2].reason == "HTTP 400: no"


def test_a_target_that_cannot_be_graded_has_no_score_either(tmp_path: Path) -> None:
    responses = run(Scripted(), tmp_path / "journal.jsonl")
    spec = MetricSpec(metric="json_field", params={"field": "intent"})
    scores = graded(responses, spec, Grading())
    assert [s.value for s in scores] == [None] * 6
    assert "has no field 'intent'" in scores[0].reason


def test_what_the_candidate_caused_is_wrong_and_what_nobody_caused_is_not_scored(
    tmp_path: Path,
) -> None:
    failing: dict[str, Outcome] = {"q1": "context_length", "q2": "filtered", "q3": "failed"}
    path = tmp_path / "journal.jsonl"
    responses = run(Scripted(failing), path)
    scores = graded(responses, EXACT, Grading())
    assert [s.value for s in scores] == [1.0, 0.0, 0.0, None, 1.0, 1.0]
    assert scores[1].reason == "context_length: HTTP 400: no"
    again = Scripted()
    run(again, path)
    assert again.asked == ["q3"]  # the others would end the same way, and cost again


@pytest.mark.parametrize(
    ("outcome", "grading", "value"),
    [
        ("truncated", Grading(), 1.0),
        ("truncated", Grading(truncated="wrong"), 0.0),
        ("refused", Grading(), 0.0),
        ("refused", Grading(refused="graded"), 1.0),
    ],
)
def test_cut_and_refused_answers_are_graded_as_the_study_says(
    outcome: Outcome, grading: Grading, value: float
) -> None:
    cut = [response(0, 1).model_copy(update={"text": "a0", "outcome": outcome})]
    [score] = list(grade("exact", EXACT, EXAMPLES[:1], cut, grading))
    assert score.value == value


def test_an_answer_that_cannot_be_parsed_is_wrong_and_says_so() -> None:
    item = EXAMPLES[0].model_copy(update={"target": '{"intent": "x"}'})
    spec = MetricSpec(metric="json_field", params={"field": "intent"})
    [score] = list(grade("intent", spec, [item], [response(0, 1)], Grading()))
    assert (score.value, score.reason) == (0.0, "unparseable: no JSON object")


def test_the_budget_cuts_the_tail_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    # $0.30 a call and $1: three calls fit, the fourth would make it $1.20.
    first, budget = Scripted(), Budget(Decimal(1))
    responses = run(first, path, budget=budget, usd="0.3")
    assert first.asked == ["q0", "q1", "q2"]
    assert budget.reached
    assert budget.spent_usd == Decimal("0.9")
    assert [r.outcome for r in responses[3:]] == ["not_asked"] * 3
    assert [s.value for s in graded(responses, EXACT, Grading())][3:] == [None] * 3
    second, more = Scripted(), Budget(Decimal(2), spent_usd=Decimal("0.9"))
    run(second, path, budget=more, usd="0.3")
    assert second.asked == ["q3", "q4", "q5"]
    assert more.spent_usd == Decimal("1.8")
    assert not more.reached


def test_a_question_that_stands_twice_in_the_set_is_asked_once(tmp_path: Path) -> None:
    twin = EXAMPLES[0].model_copy(update={"id": "twin"})
    ask = Scripted()
    responses = run(ask, tmp_path / "journal.jsonl", [*EXAMPLES, twin])
    assert ask.asked.count("q0") == 1
    assert [r.example_id for r in responses][-1] == "twin"
    assert responses[-1].text == "a0"


def response(start: float, latency: float, error: str | None = None) -> Response:
    return Response(
        example_id="e",
        request_sha256="0",
        text=None if error else "a",
        error=error,
        model="m",
        started_at_s=start,
        latency_s=latency,
    )


def test_throughput_counts_only_time_with_requests_in_flight() -> None:
    # [0, 2] and [1, 3] overlap: 3 s busy. A pause. [10, 11]: 1 s. 3 answers in 4 s.
    assert throughput([10, 0, 1], [1, 2, 2]) == pytest.approx(3 / 4)
    assert throughput([], []) is None
