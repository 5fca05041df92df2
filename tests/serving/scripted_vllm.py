"""A server that speaks as vLLM does and says what it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pipelines.core.results import ReferenceAnswer


@contextmanager
def answering(answer: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Generator[str]:
    """A server that answers with `answer(body)`, or with an error where that is None."""

    class Post(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = answer(body)
            if found is None:
                self.send_error(500, "no memory")
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Post)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def scripted(answers: Sequence[ReferenceAnswer]) -> Generator[str]:
    """Says `answers`, in the form in which vLLM does."""
    known = {answer.messages[-1].content: answer for answer in answers}

    def say(body: dict[str, Any]) -> dict[str, Any]:
        answer = known[body["messages"][-1]["content"]]
        logprobs = [
            {"top_logprobs": [{"token": f"token_id:{k}", "logprob": x} for k, x in each.items()]}
            for each in answer.likeliest
        ]
        choice = {
            "message": {"content": answer.text},
            "token_ids": answer.token_ids,
            "logprobs": {"content": logprobs},
        }
        return {"prompt_token_ids": answer.prompt_ids, "choices": [choice]}

    with answering(say) as url:
        yield url
