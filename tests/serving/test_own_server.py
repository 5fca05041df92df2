"""How vLLM is started and spoken to: on loopback, with a key, past all proxies, without code."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import stat
import textwrap
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.candidate import Own, Rent
from pipelines.core.config import CONFIGS, load_study, read_yaml
from pipelines.core.errors import ProviderError, Refused, ServerError
from pipelines.core.hardware import Hardware
from pipelines.core.records import Message
from pipelines.core.results import ReferenceAnswer
from pipelines.core.study import EvaluateConfig, ParityConfig, ServeConfig
from pipelines.evaluation.connect import connected, key_env_of
from pipelines.governance.egress import Gate
from pipelines.providers import ChatRequest, Completion
from pipelines.serving import own_server, parity, vllm_server
from tests.governance.test_egress import listener

PRETENDER = """
    import json, os, sys, threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    argv = sys.argv[1:]
    started = {"argv": argv, "env": dict(os.environ)}
    open(os.environ["PRETENDER_LOG"], "w").write(json.dumps(started))

    # As the guard does: the end of our parent is ours.
    threading.Thread(target=lambda: (os.read(0, 1), os._exit(0)), daemon=True).start()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.say({})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.headers["Authorization"] != f"Bearer {os.environ['VLLM_API_KEY']}":
                self.send_error(401)
                return
            name = os.environ.get("PRETENDER_NAME") or body["model"]
            if not body.get("stream"):
                self.say({"model": name})
                return
            choice = {"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}
            self.send_response(200)
            self.end_headers()
            event = json.dumps({"model": name, "choices": [choice]})
            self.wfile.write(f"data: {event}\\n\\n".encode())

        def say(self, what):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(what).encode())

        def log_message(self, *_):
            pass

    HTTPServer(("127.0.0.1", int(argv[argv.index("--port") + 1])), Handler).serve_forever()
"""
"""Stands where vLLM's guard does; notes how it was started, and asks for the key as vLLM does."""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script = tmp_path / "pretender.py"
    script.write_text(textwrap.dedent(PRETENDER))
    monkeypatch.setattr(vllm_server, "GUARD", script)
    monkeypatch.setattr(vllm_server, "check_installed", lambda: None)
    monkeypatch.setenv("PRETENDER_LOG", str(tmp_path / "started.json"))
    monkeypatch.setenv(own_server.KEY_ENV, "")
    return tmp_path / "started.json"


@contextmanager
def started(folder: Path) -> Generator[str]:
    options = {"enable_thinking": False}
    config = ServeConfig(startup_timeout_s=20)
    with vllm_server.vllm_server(
        folder / "base", folder / "adapter", 16, options, config, folder / "vllm.log"
    ) as url:
        yield url


def ask(url: str, model: Own | Rent) -> Completion:
    async def go() -> Completion:
        gate, config = Gate("w", "public"), EvaluateConfig(timeout_s=5, max_attempts=1)
        async with connected(gate, "candidate own", model, url, config) as ask:
            turn = Message(role="user", content="hi")
            return await ask(ChatRequest(model="tuned", messages=(turn,), max_output_tokens=4))

    return asyncio.run(go())


OWN = Own(
    kind="own",
    title="X",
    tuned=True,
    hardware=Hardware.model_validate(read_yaml(CONFIGS / "hardware" / "h100.yaml")),
)
REFERENCE = ReferenceAnswer(
    messages=(Message(role="user", content="hi"),), prompt_ids=(1,), token_ids=(2,)
)
STRANGER = Rent(
    kind="rent", title="X", provider="openai_compatible", model="x", price="openai/gpt-6-luna"
)


def test_who_has_no_key_gets_401_and_all_of_ours_have_it(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listener() as (proxy, seen):
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        with started(tmp_path) as url:  # the warm-up has the key, or this raised
            assert ask(url, OWN).text == "hi"
            with pytest.raises(ProviderError, match="HTTP 401"):
                ask(url, STRANGER)
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with pytest.raises(urllib.error.HTTPError, match="401"):
                direct.open(f"{url}/chat/completions", data=b"{}")
            # The comparison of served and trained model gets as far as the answer's content.
            with pytest.raises(ServerError, match="has no token ids"):
                parity.compare(url, "tuned", [REFERENCE], ParityConfig(), fp32=True, strict=True)
    assert seen == [], "a proxy was given prompts and key"


def test_the_command_line_has_no_key_no_code_and_no_open_port(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_SERVER_DEV_MODE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("VLLM_API_KEY", "somebody else's")
    with started(tmp_path):
        pass
    found: dict[str, Any] = json.loads(log.read_text())
    argv, env = found["argv"], found["env"]
    key = os.environ[own_server.KEY_ENV]
    assert env["VLLM_API_KEY"] == key
    assert len(key) >= 40
    assert not [each for each in argv if key in each], "every user can read a command line"
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    # What is not here: --trust-remote-code, --api-key, --allowed-local-media-path, plug-ins.
    assert [each for each in argv if each.startswith("--")] == [
        "--model", "--served-model-name", "--host", "--port", "--max-model-len", "--dtype",
        "--seed", "--disable-uvicorn-access-log", "--enable-lora", "--max-lora-rank",
        "--lora-modules", "--default-chat-template-kwargs",
        *(["--gpu-memory-utilization"] if vllm_server.has_cuda() else []),
    ]  # fmt: skip
    assert argv.count("--lora-modules") == 1
    assert (env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"], env["VLLM_SERVER_DEV_MODE"]) == ("0", "0")
    assert (env["HF_HUB_OFFLINE"], env["TRANSFORMERS_OFFLINE"]) == ("1", "1")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_a_base_that_brings_code_is_refused_before_anything_is_started(
    tmp_path: Path, log: Path, small_study: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from pipelines import serve
    from pipelines.training import base_model

    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").touch()
    (base / "config.json").write_text("{}")
    (base / name).write_text('{"auto_map": {"AutoModelForCausalLM": "evil.Model"}}')
    monkeypatch.setattr(base_model, "fetch", lambda _: base)
    with pytest.raises(Refused, match=rf"'{name}' asks to run the model's own code: auto_map"):
        with serve.endpoint(load_study(small_study), None):
            raise AssertionError
    assert not log.exists()


def test_an_answer_in_another_models_name_does_not_count(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRETENDER_NAME", "tuned-for-somebody-else")
    with started(tmp_path) as url:
        with pytest.raises(ProviderError, match="'tuned', 'tuned-for-somebody-else' answered"):
            ask(url, OWN)


def test_only_own_models_get_the_key_of_our_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(own_server.KEY_ENV, "chosen")
    assert key_env_of(OWN) == own_server.KEY_ENV
    assert key_env_of(STRANGER) is None
    assert os.environ[own_server.KEY_ENV] == "chosen"


def test_the_key_file_is_its_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(own_server.KEY_ENV, "")
    victim, path = tmp_path / "victim", tmp_path / "vllm.key"
    victim.write_text("mine")
    path.symlink_to(victim)
    assert own_server.write_key(path).read_text() == os.environ[own_server.KEY_ENV]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert victim.read_text() == "mine"


def test_vllm_itself_asks_for_the_key() -> None:
    """Of vLLM only the file that decides; the whole takes ten seconds to import."""
    vllm = importlib.util.find_spec("vllm")
    if vllm is None or vllm.submodule_search_locations is None:
        pytest.skip("vLLM is not installed")
    file = Path(vllm.submodule_search_locations[0], "entrypoints/serve/middleware/authenticate.py")
    spec = importlib.util.spec_from_file_location("authenticate", file)
    assert spec is not None
    assert spec.loader is not None
    authenticate: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(authenticate)
    asked: list[str] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        asked.append(scope["path"])

    def status(path: str, *key: str) -> int | None:
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        headers = [(b"authorization", f"Bearer {each}".encode()) for each in key]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
        guard = authenticate.AuthenticationMiddleware(app, ["right"])
        asyncio.run(guard(scope, None, send))
        return sent[0]["status"] if sent else None

    for path in ("/v1/chat/completions", "/v1/models", "/v1/load_lora_adapter"):
        assert status(path) == 401
        assert status(path, "wrong") == 401
    assert asked == []
    assert status("/v1/chat/completions", "right") is None
    assert asked == ["/v1/chat/completions"]
