"""What every test may use: a throw-away MLflow store, a small study, a scripted HTTP server."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from aiohttp import web

from pipelines.core.paths import ROOT
from pipelines.core.usage_log import UsageGroup

# Nothing here may reach the network by accident, and no key of the developer's may be spent.
os.environ["HF_HUB_OFFLINE"] = "1"
for name in (
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "GEMINI_API_KEY",
    "AZURE_OPENAI_API_KEY",
    "AWS_BEARER_TOKEN_BEDROCK",
):
    if "PYTEST_ALLOW_KEYS" not in os.environ:
        os.environ.pop(name, None)


# The same examples in every run: a test that fails must fail again.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile("same")

# Beside another worker, threads of one sum wait for each other: torch takes three times the CPU.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, files with a test that runs alone last: two workers end together."""
    alone = {item.path for item in items if item.get_closest_marker("alone")}
    items.sort(key=lambda item: (item.path in alone, item.path.name != "test_quickstart.py"))


@contextmanager
def locked(path: Path, how: int) -> Generator[None]:
    """Hold a lock of `flock` that the other worker of this run heeds."""
    with path.open("w") as file:
        fcntl.flock(file, how)
        yield


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(autouse=True)
def turn(request: pytest.FixtureRequest, run_folder: Path) -> Generator[None]:
    """A test marked `alone` runs beside no other; it measures time or a limit."""
    alone = request.node.get_closest_marker("alone") is not None
    with ExitStack() as room:
        # Who waits for the room holds the door, so that nobody slips in before.
        with locked(run_folder / "door.lock", fcntl.LOCK_EX):
            how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
            room.enter_context(locked(run_folder / "room.lock", how))
        yield


@pytest.fixture(scope="session", autouse=True)
def trail(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The audit trail of this run, and consents, away from those of the project."""
    path = tmp_path_factory.mktemp("trail") / "trail.jsonl"
    os.environ["FREEHOLD_TRAIL"] = str(path)
    os.environ["FREEHOLD_CONSENTS"] = str(path.with_name("consents"))
    return path


@pytest.fixture(scope="session")
def empty_store(run_folder: Path) -> Path:
    """A migrated, empty MLflow database; making one takes 4-8 s, copying it nothing."""
    from sqlalchemy import Engine, event

    from pipelines.tracking import store

    # Tests kill processes, not the machine: nothing has to reach the disk.
    event.listen(Engine, "connect", lambda each, _: each.execute("PRAGMA synchronous = OFF"))
    path = run_folder / "empty.db"
    with locked(run_folder / "empty.lock", fcntl.LOCK_EX):
        if not path.exists():
            store.connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def store_uri(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of a fresh MLflow store, connected; beside it a fresh audit trail."""
    from pipelines.tracking import store

    monkeypatch.setenv("FREEHOLD_TRAIL", str(tmp_path / "trail.jsonl"))
    (tmp_path / "mlruns").mkdir()
    shutil.copy(empty_store, tmp_path / "mlruns" / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}"
    store.connect(uri)
    return uri


@pytest.fixture(scope="session")
def public_data() -> Path:
    """Folder of the public data sets, `$FREEHOLD_DATA`."""
    folder = os.environ.get("FREEHOLD_DATA")
    if not folder or not Path(folder, "banking77").is_dir():
        pytest.skip(
            "needs the public Banking77 set: set FREEHOLD_DATA to the folder above banking77/"
        )
    return Path(folder)


CALLS = UsageGroup(
    day=date(2026, 11, 2),
    workload="claims",
    grouped_by="tag",
    provider="openai",
    model="sol",
    service_tier="standard",
    region="",
    context_over=0,
    n_calls=100,
    n_failed=1,
    input_tokens=1_000_000,
    cached_input_tokens=400_000,
    cache_write_5m_tokens=0,
    cache_write_1h_tokens=0,
    output_tokens=20_000,
    reasoning_tokens=5_000,
    n_without_usage=0,
    usd_reported=None,
    format="LiteLLM spend logs",
    is_sum=False,
)
"""Logged calls of one day; a test changes what it is about."""


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


INTENTS = {
    "refund": ["money back please", "refund my order", "i want my cash returned", "reimburse me"],
    "delivery": ["where is my parcel", "package late again", "when does it arrive", "track my box"],
    "login": ["password forgotten", "cannot sign in", "reset my account", "locked out of profile"],
}


@pytest.fixture
def small_study(tmp_path: Path) -> Path:
    """A study without any LLM: a stand-in and the classical baseline on 60 + 60 items."""
    train, items = [], []
    for intent, phrases in INTENTS.items():
        for k in range(20):
            text = f"{phrases[k % 4]} number {intent[:2]}{k} thanks"
            train.append(
                {
                    "messages": [
                        {"role": "user", "content": text},
                        {"role": "assistant", "content": intent},
                    ]
                }
            )
        for k in range(20):
            text = f"hello there {phrases[k % 4]} since {k + 3} days, {intent[1:4]} please answer"
            items.append(
                {
                    "id": f"{intent}-{k}",
                    "messages": [{"role": "user", "content": text}],
                    "target": intent,
                }
            )
    write_jsonl(tmp_path / "train.jsonl", train)
    write_jsonl(tmp_path / "eval.jsonl", items)
    study = f"""
workload:
  name: small
  title: Small study
  tier: public
  eval_set: {{path: {tmp_path}/eval.jsonl}}
  instructions: "Name the intent: refund, delivery or login."
  metrics: {{accuracy: {{metric: exact_match}}}}
  quality: accuracy
  max_output_tokens: 8
  requirements: {{max_quality_loss: 0.1, max_latency_p95_s: 5}}
  traffic: {{tasks_per_month: 1_000_000}}
  own_costs: {{operations_usd_per_month: 100, source: test}}
prepare: {{train: {{path: {tmp_path}/train.jsonl}}}}
finetune: {{preset: tiny}}
benchmark: {{candidates: []}}
incumbent: frontier
candidates:
  frontier:
    kind: rent
    title: Stand-in
    provider: openai_compatible
    model: gpt-6.1-sol
    price: openai/gpt-6.1-sol
    standin: {{error_rate: 0.05, ttft_s: 0.001, tokens_per_s: 10000}}
  tfidf-logreg: tfidf-logreg
"""
    path = tmp_path / "study.yaml"
    path.write_text(study, encoding="utf-8")
    return path


Handler = Callable[[web.Request, dict[str, Any]], Any]


@asynccontextmanager
async def scripted_server(path: str, handler: Handler) -> AsyncGenerator[str]:
    """A real HTTP server on loopback: `handler(request, body)` answers POST `path`."""

    async def post(request: web.Request) -> web.StreamResponse:
        return await handler(request, await request.json())

    app = web.Application()
    app.router.add_post(path, post)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def sse(request: web.Request, events: list[Any]) -> web.StreamResponse:
    """Send server-sent events; a `bytes` event is sent as it is."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for event in events:
        raw = event if isinstance(event, bytes) else f"data: {json.dumps(event)}\n\n".encode()
        await response.write(raw)
    return response


PROJECT = ROOT


class ThreadedServer:
    """An OpenAI-compatible server in a thread, for commands that run their own event loop."""

    def __init__(self, answer: Callable[[dict[str, Any]], str]) -> None:
        """`answer` gets the body of each request and gives the text; ConnectionError = a 400."""
        self.n_requests = 0
        owner = self

        class Post(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.n_requests += 1
                try:
                    text = answer(body)
                except ConnectionError as error:
                    self.send_error(400, str(error))
                    return
                usage = {
                    "prompt_tokens": sum(len(m["content"]) for m in body["messages"]) // 4,
                    "completion_tokens": max(1, len(text) // 4),
                }
                choice = {"index": 0, "delta": {"content": text}, "finish_reason": "stop"}
                events = [
                    {"model": body["model"], "choices": [choice]},
                    {"model": body["model"], "choices": [], "usage": usage},
                ]
                lines = [f"data: {json.dumps(event)}\n\n" for event in events]
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                self.wfile.write("".join([*lines, "data: [DONE]\n\n"]).encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Post)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def threaded_server(answer: Callable[[dict[str, Any]], str]) -> Generator[ThreadedServer]:
    """A `ThreadedServer` for the length of the block."""
    server = ThreadedServer(answer)
    try:
        yield server
    finally:
        server.stop()
