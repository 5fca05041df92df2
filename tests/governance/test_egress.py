"""Nothing leaves without being allowed: asked before each call, and held at the socket."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from pipelines import evaluate as evaluate_command
from pipelines.core.command import Options
from pipelines.core.config import load_study
from pipelines.core.errors import Refused
from pipelines.core.paths import ROOT
from pipelines.core.study import Study
from pipelines.core.workload import Embedder
from pipelines.evaluation.connect import check_allowed
from pipelines.governance import egress, trail, zones
from pipelines.governance.egress import Gate, open_client
from pipelines.providers import Endpoint
from pipelines.retrieval.embedder import embed
from tests.conftest import scripted_server, threaded_server

RENT = "kind: rent, provider: openai_compatible, price: openai/gpt-6-luna, title: X, model: x"
BODY = {"model": "x", "secret": "the patient's name"}


@pytest.fixture(autouse=True)
def _own_trail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(egress.TRAIL, str(tmp_path / "trail.jsonl"))


class Notes(list[dict[str, Any]]):
    """An audit trail in memory."""

    def __call__(self, kind: str, fields: Mapping[str, Any]) -> None:
        self.append({"kind": kind, **fields})


@contextmanager
def listener() -> Generator[tuple[str, list[object]]]:
    """A socket that counts who connects; nobody should."""
    seen: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            try:
                while True:
                    connection, peer = server.accept()
                    seen.append(peer)
                    connection.close()
            except OSError:
                return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", seen
        server.shutdown(socket.SHUT_RDWR)
    thread.join(2)


def post(gate: Gate, url: str, body: Mapping[str, Any] = BODY, **connector: Any) -> int:
    """The status that one POST gets."""

    async def go() -> int:
        async with open_client(gate, "candidate x", url, **connector) as client:
            async with client.post(url, body, {}, 2) as answer:
                return answer.status

    return asyncio.run(go())


def test_calls_on_this_machine_are_noted_together_and_without_content() -> None:
    notes = Notes()

    async def ok(request: web.Request, body: dict[str, Any]) -> web.Response:
        return web.Response(text=body["model"])

    async def go() -> None:
        async with scripted_server("/v1", ok) as url:
            gate = Gate("claims", "restricted", note=notes)
            async with open_client(gate, "candidate x", url) as client:
                for _ in range(3):
                    async with client.post(f"{url}/v1", BODY, {}, 2) as answer:
                        assert await answer.text() == "x"

    asyncio.run(go())
    [line] = notes
    assert line["kind"] == "egress"
    assert (line["who"], line["zone"], line["n_calls"]) == ("candidate x", "local", 3)
    assert line["rule"] == "configs/policies/egress.yaml, restricted x local: allow"
    assert "patient" not in json.dumps(notes)


@pytest.mark.parametrize("tier", [None, "typo", ""])
def test_an_unknown_tier_is_refused_on_this_machine_too(tier: str | None) -> None:
    notes = Notes()
    with listener() as (url, seen), pytest.raises(Refused, match="no tier"):
        post(Gate("claims", tier, note=notes), url)
    assert seen == []
    assert [line["allowed"] for line in notes] == [False]


def test_a_client_that_is_not_allowed_is_not_opened() -> None:
    async def go() -> None:
        async with open_client(Gate("claims", None), "x", "http://127.0.0.1:9"):
            raise AssertionError

    with pytest.raises(Refused):
        asyncio.run(go())


def test_a_refusal_says_who_where_why_and_what_to_do() -> None:
    with pytest.raises(Refused) as caught:
        egress.check(Gate("claims", "restricted"), "candidate sol", "https://8.8.8.8/v1")
    assert str(caught.value) == (
        "candidate sol: 8.8.8.8 is external, and the data of workload claims is restricted: "
        "configs/policies/egress.yaml, restricted x external: deny. Leave it out, or take a model "
        "that is local"
    )
    with pytest.raises(Refused, match=r"needs the consent of data-protection for workload claims"):
        egress.check(Gate("claims", "confidential"), "candidate sol", "https://8.8.8.8/v1")
    with pytest.raises(Refused, match="an external endpoint needs https"):
        egress.check(Gate("claims", "public"), "candidate sol", "http://8.8.8.8/v1")
    egress.check(Gate("claims", "public"), "candidate sol", "https://8.8.8.8/v1")
    assert Refused.exit_code == 4


def test_a_redirect_is_not_followed() -> None:
    async def go(other: str) -> int:
        async def moved(request: web.Request, body: dict[str, Any]) -> web.Response:
            return web.Response(status=302, headers={"Location": f"{other}/v1"})

        async with scripted_server("/v1", moved) as url:
            async with open_client(Gate("w", "public"), "x", url) as client:
                async with client.post(f"{url}/v1", BODY, {}, 2) as answer:
                    return answer.status

    with listener() as (other, seen):
        assert asyncio.run(go(other)) == 302
    assert seen == []


def test_a_client_speaks_to_its_endpoint_only() -> None:
    async def go(one: str, other: str) -> None:
        async with open_client(Gate("w", "public"), "x", one) as client:
            async with client.post(other, BODY, {}, 2):
                pass

    with listener() as (one, _), listener() as (other, seen):
        for strange in (other, one.replace("http", "https"), f"{one}@evil.test/"):
            with pytest.raises((Refused, ValueError)):
                asyncio.run(go(one, strange))
    assert seen == []


def test_a_proxy_of_the_environment_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ok(request: web.Request, body: dict[str, Any]) -> web.Response:
        return web.Response()

    async def go() -> int:
        async with scripted_server("/v1", ok) as url:
            async with open_client(Gate("w", "public"), "x", url) as client:
                async with client.post(f"{url}/v1", BODY, {}, 2) as answer:
                    return answer.status

    with listener() as (proxy, seen):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        assert asyncio.run(go()) == 200
    assert seen == []


class Rebinding(AbstractResolver):
    """What a hostile name server says after the check."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host, host=each, port=port, family=socket.AF_INET, proto=0, flags=0
            )
            for each in self.addresses
        ]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("169.254.169.254", "127.0.0.1")])
def test_a_name_that_moves_after_the_check_gets_no_connection(
    addresses: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def first(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.5", 80))]

    monkeypatch.setattr(zones.socket, "getaddrinfo", first)
    notes = Notes()
    gate = Gate("w", "public", note=notes)
    with listener() as (url, seen):
        name = url.replace("127.0.0.1", "gateway.test")
        with pytest.raises(Refused, match=r"gateway\.test was private and now leads to "):
            post(gate, name, resolver=Rebinding(*addresses))
    assert seen == []
    assert notes[-1]["allowed"] is False


def test_a_refusal_comes_through_retries_and_tasks_as_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pipelines import providers
    from pipelines.providers.hedge import hedged
    from tests.providers.conftest import REQUEST

    def first(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.5", 80))]

    monkeypatch.setattr(zones.socket, "getaddrinfo", first)
    notes = Notes()

    async def go() -> None:
        url = "http://gateway.test/v1"
        where = Endpoint(base_url=url)
        gate = Gate("w", "public", note=notes)
        async with (
            open_client(gate, "x", url, resolver=Rebinding("127.0.0.1")) as client,
            providers.load("openai_compatible")(where, client) as ask,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(hedged(ask, 0.01)(REQUEST))

    with pytest.raises(Refused):
        asyncio.run(go())
    assert sum(line["allowed"] is False for line in notes) == 1  # not tried again


def test_a_trail_that_cannot_be_written_stops_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_kind: str, fields: Mapping[str, Any]) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(zones, "zone_of", lambda _: "private")
    with listener() as (url, seen), pytest.raises(OSError, match="no space left"):
        post(Gate("w", "public", note=full), url)
    assert seen == []


def test_the_embedder_is_asked_for_no_vector_of_restricted_data() -> None:
    with listener() as (url, seen):
        with pytest.raises(Refused, match="the embedder: "):
            embed(["x"], Embedder(base_url="https://8.8.8.8/v1"), Gate("w", "restricted"))
        with pytest.raises(Refused):
            embed(["x"], Embedder(base_url=url))  # without a gate, nothing is known of the data
    assert seen == []


@pytest.mark.parametrize(
    ("uri", "refused"),
    [
        ("sqlite:////tmp/mlflow.db", False),
        ("/tmp/mlruns", False),
        ("file:///tmp/mlruns", False),
        ("http://127.0.0.1:5000", False),
        ("http://user:hunter2@127.0.0.1:5000", False),
        ("postgresql+psycopg2://user:hunter2@127.0.0.1/db", False),
        ("https://8.8.8.8", True),
        ("https://user:hunter2@8.8.8.8/mlflow", True),
        ("postgresql://user:hunter2@8.8.8.8/db", True),
        ("databricks", True),
        ("databricks://profile", True),
        ("http://169.254.169.254", True),
    ],
)
def test_rows_and_traces_stay_out_of_an_external_tracking_server(uri: str, refused: bool) -> None:
    gate = Gate("claims", "restricted")
    if not refused:
        egress.check_tracking(uri, gate)
        return
    with pytest.raises(Refused, match="the tracking server: ") as caught:
        egress.check_tracking(uri, gate)
    assert "hunter2" not in str(caught.value)


CONNECTS: list[Any] = []
WATCHING = threading.Event()


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event == "socket.connect" and WATCHING.is_set():
        CONNECTS.append(args[1])


@pytest.fixture
def connects() -> Generator[list[Any]]:
    """Addresses that this process connected to, told by the interpreter itself."""
    if not CONNECTS and not getattr(sys, "_freehold_hook", False):
        sys.addaudithook(_hook)
        sys._freehold_hook = True  # type: ignore[attr-defined]
    CONNECTS.clear()
    WATCHING.set()
    yield CONNECTS
    WATCHING.clear()


def study_of(path: Path, tier: str, *overrides: str) -> Study:
    return load_study(path, [f"workload.tier={tier}", *overrides])


def test_a_restricted_study_with_closed_models_opens_no_socket(
    small_study: Path, store_uri: str, connects: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    looked_up: list[str] = []
    monkeypatch.setattr(zones.socket, "getaddrinfo", lambda host, *_, **__: looked_up.append(host))
    study = study_of(
        small_study, "restricted",
        f"candidates.sol={{{RENT}, api_key_env: OPENAI_API_KEY}}",
        f"candidates.luna={{{RENT}, base_url: 'https://8.8.8.8/v1'}}",
        f"candidates.gateway={{{RENT}, base_url: 'http://10.1.2.3/v1'}}",
        f"judges.haiku={{{RENT.replace('openai_compatible', 'anthropic')}}}",
        "workload.metrics.good={metric: rubric, judges: [haiku], params: {rubric: x}}",
    )  # fmt: skip
    for dry_run in (True, False):
        with pytest.raises(Refused) as caught:
            evaluate_command.evaluate(study, Options(small_study, store_uri, dry_run, False))
        message = str(caught.value)
        assert "candidate sol: api.openai.com is external" in message
        assert "candidate luna: 8.8.8.8 is external" in message
        assert "candidate gateway: 10.1.2.3 is private" in message
        assert "restricted x private: require_approval" in message
        assert "judge haiku: api.anthropic.com is external" in message
        assert "frontier" not in message  # the stand-in answers on this machine
    assert connects == []
    assert looked_up == []


def test_a_load_test_of_what_is_refused_sends_nothing(small_study: Path, store_uri: str) -> None:
    from pipelines.benchmark import benchmark

    study = study_of(
        small_study, "confidential",
        f"candidates.luna={{{RENT}, base_url: 'https://8.8.8.8/v1'}}",
        "benchmark={candidates: [luna], rent: true, budget_usd: 1}",
    )  # fmt: skip
    with pytest.raises(Refused, match="candidate luna: 8.8.8.8 is external"):
        benchmark(study, Options(small_study, store_uri, True, False))
    check_allowed(study, [])


def test_a_restricted_study_runs_with_models_of_this_machine_alone(
    small_study: Path, store_uri: str, connects: list[Any]
) -> None:
    study = study_of(small_study, "restricted")
    assert evaluate_command.evaluate(study, Options(small_study, store_uri, False, False))
    hosts = {address[0] for address in connects if isinstance(address, tuple)}
    assert hosts == {"127.0.0.1"}


def test_the_audit_trail_has_the_calls_of_a_run_and_what_was_refused(
    small_study: Path, store_uri: str
) -> None:
    options = Options(small_study, store_uri, False, False)
    study = study_of(small_study, "restricted", "candidates=[frontier]")
    evaluate_command.evaluate(study, options)
    [asked] = [entry for entry in trail.read(egress.trail_path()) if entry.kind == "egress"]
    assert (asked.fields["who"], asked.fields["n_calls"]) == ("candidate frontier", 60)
    assert (asked.fields["zone"], asked.fields["tier"]) == ("local", "restricted")
    study = study_of(
        small_study, "restricted", f"candidates.luna={{{RENT}, base_url: 'https://8.8.8.8/v1'}}"
    )
    with pytest.raises(Refused):
        evaluate_command.evaluate(study, options)
    *_, refused = trail.read(egress.trail_path())
    assert (refused.fields["allowed"], refused.fields["host"]) == (False, "8.8.8.8")
    assert trail.verify(egress.trail_path(), [], []).ok


def test_the_command_refuses_with_exit_4(small_study: Path, store_uri: str) -> None:
    with threaded_server(lambda body: "refund") as server:
        luna = f"candidates.luna={{{RENT}, base_url: '{server.url}@8.8.8.8/v1'}}"
        done = subprocess.run(
            [
                sys.executable, "-m", "pipelines.evaluate", str(small_study), "--dry-run",
                "--tracking-uri", store_uri, "--set", "workload.tier=public", "--set", luna,
            ],
            capture_output=True, text=True, cwd=ROOT, check=False,
        )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "candidate luna: a user name or a password is in the endpoint" in done.stderr
    assert "Traceback" not in done.stderr
    assert server.n_requests == 0


ELSEWHERE = """
import asyncio, fcntl, hashlib, json, os, socket, ssl, struct, sys
from aiohttp import web
from pipelines import providers
from pipelines.core.errors import ProviderError, Refused
from pipelines.governance.egress import Gate, open_client
from pipelines.providers import ChatRequest, Endpoint
from pipelines.providers.hedge import hedged

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    for name, address in (("lo", "127.0.0.1"), ("lo:1", "10.9.8.7"), ("lo:2", "8.8.8.8")):
        request = struct.pack("16sH2s4s8x", name.encode(), 2, b"", socket.inet_aton(address))
        fcntl.ioctl(s, 0x8916, request)
        fcntl.ioctl(s, 0x8914, struct.pack("16sH14x", name.encode(), 0x41))
REQUEST = ChatRequest(model="m", messages=(), max_output_tokens=5)
bodies = []

async def answer(request):
    bodies.append(hashlib.sha256(await request.read()).hexdigest())
    if len(bodies) == 1:
        return web.Response(status=500)
    if len(bodies) == 3:
        await asyncio.sleep(2)
    event = {"choices": [{"delta": {"content": "hi"}, "finish_reason": "stop"}]}
    return web.Response(text=f"data: {json.dumps(event)}\\n\\n")

async def main():
    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(os.environ["SSL_CERT_FILE"])
    await web.TCPSite(runner, "0.0.0.0", 8443, ssl_context=tls).start()
    await web.TCPSite(runner, "0.0.0.0", 8080).start()
    for tier, url in (
        ("public", "https://8.8.8.8:8443/v1"),
        ("restricted", "https://8.8.8.8:8443/v1"),
        ("public", "http://8.8.8.8:8080/v1"),
        ("confidential", "http://10.9.8.7:8080/v1"),
        ("restricted", "http://10.9.8.7:8080/v1"),
        ("restricted", "http://127.0.0.1:8080/v1"),
    ):
        notes, before = [], len(bodies)
        gate = Gate("w", tier, note=lambda kind, fields: notes.append(fields))
        try:
            async with open_client(gate, "x", url) as client:
                connect = providers.load("openai_compatible")
                async with connect(Endpoint(base_url=url, timeout_s=5), client) as ask:
                    asked = ask if tier == "public" else hedged(ask, 0.2)
                    said = (await asked(REQUEST)).text
        except Refused:
            said = "refused"
        print(json.dumps([tier, url, said, bodies[before:], notes]))

asyncio.run(main())
"""


def in_an_empty_network(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a network namespace that has no way out."""
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "-rn", "true"], check=False).returncode:
        pytest.skip("needs `unshare -rn`: the kernel or the container forbids user namespaces")
    return subprocess.run(
        [unshare, "-rn", *command],
        capture_output=True, text=True, cwd=ROOT, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


def certificate(folder: Path) -> Path:
    """A key and a certificate for 8.8.8.8, in one file."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("8.8.8.8"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_real_addresses_of_each_zone_and_a_line_for_each_call_that_leaves(tmp_path: Path) -> None:
    """In a namespace whose loopback carries a private and a public address."""
    done = in_an_empty_network(
        sys.executable, "-c", textwrap.dedent(ELSEWHERE), SSL_CERT_FILE=str(certificate(tmp_path))
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    external, restricted, plain, private, unapproved, local = rows
    # Two tries after a 500 there, a slow call and its hedge here: each has a line with its digest.
    assert external[2] == "hi"
    assert len(external[3]) == len(private[3]) == 2
    assert [note["request_sha256"] for note in external[4]] == external[3]
    assert {(note["zone"], note["allowed"]) for note in external[4]} == {("external", True)}
    assert private[2] == "hi"
    assert [note["request_sha256"] for note in private[4]] == private[3]
    for row, zone in ((restricted, "external"), (plain, "external"), (unapproved, "private")):
        assert row[2:4] == ["refused", []]
        assert [(note["zone"], note["allowed"]) for note in row[4]] == [(zone, False)]
    assert local[2] == "hi"
    assert [note["n_calls"] for note in local[4]] == [1]


@pytest.mark.slow
def test_a_whole_evaluation_needs_nothing_but_loopback(small_study: Path, store_uri: str) -> None:
    script = (
        "import fcntl, runpy, socket, struct, sys\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "fcntl.ioctl(s, 0x8914, struct.pack('16sH14x', b'lo', 0x41))\n"
        "sys.argv = ['evaluate', *sys.argv[1:]]\n"
        "runpy.run_module('pipelines.evaluate', run_name='__main__')\n"
    )
    done = in_an_empty_network(
        sys.executable, "-c", script, str(small_study), "--offline", "--json",
        "--tracking-uri", store_uri, "--set", "workload.tier=restricted",
        "--set", "candidates=[frontier]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"]["frontier"]["n_errors"] == 0
