"""Bedrock's ConverseStream against a scripted server that frames its events as AWS does."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

import pytest
from aiohttp import web

from pipelines.core.errors import ProviderError
from pipelines.core.records import Outcome, Usage
from pipelines.providers import Completion
from tests.conftest import sse
from tests.providers.conftest import KEY, TURNS, ask

# One message of an AWS event stream, encoded by hand: 12 bytes of prelude, two headers of
# 1 + 13 + 1 + 2 + 5 = 22 and 1 + 11 + 1 + 2 + 11 = 26 bytes, `{}`, 4 bytes of CRC: 66 bytes.
BY_HAND = (
    b"\x00\x00\x00\x42\x00\x00\x00\x30" + bytes.fromhex("61c8e4ec")
    + b"\x0d:message-type\x07\x00\x05event" + b"\x0b:event-type\x07\x00\x0bcontentStop" + b"{}"
)  # fmt: skip


def message(payload: Any, **headers: str) -> bytes:
    """One message; `event_type="x"` is the header `:event-type`."""
    names = b""
    for name, value in headers.items():
        raw = b":" + name.replace("_", "-").encode()
        names += bytes([len(raw)]) + raw + b"\x07" + struct.pack(">H", len(value)) + value.encode()
    body = json.dumps(payload).encode()
    prelude = struct.pack(">II", 12 + len(names) + len(body) + 4, len(names))
    prelude += struct.pack(">I", zlib.crc32(prelude))
    content = prelude + names + body
    return content + struct.pack(">I", zlib.crc32(content))


def event(kind: str, payload: Any) -> bytes:
    return message(payload, event_type=kind, content_type="application/json", message_type="event")


def text(piece: str) -> bytes:
    return event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": piece}, "p": "ab"})


def stop(reason: str = "end_turn") -> bytes:
    return event("messageStop", {"stopReason": reason})


METADATA = event(
    "metadata",
    {
        "usage": {
            "inputTokens": 9,
            "outputTokens": 5,
            "totalTokens": 117,
            "cacheReadInputTokens": 100,
            "cacheWriteInputTokens": 3,
        },
        "metrics": {"latencyMs": 12},
    },
)
ROUTE = "/model/m/converse-stream"


def bedrock(*messages: bytes, **more: Any) -> Completion:
    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await sse(request, list(messages))

    return ask("bedrock", "", ROUTE, handler, **more)


def test_what_is_sent(key: str) -> None:
    seen: list[Any] = []

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        seen.append((request.raw_path, request.headers["Authorization"], body))
        return await sse(request, [text("Bye"), stop(), METADATA])

    arn = "arn:aws:bedrock:us-east-1:1:inference-profile/us.llama-v1:0"
    extra = {"additionalModelRequestFields.top_k": 1}
    request = TURNS.model_copy(update={"model": arn, "extra": extra})
    answer = ask("bedrock", "", "/model/{model}/converse-stream", handler, request, api_key_env=key)
    assert answer.model == arn
    assert seen == [
        (
            f"/model/{arn.replace('/', '%2F')}/converse-stream",
            f"Bearer {KEY}",
            {
                "system": [{"text": "Be brief."}],
                "messages": [
                    {"role": "user", "content": [{"text": "hi"}]},
                    {"role": "assistant", "content": [{"text": "hello"}]},
                    {"role": "user", "content": [{"text": "bye"}]},
                ],
                "inferenceConfig": {"maxTokens": 5, "temperature": 0.0},
                "additionalModelRequestFields": {"top_k": 1},
            },
        )
    ]


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_text_and_usage_however_the_bytes_arrive(size: int) -> None:
    thought = {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "I must be brief."}}}
    raw = b"".join(
        [
            event("messageStart", {"role": "assistant"}),
            event("contentBlockDelta", thought),
            text("Good"),
            text("bye"),
            event("contentBlockStop", {"contentBlockIndex": 0}),
            stop(),
            METADATA,
        ]
    )
    answer = bedrock(*(raw[i : i + size] for i in range(0, len(raw), size)))
    assert answer.text == "Goodbye"
    assert (answer.model, answer.outcome, answer.finish_reason) == ("m", "answered", "end_turn")
    # 9 fresh + 100 read from the cache + 3 written to it = 112 input tokens; 112 + 5 = 117.
    assert answer.usage == Usage(
        input_tokens=112, cached_input_tokens=100, cache_write_5m_tokens=3, output_tokens=5
    )


def test_what_stays_in_the_cache_for_an_hour_is_told_apart() -> None:
    usage = {
        "inputTokens": 9,
        "outputTokens": 5,
        "totalTokens": 44,
        "cacheWriteInputTokens": 30,
        "cacheDetails": [{"ttl": "1h", "inputTokens": 20}, {"ttl": "5m", "inputTokens": 10}],
    }
    # 9 fresh + 30 written = 39 = 44 - 5; 30 - 20 = 10 for minutes.
    assert bedrock(text("Hi"), stop(), event("metadata", {"usage": usage})).usage == Usage(
        input_tokens=39, cache_write_5m_tokens=10, cache_write_1h_tokens=20, output_tokens=5
    )


def test_a_message_that_was_encoded_by_hand_is_read() -> None:
    by_hand = BY_HAND + struct.pack(">I", zlib.crc32(BY_HAND))
    assert len(by_hand) == 66
    assert bedrock(by_hand, text("Bye"), stop()).text == "Bye"


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        ("stop_sequence", "answered"),
        ("max_tokens", "truncated"),
        ("model_context_window_exceeded", "truncated"),
        ("guardrail_intervened", "filtered"),
        ("content_filtered", "filtered"),
    ],
)
def test_stop_reasons(reason: str, outcome: Outcome) -> None:
    assert bedrock(text("Go"), stop(reason)).outcome == outcome


@pytest.mark.parametrize(
    ("kind", "said", "outcome", "n_attempts"),
    [
        ("throttlingException", "Too many tokens", "failed", 2),
        ("modelStreamErrorException", "Try again", "failed", 2),
        ("validationException", "Malformed input", "failed", 1),
        ("validationException", "Input is too long for requested model.", "context_length", 1),
    ],
)
def test_an_exception_inside_the_stream(
    kind: str, said: str, outcome: Outcome, n_attempts: int
) -> None:
    raised = message({"message": said}, exception_type=kind, message_type="exception")
    with pytest.raises(ProviderError, match=f"{kind}.*{said}") as caught:
        bedrock(text("Go"), raised, max_attempts=2)
    assert (caught.value.outcome, caught.value.n_attempts) == (outcome, n_attempts)
    assert caught.value.n_broken_off == n_attempts


@pytest.mark.parametrize(
    "bad",
    [
        text("Good")[:-1] + b"\x00",
        struct.pack(">III", 1 << 31, 0, 0),
        struct.pack(">III", 5, 0, 0),
        message({}, message_type="event"),
        message([1], event_type="contentBlockDelta", message_type="event"),
    ],
    ids=["checksum", "2 GiB", "5 bytes", "no type", "no object"],
)
def test_a_broken_message_is_a_fault_of_the_call(bad: bytes) -> None:
    with pytest.raises(ProviderError, match="malformed event"):
        bedrock(text("Go"), bad, stop(), max_attempts=1)


def test_a_cut_stream_is_no_answer() -> None:
    with pytest.raises(ProviderError, match="the stream ended before the answer did"):
        bedrock(text("Go"), stop()[:-3], max_attempts=1)
