"""One stage = one MLflow run: found when it is done, taken up again when it was cut."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import subprocess
import tempfile
import time
import warnings
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from pydantic import BaseModel, ValidationError

import pipelines
from pipelines.core.errors import MissingRunError, UserError
from pipelines.core.json_lines import first_problem
from pipelines.core.paths import MLRUNS, ROOT
from pipelines.core.progress import printable, say
from pipelines.core.records import Record
from pipelines.governance import egress
from pipelines.governance.egress import Gate

ResultT = TypeVar("ResultT", bound=BaseModel)
RESULT_FILE = "result.json"
NOTE_TAG = "mlflow.note.content"
MAX_RESULT_BYTES = 64 * 1024**2
"""Of a result.json; what is larger is none."""
BATCH = 500
"""MLflow's REST interface takes at most 1,000 metrics a call."""


class _Connection:
    """What `connect` was told; MLflow's own connection is one per process, too."""

    gate: Gate | None = None


_connection = _Connection()


def connect(uri: str | None = None, gate: Gate | None = None) -> None:
    """Point MLflow at `uri`, else at $MLFLOW_TRACKING_URI, else at mlruns/mlflow.db.

    MLflow >= 3.13 refuses a plain ./mlruns file store, hence SQLite.

    Args:
        uri: of a database or a server.
        gate: of the study whose rows and traces will be written there; None = none are.

    Raises:
        UserError: the server does not answer, or the database cannot be used.
        Refused: the study's data must not go there.
    """
    # MLflow reports each migration of a new database, and pip problems nobody asked about.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"mlflow\..*")
    if uri is None:
        uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        MLRUNS.mkdir(exist_ok=True)
        uri = f"sqlite:///{MLRUNS / 'mlflow.db'}"
    egress.check_tracking(uri, gate)
    _connection.gate = gate
    # Fail in seconds, not after minutes of retries, when nobody listens there.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    mlflow.set_tracking_uri(uri)
    try:
        MlflowClient().search_experiments(max_results=1)
    except Exception as error:  # SQLAlchemy, requests and MLflow each raise their own
        reason = str(error).splitlines()[0][:300]
        message = f"MLflow store {uri} cannot be used: {reason}"
        raise UserError(_without_password(message, uri)) from None


@dataclass(frozen=True)
class Stage:
    """What identifies a stage: the same inputs mean the same run."""

    name: str
    workload: str
    inputs: Mapping[str, Any]
    """Everything the result depends on, as JSON values; becomes config.json."""
    candidate: str | None = None

    @property
    def label(self) -> str:
        """Name of the MLflow run."""
        return f"{self.name} {self.candidate}" if self.candidate else self.name

    @property
    def config_json(self) -> str:
        """Canonical JSON of the inputs."""
        everything = {
            "freehold_version": pipelines.__version__,
            "stage": self.name,
            "workload": self.workload,
            "candidate": self.candidate,
            **self.inputs,
        }
        return json.dumps(everything, indent=2, sort_keys=True, default=str)

    @property
    def config_sha256(self) -> str:
        """Digest of the inputs: the key under which the run is found again."""
        return hashlib.sha256(self.config_json.encode()).hexdigest()

    @property
    def work_dir(self) -> Path:
        """Folder for what a cut run leaves for the next one: checkpoints, journals, logs."""
        return work_root() / f"{self.name}-{self.config_sha256[:16]}"


class StageRun:
    """Handle on the open MLflow run of one stage."""

    def __init__(self, run_id: str, experiment_id: str, stage: Stage) -> None:
        """Made by `open_run`."""
        self.run_id = run_id
        self.experiment_id = experiment_id
        self.stage = stage
        self._client = MlflowClient()

    def log_metrics(
        self, values: Mapping[str, float | None], *, step: int = 0, model_id: str | None = None
    ) -> None:
        """Log numbers; None (not measured) is left out."""
        now = int(time.time() * 1000)
        metrics = [
            Metric(key, float(value), now, step, model_id=model_id, run_id=self.run_id)
            for key, value in values.items()
            if value is not None
        ]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + BATCH])

    def log_params(self, values: Mapping[str, object]) -> None:
        """Log settings; MLflow keeps them as text."""
        params = [Param(key, str(value)) for key, value in values.items()]
        self._client.log_batch(self.run_id, params=params)

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the run."""
        tags = [RunTag(key, value) for key, value in values.items()]
        self._client.log_batch(self.run_id, tags=tags)

    def describe(self, text: str) -> None:
        """Set the description that the UI shows on top of the run; Markdown."""
        self.set_tags({NOTE_TAG: harmless(text)})

    def log_text(self, text: str, name: str) -> None:
        """Store a text file among the artifacts."""
        self._client.log_text(self.run_id, text, name)

    def log_folder(self, folder: Path, name: str) -> None:
        """Store a folder among the artifacts."""
        self._client.log_artifacts(self.run_id, str(folder), name)

    def log_rows(self, name: str, rows: Iterable[Record | bytes]) -> None:
        """Store rows, or lines of JSON, as one JSON Lines artifact `name`."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            with path.open("wb") as file:
                file.writelines(
                    row if isinstance(row, bytes) else row.model_dump_json().encode() + b"\n"
                    for row in rows
                )
            self._client.log_artifact(self.run_id, str(path))

    def log_dataset(self, path_or_name: str, sha256: str, n_rows: int, context: str) -> None:
        """Record a data set as the run's input, with its digest."""
        dataset = MetaDataset(
            CodeDatasetSource({"name": path_or_name}),
            name=f"{Path(path_or_name).name} ({n_rows} rows)",
            digest=sha256[:36],
        )
        tag = InputTag("mlflow.data.context", context)
        entry = DatasetInput(dataset._to_mlflow_entity(), [tag])
        self._client.log_inputs(self.run_id, datasets=[entry])

    def log_candidate(self, name: str, params: Mapping[str, str], files: Path | None) -> str:
        """Create the LoggedModel that stands for a candidate; returns its id.

        Args:
            name: the candidate's.
            params: what it is, for the UI.
            files: folder to keep with it (the adapter); None for a rented one.
        """
        model = mlflow.create_external_model(
            name=name,
            source_run_id=self.run_id,
            params=dict(params),
            model_type="llm",
            experiment_id=self.experiment_id,
        )
        if files is not None:
            check_place(model.artifact_location)
            self._client.log_model_artifacts(model.model_id, str(files))
        return str(model.model_id)

    def save_result(self, result: BaseModel) -> None:
        """Write result.json, which the next stage reads."""
        self.log_text(result.model_dump_json(indent=2), RESULT_FILE)


@contextmanager
def open_run(
    stage: Stage,
    *,
    data_sha256: str,
    inputs: Mapping[str, str],
    description: str,
    parent: str | None = None,
) -> Generator[StageRun]:
    """Open the stage's run, or the one that a kill or a failure left behind.

    Args:
        stage: what runs.
        data_sha256: digest of the rows it works on.
        inputs: stage name -> id of the run that was read; become `input.*` tags (the lineage).
        description: Markdown for the UI.
        parent: id of the run under which the UI shows this one; None = it stands for itself.

    Raises:
        UserError: another process runs the same stage at this moment.
    """
    client = MlflowClient()
    stage.work_dir.mkdir(parents=True, exist_ok=True)
    with _locked(stage):
        experiment_id = _experiment(client, stage.workload)
        tags = {
            "stage": stage.name,
            "workload": stage.workload,
            "config_sha256": stage.config_sha256,
            "data_sha256": data_sha256,
            "git_commit": _git_commit(),
            "freehold_version": pipelines.__version__,
            NOTE_TAG: harmless(description),
            **({"candidate": stage.candidate} if stage.candidate else {}),
            **({MLFLOW_PARENT_RUN_ID: parent} if parent else {}),
            **{f"input.{name}": run_id for name, run_id in inputs.items()},
        }
        cut = _search(stage, "attributes.status != 'FINISHED'")
        if cut is not None:
            run_id = cut.info.run_id
            check_place(cut.info.artifact_uri)
            client.update_run(run_id, status="RUNNING")
            client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])
            say(f"{stage.label}: going on with run {run_id}")
        else:
            run = client.create_run(experiment_id, tags=tags, run_name=stage.label)
            run_id = run.info.run_id
            check_place(run.info.artifact_uri)
        handle = StageRun(run_id, experiment_id, stage)
        handle.log_text(stage.config_json, "config.json")
        try:
            yield handle
        except BaseException as error:
            status = "FAILED" if isinstance(error, Exception) else "KILLED"
            client.set_terminated(run_id, status)
            raise
        client.set_terminated(run_id, "FINISHED")


def find_finished(stage: Stage) -> str | None:
    """Id of the finished run of exactly this stage, None when there is none to reuse."""
    run = _search(stage, "attributes.status = 'FINISHED'")
    # A run with failed calls is a result, but the next run tries to do better.
    return None if run is None or run.data.tags.get("reusable") == "false" else run.info.run_id


def find_newest(name: str, workload: str) -> str | None:
    """Id of the newest finished run of stage `name`, whatever its inputs were."""
    client = MlflowClient()
    experiment = client.get_experiment_by_name(workload)
    if experiment is None:
        return None
    runs = client.search_runs(
        [experiment.experiment_id],
        f"tags.stage = '{name}' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return runs[0].info.run_id if runs else None


def load_result(run_id: str, result_type: type[ResultT]) -> ResultT:
    """Read the result that a stage saved.

    Raises:
        MissingRunError: the run has none, or something else in its place.
    """
    path = artifact(run_id, RESULT_FILE)
    try:
        if path.stat().st_size > MAX_RESULT_BYTES:
            raise ValueError(f"it has {path.stat().st_size:,} bytes")
        return result_type.model_validate_json(path.read_bytes())
    except ValueError as error:
        problem = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise MissingRunError(
            f"run {run_id}: {RESULT_FILE} is not what this version writes ({problem}); "
            "delete the run in the MLflow UI and run the stage again"
        ) from None


def artifact(run_id: str, name: str) -> Path:
    """Local path of a run's file or folder; a remote one is downloaded.

    Raises:
        MissingRunError: the run or the artifact is gone.
        UserError: a tracking server says that it lies on this machine.
    """
    try:
        uri = f"{MlflowClient().get_run(run_id).info.artifact_uri}/{name}"
        check_place(uri)
        if urlsplit(uri).scheme in ("", "file"):
            path = Path(local_file_uri_to_path(uri))
            if not path.exists():
                raise FileNotFoundError(path)
            return path
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))  # pyright: ignore[reportPrivateImportUsage]
    except (MlflowException, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise MissingRunError(
            f"run {run_id} has no artifact {name} any more ({reason}); "
            "delete the run in the MLflow UI and run the stage again"
        ) from None


def set_experiment_note(workload: str, text: str) -> None:
    """Markdown on top of the workload's page in the UI."""
    client = MlflowClient()
    client.set_experiment_tag(_experiment(client, workload), NOTE_TAG, harmless(text))


def harmless(markdown: str) -> str:
    """Markdown without HTML, images and links: the UI would fetch what a name or answer names."""
    text = re.sub(r"\\?<", "&lt;", printable(markdown))
    return re.sub(r"\](\s*)([(:])", r"]\1\\\2", text)


def is_sqlite() -> bool:
    """True when the store is a database file of this machine."""
    return _sqlite_folder() is not None


def work_root() -> Path:
    """Folder on this machine for what outlives a process but is no result."""
    return (_sqlite_folder() or MLRUNS) / "work"


def ui_command() -> str:
    """What to type to open the MLflow UI on this store."""
    uri = mlflow.get_tracking_uri()
    if uri.startswith("http"):
        return f"open {_without_password(uri, uri)}"
    # One worker without the job runner takes 0.5 GB; the default takes 3.1 GB.
    return (
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false .venv/bin/mlflow ui --workers 1 "
        f"--backend-store-uri {uri}"
    )


def check_place(artifact_uri: str | None) -> None:
    """A server's answer must not choose where a study's files go.

    Raises:
        UserError: it names a folder of this machine to read from or write to.
        Refused: the study's data must not go there.
    """
    egress.check_artifacts(artifact_uri or "", _connection.gate)
    local = urlsplit(artifact_uri or "").scheme in ("", "file")
    if local and mlflow.get_tracking_uri().startswith("http"):
        raise UserError(
            f"the tracking server keeps its artifacts in {artifact_uri}, a folder of this machine "
            "by its form; start it with --artifacts-destination, so that they go through it"
        )


def _search(stage: Stage, condition: str) -> Run | None:
    client = MlflowClient()
    experiment = client.get_experiment_by_name(stage.workload)
    if experiment is None:
        return None
    runs = client.search_runs(
        [experiment.experiment_id],
        f"tags.stage = '{stage.name}' and tags.config_sha256 = '{stage.config_sha256}' "
        f"and {condition}",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return runs[0] if runs else None


def _experiment(client: MlflowClient, workload: str) -> str:
    """Id of the workload's experiment.

    Raises:
        UserError: it was deleted in the UI.
    """
    experiment = client.get_experiment_by_name(workload)
    if experiment is not None:
        if experiment.lifecycle_stage != "active":
            raise UserError(
                f"MLflow experiment {workload!r} was deleted. Restore it in the UI or with "
                f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`"
            )
        return str(experiment.experiment_id)
    location = None
    if (folder := _sqlite_folder()) is not None:
        location = (folder / "artifacts" / workload).as_uri()
    return str(client.create_experiment(workload, artifact_location=location))


def _sqlite_folder() -> Path | None:
    uri = mlflow.get_tracking_uri()
    return (
        Path(uri.removeprefix("sqlite:///")).resolve().parent if uri.startswith("sqlite:") else None
    )


@contextmanager
def _locked(stage: Stage) -> Generator[None]:
    """Two processes must not write the same run; the kernel drops the lock of a dead one."""
    with (stage.work_dir / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{stage.label}: another process is running this stage; wait for it or stop it"
            ) from None
        yield


def _git_commit() -> str:
    """Commit of the code, with `-dirty` when files are changed; `unknown` outside of git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def _without_password(text: str, uri: str) -> str:
    """`text` with the password that `uri` carries blanked out; libraries quote the whole URI."""
    password = urlsplit(uri).password
    return text.replace(password, "***") if password else text
