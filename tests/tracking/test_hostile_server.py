"""A tracking server that lies: it chooses no folder of ours, runs nothing and is not believed."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from pipelines.core.errors import MissingRunError, Refused, UserError
from pipelines.core.records import Estimate
from pipelines.governance.egress import Gate
from pipelines.tracking import registry, store

RUN = "0123456789abcdef0123456789abcdef"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


class Liar:
    """Answers as MLflow's REST interface does, with what a test puts into it."""

    def __init__(self) -> None:
        """Listen on loopback."""
        self.artifact_uri = f"mlflow-artifacts:/0/{RUN}/artifacts"
        self.version_uri = self.artifact_uri
        self.listed: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"] or 0))
                self._answer()

            def _answer(self) -> None:
                body = owner.answer(self.path)
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, target: str) -> bytes | None:
        """The body for a request; None = 404."""
        parts = urlsplit(target)
        path, info = unquote(parts.path), self._info()
        if path.startswith(f"{ARTIFACTS}/"):
            return self.files.get(path.rpartition("/")[2])
        asked = parse_qs(parts.query).get("path", [""])[0]
        answers: dict[str, Any] = {
            ARTIFACTS: {"files": [] if asked.endswith(".json") else self.listed},
            "/api/2.0/mlflow/experiments/search": {"experiments": []},
            "/api/2.0/mlflow/experiments/get-by-name": {
                "experiment": {
                    "experiment_id": "0", "name": "small", "lifecycle_stage": "active",
                    "artifact_location": self.artifact_uri,
                }
            },
            "/api/2.0/mlflow/runs/search": {"runs": []},
            "/api/2.0/mlflow/runs/create": {"run": {"info": info, "data": {}}},
            "/api/2.0/mlflow/runs/get": {"run": {"info": info, "data": {}}},
            "/api/2.0/mlflow/runs/update": {"run_info": info},
            "/api/2.0/mlflow/registered-models/get": {"registered_model": {"name": "small"}},
            "/api/2.0/mlflow/model-versions/get-download-uri": {"artifact_uri": self.version_uri},
        }  # fmt: skip
        found = answers.get(path)
        return None if found is None else json.dumps(found).encode()

    def _info(self) -> dict[str, Any]:
        return {
            "run_id": RUN, "run_uuid": RUN, "run_name": "prepare", "experiment_id": "0",
            "user_id": "", "status": "FINISHED", "start_time": 1, "end_time": 2,
            "lifecycle_stage": "active", "artifact_uri": self.artifact_uri,
        }  # fmt: skip


@pytest.fixture
def liar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Liar]:
    monkeypatch.setattr(store, "MLRUNS", tmp_path / "mlruns")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    found = Liar()
    try:
        store.connect(found.url)
        yield found
    finally:
        found.server.shutdown()
        found.server.server_close()


HALF = Estimate(mean=0.5, low=0.4, high=0.6, n_scored=24, n_total=24)


def test_what_is_right_is_read(liar: Liar) -> None:
    liar.files["result.json"] = HALF.model_dump_json().encode()
    assert store.load_result(RUN, Estimate) == HALF


@pytest.mark.parametrize(
    "body",
    [
        b'{"mean": "high", "low": [], "high": {}, "n_scored": null, "n_total": 24}',
        b'{"mean": 0.5}',
        b"[" * 100_000,
        b"\x80\x04\x95not JSON: a pickle",
        b"",
        b"5",
    ],
    ids=["types", "missing", "deep", "pickle", "empty", "number"],
)
def test_a_result_of_another_form_is_no_result(liar: Liar, body: bytes) -> None:
    liar.files["result.json"] = body
    with pytest.raises(MissingRunError, match=rf"run {RUN}: result\.json is not what") as caught:
        store.load_result(RUN, Estimate)
    assert len(str(caught.value)) < 500


def test_a_result_that_is_too_large_is_not_read(
    liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar.files["result.json"] = HALF.model_dump_json().encode() + b" " * 5000
    assert store.load_result(RUN, Estimate) == HALF
    monkeypatch.setattr(store, "MAX_RESULT_BYTES", 5000)
    with pytest.raises(MissingRunError, match=r"is not what .* \(it has 5,\d{3} bytes\)"):
        store.load_result(RUN, Estimate)


@pytest.mark.parametrize("place", ["file://{0}", "{0}", "file:{0}", "FILE://{0}"])
def test_it_names_no_folder_of_this_machine(liar: Liar, tmp_path: Path, place: str) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "result.json").write_text(HALF.model_dump_json())
    liar.artifact_uri = liar.version_uri = place.format(mine)
    with pytest.raises(UserError, match="a folder of this machine"):
        store.load_result(RUN, Estimate)
    with pytest.raises(UserError, match="a folder of this machine"):
        registry.download("small", "1", tmp_path)
    with pytest.raises(UserError, match="a folder of this machine"):
        with store.open_run(
            store.Stage("prepare", "small", {}), data_sha256="d", inputs={}, description=""
        ):
            raise AssertionError("nothing may be written there")
    assert sorted(each.name for each in mine.iterdir()) == ["result.json"]


@pytest.mark.parametrize(
    "place", ["s3://bucket/x", "gs://bucket/x", "wasbs://c@account.example/x", "http://10.1.2.3/x"]
)
def test_it_sends_restricted_rows_to_no_store_of_its_choice(
    liar: Liar, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    store.connect(liar.url, Gate("small", "restricted"))
    liar.artifact_uri = place
    with pytest.raises(Refused, match=r"the artifact store: .* of workload small is restricted"):
        with store.open_run(
            store.Stage("prepare", "small", {}), data_sha256="d", inputs={}, description=""
        ):
            raise AssertionError("nothing may be written there")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9000")  # an own one
    store.check_place("s3://bucket/x")
    store.connect(liar.url, Gate("small", "public"))
    store.check_place("gs://bucket/x")


def test_a_folder_is_fetched(liar: Liar, tmp_path: Path) -> None:
    liar.listed = [{"path": "planted.json", "is_dir": False, "file_size": 2}]
    liar.files["planted.json"] = b"{}"
    fetched = registry.folder_of(RUN, "adapter", tmp_path)
    assert [each.name for each in fetched.iterdir()] == ["planted.json"]


@pytest.mark.parametrize(
    "name",
    ["../../planted.json", "/tmp/planted.json", "adapter/../../planted.json",
     "..\\..\\planted.json", "%2e%2e/%2e%2e/planted.json"],
)  # fmt: skip
def test_a_file_is_not_written_outside_the_folder_it_belongs_to(
    liar: Liar, tmp_path: Path, name: str
) -> None:
    liar.listed = [{"path": name, "is_dir": False, "file_size": 2}]
    liar.files["planted.json"] = b"{}"
    with pytest.raises((MissingRunError, UserError)):
        registry.folder_of(RUN, "adapter", tmp_path)
    planted = [Path(where, "planted.json") for where, _, names in os.walk(tmp_path)
               if "planted.json" in names]  # fmt: skip
    assert planted == []
    assert not Path("/tmp/planted.json").exists()
