"""Every item is asked once, a kill loses nothing, a failure is never a wrong answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pipelines.core.errors import ProviderError
from pipelines.core.records import Example, Message, Response
from pipelines.core.study import MetricSpec
from pipelines.evaluation.journal import Journal
from pipelines.evaluation.runner import grade, requests_for, respond, throughput
from pipelines.providers import ChatRequest, Completion

EXAMPLES = [
    Example(id=f"e{k}", messages=(Message(role="user", content=f"q{k}"),), target=f"a{k}")
    for k in range(6)
]
REQUESTS = requests_for(EXAMPLES, model="m", instructions="Answer.", max_output_tokens=4)


class Scripted:
    """Answers `a<k>`; questions in `failing` fail. Counts what it was asked."""

    def __init__(self, failing: set[str] | None = None) -> None:
        self.failing = failing or set()
        self.asked: list[str] = []

    async def __call__(self, request: ChatRequest) -> Completion:
        question = request.messages[-1].content
        self.asked.append(question)
        await asyncio.sleep(0)
        if question in self.failing:
            raise ProviderError("HTTP 400: no")
        return Completion(
            text=question.replace("q", "a"),
            model="m-1",
            usage=None,
            finish_reason="stop",
            ttft_s=None,
            latency_s=0.5,
            started_at_s=100.0,
            n_attempts=1,
        )


def run(ask: Scripted, path: Path, examples: list[Example] = EXAMPLES) -> list[Response]:
    with Journal(path) as journal:
        return asyncio.run(
            respond(
                ask,
                examples,
                requests_for(examples, model="m", instructions="Answer.", max_output_tokens=4),
                journal,
                concurrency=3,
                simulated=False,
                advance=lambda n=1, /, **_: None,
            )
        )


def test_the_instructions_come_first_and_no_instructions_mean_no_system_prompt() -> None:
    assert [m.role for m in REQUESTS[0].messages] == ["system", "user"]
    [bare, *_] = requests_for(EXAMPLES, model="m", instructions="", max_output_tokens=4)
    assert [m.role for m in bare.messages] == ["user"]


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


def test_a_failed_call_is_a_row_with_a_reason_and_is_asked_again_next_time(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    responses = run(Scripted(failing={"q2"}), path)
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
    responses = run(Scripted(failing={"q2"}), tmp_path / "journal.jsonl")
    scores = grade("exact", MetricSpec(metric="exact_match"), EXAMPLES, responses)
    assert [s.value for s in scores] == [1.0, 1.0, None, 1.0, 1.0, 1.0]
    assert scores[2].reason == "HTTP 400: no"


def test_a_target_that_cannot_be_graded_has_no_score_either(tmp_path: Path) -> None:
    responses = run(Scripted(), tmp_path / "journal.jsonl")
    spec = MetricSpec(metric="json_field", params={"field": "intent"})
    scores = grade("intent", spec, EXAMPLES, responses)
    assert [s.value for s in scores] == [None] * 6
    assert "has no field 'intent'" in scores[0].reason


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
    # The failed call counts neither as an answer nor as time.
    rows = [response(0, 2), response(1, 2), response(10, 1), response(20, 5, "no")]
    assert throughput(rows) == pytest.approx(3 / 4)
    assert throughput([response(20, 5, "no")]) is None
