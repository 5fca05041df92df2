"""A model behind the OpenAI protocol for benchmarks and tests: fast, countable, faulty on demand.

    python scripts/benchmarks/model_server.py --delay-s 0.05 --faults storm

Answers the number in the last message: `q7` -> `a7`, and every tenth one wrong. Prints its base
URL. GET /counts tells how often each question was sent and how often it was answered whole.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
from collections import Counter
from typing import Any

from aiohttp import web

STORM = ["429", "500", "hang", "cut", "drip", "broken json", "html", "empty"]
"""What may happen to the first attempts of a question."""


class Model:
    """The handlers, and what they counted."""

    def __init__(self, delay_s: float, faults: str) -> None:
        self.delay_s = delay_s
        self.faults = faults
        self.sent: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions, streamed or not."""
        try:
            return await self._complete(request)
        except ConnectionResetError:  # the client was killed: no reason for a traceback
            raise asyncio.CancelledError from None

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        question = str(body["messages"][-1]["content"])
        self.sent[question] += 1
        await asyncio.sleep(self.delay_s)
        fault = self._fault(question)
        if fault is not None and (broken := await self._break(request, fault)) is not None:
            return broken
        text, usage = answer_to(question), {"prompt_tokens": 12, "completion_tokens": 3}
        if not body.get("stream"):
            self.answered[question] += 1
            choice = {"message": {"content": text}, "finish_reason": "stop"}
            return web.json_response({"model": "bench-1", "choices": [choice], "usage": usage})
        response = await _open_stream(request)
        if fault == "drip":
            for letter in text:
                await response.write(_event(_delta(letter)))
                await asyncio.sleep(0.02)
            text = ""
        events = [_event(_delta(text, "stop")), _event({"model": "bench-1", "usage": usage})]
        await response.write(b"".join(events) + b"data: [DONE]\n\n")
        self.answered[question] += 1
        return response

    async def counts(self, _: web.Request) -> web.Response:
        """GET /counts."""
        return web.json_response({"sent": self.sent, "answered": self.answered})

    async def reset(self, _: web.Request) -> web.Response:
        """POST /reset: forget the counts."""
        self.sent.clear()
        self.answered.clear()
        return web.Response()

    def _fault(self, question: str) -> str | None:
        """The same questions fail in the same way in each run."""
        dice = random.Random(f"{self.faults} {question}")
        if self.faults == "bad-request":
            return "400" if dice.random() < 0.02 else None
        if self.faults == "storm" and self.sent[question] <= dice.choice([0, 0, 0, 1, 2]):
            return dice.choice(STORM)
        return None

    async def _break(self, request: web.Request, fault: str) -> web.StreamResponse | None:
        match fault:
            case "400":
                return web.json_response({"error": {"message": "no such tool"}}, status=400)
            case "429":
                return web.Response(status=429, headers={"Retry-After": "0.2"}, text="slow down")
            case "500":
                return web.Response(status=500, text="oops")
            case "html":
                return web.Response(text="<html>gateway</html>", content_type="text/html")
            case "empty":
                return web.Response()
            case "hang":
                await asyncio.sleep(3600)
            case "cut":
                response = await _open_stream(request)
                await response.write(_event(_delta("a")))
                if request.transport is not None:
                    request.transport.abort()
                return response
            case "broken json":
                response = await _open_stream(request)
                await response.write(b"data: {broken\n\n")
                return response
            case _:
                pass
        return None


def answer_to(question: str) -> str:
    """`a7` for a question with 7 in it; every tenth answer is wrong."""
    number = int(re.findall(r"\d+", question)[-1])
    return "wrong" if number % 10 == 3 else f"a{number}"


def _delta(text: str, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return {"model": "bench-1", "choices": [choice]}


def _event(event: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(event)}\n\n".encode()


async def _open_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    return response


async def serve(delay_s: float, faults: str) -> None:
    """Serve until killed; the first line of stdout is the base URL."""
    model = Model(delay_s, faults)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", model.complete)
    app.router.add_get("/counts", model.counts)
    app.router.add_post("/reset", model.reset)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    host, port = runner.addresses[0][:2]
    print(f"http://{host}:{port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay-s", type=float, default=0.05)
    parser.add_argument("--faults", choices=["none", "storm", "bad-request"], default="none")
    args = parser.parse_args()
    asyncio.run(serve(args.delay_s, args.faults))
