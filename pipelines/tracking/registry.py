"""The model registry: one registered model per workload, its versions are candidates."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from requests import HTTPError

from pipelines.core.errors import MissingRunError, Refused
from pipelines.tracking.store import check_place, harmless

CHAMPION = "champion"
MODEL_ID = "model_id"
"""Tag of a version; MLflow's own field of this name is empty in search results."""
APPROVAL_RUN = "approval_run_id"
"""Tag of a version: the run that holds the request for approval and the signatures. It is a hint,
like everything else that an editor of the registry can write."""
MLFLOW_FILE = "MLmodel"
"""MLflow's own note among a model's files; no loader of ours reads it."""
NOBODY = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
FORBIDDEN = {"PERMISSION_DENIED": "is not allowed to", "UNAUTHENTICATED": "has to log in to"}


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    workload: str
    number: str
    tags: Mapping[str, str]


def register(workload: str, model_id: str, tags: Mapping[str, str], description: str) -> str:
    """Register a candidate as a version of the workload's model; no alias is moved.

    A candidate that is a version already is not registered twice.

    Returns:
        The version.
    """
    client = MlflowClient()
    version = _version_of(client, workload, model_id)
    if version is None:
        version = str(mlflow.register_model(f"models:/{model_id}", workload).version)
    for key, value in {**tags, MODEL_ID: model_id}.items():
        client.set_model_version_tag(workload, version, key, value)
    client.update_model_version(workload, version, harmless(description))
    return version


def crown(workload: str, version: str) -> None:
    """Move `champion` to a version."""
    MlflowClient().set_registered_model_alias(workload, CHAMPION, version)


def tag(workload: str, version: str, values: Mapping[str, str]) -> None:
    """Set tags of a version."""
    for key, value in values.items():
        MlflowClient().set_model_version_tag(workload, version, key, value)


def champion(workload: str) -> Version | None:
    """The version that holds the alias, None when nobody was promoted yet."""
    try:
        found = MlflowClient().get_model_version_by_alias(workload, CHAMPION)
    except MlflowException as error:
        if error.error_code in NOBODY:
            return None
        raise
    return Version(workload, str(found.version), dict(found.tags))


def download(workload: str, version: str, into: Path) -> Path:
    """A copy of a version's files that nobody else can change; links stay links.

    Args:
        workload: the registered model.
        version: of it.
        into: private folder.

    Returns:
        Folder of the adapter; empty where the candidate has no files.

    Raises:
        MissingRunError: the files are gone.
        UserError: a tracking server says that they lie on this machine.
    """
    to = into / "adapter"
    try:
        uri = MlflowClient().get_model_version_download_uri(workload, version)
        check_place(uri)
        if urlsplit(uri).scheme in ("", "file"):
            shutil.copytree(local_file_uri_to_path(uri), to, symlinks=True)
        else:
            _fetch(to, artifact_uri=uri)
    except OSError as error:
        if _forbidden(error):
            raise
        raise MissingRunError(
            f"the files of version {version} of {workload} are not in the store any more "
            f"({str(error)[:200]}); evaluate and decide again"
        ) from None
    if (note := to / MLFLOW_FILE).is_file():
        note.unlink()
    return to


def add_file(run_id: str, folder: str, name: str, text: str) -> None:
    """Put one more file among the artifacts of a run, finished or not."""
    MlflowClient().log_text(run_id, text, f"{folder}/{name}")


def folder_of(run_id: str, name: str, into: Path) -> Path:
    """A fresh copy of a folder among the artifacts of a run.

    Raises:
        MissingRunError: the run or the folder is gone.
    """
    try:
        return _fetch(into / name, run_id=run_id, artifact_path=name)
    except (MlflowException, OSError) as error:
        if _forbidden(error):
            raise
        raise MissingRunError(
            f"run {run_id} has no artifact {name} any more ({str(error).splitlines()[0][:200]})"
        ) from None


def _forbidden(error: Exception) -> str | None:
    """What is wrong with the user; None where something else is wrong."""
    if isinstance(error, HTTPError):  # as artifacts answer
        status = None if error.response is None else error.response.status_code
        code = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}.get(status or 0, "")
    else:
        code = str(getattr(error, "error_code", ""))
    return FORBIDDEN.get(code)


def _fetch(to: Path, **what: str) -> Path:
    """Download, and bring to `to` whatever MLflow calls the folder."""
    with tempfile.TemporaryDirectory(dir=to.parent) as scratch:
        found = mlflow.artifacts.download_artifacts(**what, dst_path=scratch)  # pyright: ignore
        return Path(shutil.copytree(found, to))


def input_of(run_id: str, stage: str) -> str | None:
    """Id of the run of a stage that a run was made from; None = of none."""
    return MlflowClient().get_run(run_id).data.tags.get(f"input.{stage}")


@contextmanager
def permitted(workload: str) -> Generator[None]:
    """Turn the tracking server's no into ours.

    Raises:
        Refused: the server does not allow what the block wants.
    """
    try:
        yield
    except (MlflowException, HTTPError) as error:
        if (verb := _forbidden(error)) is None:
            raise
        user = os.environ.get("MLFLOW_TRACKING_USERNAME")
        raise Refused(
            f"{f'MLflow user {user}' if user else 'nobody in particular'} {verb} change "
            f"{workload} on the tracking server. Set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD to a user with EDIT permission for the experiment and the "
            f"registered model {workload}, or have an administrator grant it"
        ) from None


def _version_of(client: MlflowClient, workload: str, model_id: str) -> str | None:
    for version in client.search_model_versions(f"name = '{workload}'"):
        if version.tags.get(MODEL_ID) == model_id:
            return str(version.version)
    return None
