"""Keys that are easy to recognise go in; they come out nowhere but at the server they are for."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import threading
import traceback
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipelines import run
from pipelines.core import command
from pipelines.core.decision import Decision
from pipelines.core.paths import ROOT
from pipelines.governance import egress

CANARY = "sk-canary-7f3e9c51d2"
KEYS = sorted(
    {
        match
        for path in (ROOT / "configs").rglob("*.yaml")
        for match in re.findall(r"api_key_env: (\w+)", path.read_text("utf-8"))
    }
    | {"HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "FREEHOLD_SERVER_KEY", "FREEHOLD_KEY_PASSPHRASE"}
)


class Echo:
    """A server that answers rightly, and repeats the key in every way it can."""

    def __init__(self) -> None:
        """Listen on loopback."""
        self.keys: list[str] = []
        owner = self

        class Post(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                key = self.headers["Authorization"]
                owner.keys.append(key)
                status, sent = owner.answer(key, body, len(owner.keys))
                self.send_response(status)
                self.send_header("X-Your-Key", key)
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Post)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, key: str, body: dict[str, Any], n: int) -> tuple[int, bytes]:
        """Status and body of the n-th answer."""
        question = body["messages"][-1]["content"]
        intent = next(
            (each for each in ("refund", "delivery", "login") if f", {each[1:4]} " in question), "?"
        )
        choice = {"index": 0, "delta": {"content": intent}, "finish_reason": "stop"}
        event: dict[str, Any] = {"model": "gpt", "choices": [choice]}
        match n % 12:
            case 0:
                return 401, f"Incorrect API key provided: {key}".encode()
            case 1:
                return 400, json.dumps({"error": {"message": "x" * 380 + key}}).encode()
            case 2:
                event = {"error": {"type": "invalid_request", "message": f"bad {key}"}}
            case 3:
                choice["delta"]["content"] = f"your key is {key}"
            case 4:
                event["model"] = f"gpt for {key}"
            case 5:
                choice["finish_reason"] = f"stop {key}"
            case 6:
                return 403, b'{"headers": ' + json.dumps({"Authorization": key}).encode() + b"}"
            case _:
                pass
        usage = {"prompt_tokens": 20, "completion_tokens": 2}
        events = [event, {"model": event.get("model", "gpt"), "choices": [], "usage": usage}]
        return 200, "".join(f"data: {json.dumps(each)}\n\n" for each in events).encode()


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Generator[Echo]:
    for number, name in enumerate(KEYS):
        monkeypatch.setenv(name, f"{CANARY}-{number}")
    handler, server = signal.getsignal(signal.SIGTERM), Echo()
    try:
        yield server
    finally:
        signal.signal(signal.SIGTERM, handler)
        server.server.shutdown()
        server.server.server_close()


def study_of(path: Path) -> str:
    """The small study with a real API in place of the stand-in."""
    text = path.read_text(encoding="utf-8")
    api = "base_url: API\n    api_key_env: OPENAI_API_KEY"
    path.write_text(re.sub(r"standin: .*", api, text), encoding="utf-8")
    return str(path)


def found_in(folder: Path) -> list[str]:
    """Files that hold the canary."""
    files = [each for each in folder.rglob("*") if each.is_file()]
    return [str(each) for each in files if CANARY.encode() in each.read_bytes()]


def test_no_key_is_in_any_file_log_or_output(
    small_study: Path,
    store_uri: str,
    echo: Echo,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    root = small_study.parent
    study = study_of(small_study)

    def main(url: str, *flags: str) -> int:
        there = ["--set", f"candidates.frontier.base_url={url}", "--tracking-uri", store_uri]
        return command.main(run.__doc__, run.run, run.show, [study, *there, *flags])

    url = f"http://127.0.0.1:{echo.port}/v1"
    # The base URL may not hold a key.
    assert main(f"http://user:{CANARY}@127.0.0.1:{echo.port}/v1", "--json") == 4
    assert echo.keys == []
    # A crash in the midst of a call.
    with monkeypatch.context() as broken:
        broken.setattr("pipelines.providers.http.mean_logprob", lambda _: 1 / 0)
        with pytest.raises((ZeroDivisionError, BaseExceptionGroup)) as caught:
            main(url)
    crash = "".join((*traceback.format_exception(caught.value), *capfd.readouterr()))
    assert "ZeroDivisionError" in crash
    # Everything: answers, faults of every kind, MLflow, report, trail, both forms of output.
    assert main(url, "--json") == 0
    assert set(echo.keys) == {f"Bearer {os.environ['OPENAI_API_KEY']}"}, "the key must be real"
    printed, err = capfd.readouterr()
    table = run.show(Decision.model_validate_json(printed))
    everything = {
        "stdout": printed, "table": table, "stderr": err, "logs": caplog.text, "crash": crash,
    }  # fmt: skip
    assert [name for name, text in everything.items() if CANARY in text] == []
    assert found_in(root) == []
    kept = b"".join(each.read_bytes() for each in root.rglob("responses.jsonl"))
    for fault in (b"HTTP 401: Incorrect API key provided: Bearer [key]", b"bad Bearer [key]",
                  b"your key is Bearer [key]", b"gpt for Bearer [key]"):  # fmt: skip
        assert fault in kept, "what was searched must hold what the server said"
    assert list(root.rglob("report.html"))
    assert egress.trail_path().stat().st_size > 0
    assert egress.trail_path().is_relative_to(root)
    assert len(list(root.rglob("mlflow.db"))) == 1


def test_the_search_finds_a_key(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"\x00" + CANARY.encode() + b"-3")
    assert found_in(tmp_path) == [str(tmp_path / "deep" / "file")]
