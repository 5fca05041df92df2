"""Logged calls become training rows that say where they come from, and the rest is counted."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.errors import DataError
from pipelines.core.workload import LoggedCalls
from pipelines.usage_logs import traffic
from tests.conftest import write_jsonl

FIXTURES = Path(__file__).parent / "fixtures"
ASKED = [{"role": "system", "content": "Name it."}, {"role": "user", "content": "Where is it?"}]


def exchange(content: Any = "shipping", finish: str = "stop", **more: Any) -> dict[str, Any]:
    """A call of OpenAI's API, with both sides."""
    return {
        "timestamp": "2026-11-01T10:00:00Z",
        "request": {"model": "gpt-6-luna", "messages": ASKED},
        "response": {
            "id": "chatcmpl-7",
            "model": "gpt-6-luna-2026",
            "usage": {"prompt_tokens": 9, "completion_tokens": 1},
            "choices": [{"message": {"content": content}, "finish_reason": finish}],
        },
        **more,
    }


def anthropic(stop_reason: str) -> dict[str, Any]:
    """A call of Anthropic's, which says why it ended beside the content."""
    return {
        "timestamp": "2026-11-01T10:00:00Z",
        "request": {"model": "claude-haiku-4-5", "messages": ASKED[1:]},
        "response": {
            "id": "msg_1",
            "model": "claude-haiku-4-5",
            "usage": {"input_tokens": 9, "output_tokens": 1},
            "content": [{"type": "text", "text": "shipping"}],
            "stop_reason": stop_reason,
        },
    }


def read(tmp_path: Path, *calls: dict[str, Any], **more: Any) -> traffic.Traffic:
    return traffic.rows([write_jsonl(tmp_path / "log.jsonl", list(calls))], **more)


def test_a_row_keeps_where_it_comes_from(tmp_path: Path) -> None:
    [row] = read(tmp_path, exchange()).rows
    assert [(turn.role, turn.content) for turn in row.messages] == [
        ("system", "Name it."),
        ("user", "Where is it?"),
        ("assistant", "shipping"),
    ]
    assert (row.request_id, row.answered_by) == ("chatcmpl-7", "gpt-6-luna-2026")
    assert row.answered_at == datetime(2026, 11, 1, 10, tzinfo=UTC)
    assert row.source is not None
    assert row.source.endswith("log.jsonl")


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (exchange(error="server error"), traffic.FAILED),
        (exchange(finish="length"), traffic.ENDED["truncated"]),
        (exchange(finish="content_filter"), traffic.ENDED["filtered"]),
        (anthropic("refusal"), traffic.ENDED["refused"]),
        (anthropic("max_tokens"), traffic.ENDED["truncated"]),
        (exchange(finish="tool_calls"), traffic.TOOL),
        (exchange([{"type": "refusal", "refusal": "I will not."}]), traffic.ENDED["refused"]),
        (exchange(None), traffic.ANSWER),
        (exchange(request={"model": "gpt-6-luna"}), traffic.SILENT),
        (
            exchange(
                request={"model": "m", "messages": [*ASKED, {"role": "tool", "content": "x"}]}
            ),
            traffic.PROMPT,
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_is_no_row_is_counted_with_its_reason(
    tmp_path: Path, call: dict[str, Any], reason: str
) -> None:
    found = read(tmp_path, exchange(), call, anthropic("end_turn"))
    assert len(found.rows) == 2
    assert found.left_out == {reason: 1}
    assert found.n_calls == 3


def test_a_broken_line_is_counted(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "log.jsonl", [exchange()])
    path.write_text(path.read_text() + '{"request": {"mod\n')
    assert traffic.rows([path]).left_out == {traffic.UNREADABLE: 1}


@pytest.mark.parametrize("depth", [400, 4_000])
def test_an_answer_nested_without_end_is_counted(tmp_path: Path, depth: int) -> None:
    path = write_jsonl(tmp_path / "log.jsonl", [exchange(), exchange("DEEP")])
    deep = '{"content": [' * depth + '"x"' + "]}" * depth
    path.write_text(path.read_text().replace('"DEEP"', deep))
    found = traffic.rows([path])
    assert len(found.rows) == 1
    assert found.left_out == {traffic.UNREADABLE: 1}


@pytest.mark.parametrize("answer", ['["refund"]', '{"text": 1, "intent": "refund"}', "[1, 2]"])
def test_an_answer_that_is_json_stays_as_it_is(tmp_path: Path, answer: str) -> None:
    [row] = read(tmp_path, exchange(answer)).rows
    assert row.messages[-1].content == answer


def test_a_responses_call_that_is_incomplete_is_cut(tmp_path: Path) -> None:
    whole = {
        "created_at": 1793530800, "id": "resp_3", "model": "gpt-6-luna", "status": "completed",
        "messages": ASKED, "usage": {"input_tokens": 5, "output_tokens": 5},
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "shipping"}]}],
    }  # fmt: skip
    cut = {**whole, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    found = read(tmp_path, whole, cut)
    assert [row.messages[-1].content for row in found.rows] == ["shipping"]
    assert found.left_out == {traffic.ENDED["truncated"]: 1}


def test_only_the_named_workload_is_taken(tmp_path: Path) -> None:
    calls = [exchange(tag="mail"), exchange("pin", tag="bank")]
    [row] = read(tmp_path, *calls, calls=LoggedCalls(workload="bank")).rows
    assert row.messages[-1].content == "pin"
    with pytest.raises(DataError, match="no call of workload 'other' can be learned from, of 0"):
        read(tmp_path, *calls, calls=LoggedCalls(workload="other"))


@pytest.mark.parametrize(
    ("name", "question", "answer", "model"),
    [
        ("bedrock.jsonl", "Broken glass.", "glass", "us.anthropic.claude-haiku-4-5-v1:0"),
        ("gemini.jsonl", "blue shoes", "ok", "gemini-3-flash"),
        ("requests.jsonl", "Where is my parcel?", "shipping", "gpt-6-luna"),
    ],
)
def test_formats_with_content(name: str, question: str, answer: str, model: str) -> None:
    [row] = traffic.rows([FIXTURES / name]).rows
    assert (row.messages[-2].content, row.messages[-1].content) == (question, answer)
    assert row.answered_by == model


def test_langfuse_litellm_telemetry_and_traces(tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": "shipping"}
    parts = [{"role": "assistant", "parts": [{"type": "text", "content": "shipping"}]}]
    asked = [{"role": "user", "parts": [{"type": "text", "content": "Where is it?"}]}]
    attributes = {
        "gen_ai.operation.name": "chat", "gen_ai.response.model": "m",
        "gen_ai.usage.input_tokens": 1, "gen_ai.input.messages": json.dumps(asked),
        "gen_ai.output.messages": json.dumps(parts),
    }  # fmt: skip
    span = {
        "span_id": "s", "trace_id": "t", "start_time_unix_nano": 1793527200000000000,
        "attributes": {
            "mlflow.chat.tokenUsage": '{"input_tokens": 1, "output_tokens": 1}',
            "mlflow.llm.model": '"m"', "mlflow.spanInputs": json.dumps({"messages": ASKED[1:]}),
            "mlflow.spanOutputs": json.dumps({"choices": [{"message": answer}]}),
        },
    }  # fmt: skip
    logs = {
        "langfuse": {
            "id": "o", "traceId": "t", "type": "GENERATION", "startTime": "2026-11-01T10:00:00Z",
            "model": "m", "usageDetails": {"input": 1, "output": 1}, "input": ASKED[1:],
            "output": answer,
        },
        "litellm": {
            "request_id": "r", "spend": 0, "prompt_tokens": 1, "completion_tokens": 1,
            "startTime": "2026-11-01T10:00:00Z", "model": "m", "messages": ASKED[1:],
            "response": {"choices": [{"message": answer, "finish_reason": "stop"}]},
        },
        "span": {"startTimeUnixNano": "1793527200000000000", "attributes": attributes},
        "otlp": {"resourceSpans": [{"scopeSpans": [{"spans": [{
            "traceId": "t", "spanId": "s", "startTimeUnixNano": "1793527200000000000",
            "attributes": [{"key": k, "value": {"stringValue": str(v)}}
                           for k, v in attributes.items()],
        }]}]}]},
        "mlflow": {"info": {"trace_id": "t", "state": "OK"}, "data": {"spans": [span]}},
    }  # fmt: skip
    for name, call in logs.items():
        [row] = traffic.rows([write_jsonl(tmp_path / f"{name}.jsonl", [call])]).rows
        said = (row.messages[-2].content, row.messages[-1].content, row.answered_by)
        assert said == ("Where is it?", "shipping", "m"), name
        assert row.answered_at == datetime(2026, 11, 1, 10, tzinfo=UTC), name


def test_an_answer_that_was_logged_as_an_object_is_its_json(tmp_path: Path) -> None:
    observation = {
        "id": "o", "traceId": "t", "type": "GENERATION", "startTime": "2026-11-01T10:00:00Z",
        "model": "m", "usageDetails": {"input": 1, "output": 1}, "input": ASKED[1:],
    }  # fmt: skip
    called = {"content": None, "tool_calls": [{"function": {"name": "f"}}]}
    found = read(
        tmp_path, {**observation, "output": {"intent": "x"}}, {**observation, "output": called}
    )
    [row] = found.rows
    assert json.loads(row.messages[-1].content) == {"intent": "x"}
    assert found.left_out == {traffic.TOOL: 1}


def test_formats_without_content_are_named_at_once() -> None:
    with pytest.raises(DataError) as caught:
        traffic.rows(
            [FIXTURES / "openai_usage.json", FIXTURES / "table.csv", FIXTURES / "gemini.jsonl"]
        )
    message = str(caught.value)
    assert "2 file(s) of formats without prompts and answers" in message
    assert "openai_usage.json: " in message
    assert "table.csv: " in message


def test_a_log_without_its_prompts_says_why_nothing_is_left() -> None:
    with pytest.raises(DataError, match=r"no call can be learned from(.|\n)*: the log holds no"):
        traffic.rows([FIXTURES / "litellm.jsonl"])


def test_a_trace_without_tokens_is_told_by_its_outermost_span(tmp_path: Path) -> None:
    def span(name: str, parent: str | None, **attributes: str) -> dict[str, Any]:
        return {"span_id": name, "parent_span_id": parent, "attributes": attributes}

    said = {"mlflow.spanInputs": '{"question": "Where?"}', "mlflow.spanOutputs": '"shipping"'}
    traces = [
        {"info": {"trace_id": "a"}, "data": {"spans": [span("x", "r"), span("r", None, **said)]}},
        {"info": {"trace_id": "b"}, "data": {"spans": [span("r", None)]}},
        {"info": {"trace_id": "c"}, "data": {"spans": []}},
    ]
    found = read(tmp_path, *traces)
    [row] = found.rows
    assert [turn.content for turn in row.messages] == ["Where?", "shipping"]
    assert row.request_id == "a/r"
    assert found.left_out == {traffic.SILENT: 2}
