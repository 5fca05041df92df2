"""The model registry: one registered model per workload, its versions are candidates."""

from __future__ import annotations

from collections.abc import Mapping

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

CHAMPION = "champion"
MODEL_ID = "model_id"
"""Tag of a version; MLflow's own field of this name is empty in search results."""


def promote(workload: str, model_id: str, tags: Mapping[str, str], description: str) -> str:
    """Register a candidate as a version of the workload's model and move `champion` to it.

    A candidate that is a version already is not registered twice.

    Returns:
        The version.
    """
    client = MlflowClient()
    source = f"models:/{model_id}"
    version = _version_of(client, workload, model_id)
    if version is None:
        version = str(mlflow.register_model(source, workload).version)
    for key, value in {**tags, MODEL_ID: model_id}.items():
        client.set_model_version_tag(workload, version, key, value)
    client.update_model_version(workload, version, description)
    client.set_registered_model_alias(workload, CHAMPION, version)
    return version


def champion(workload: str) -> str | None:
    """Version that holds the alias, None when nobody was promoted yet."""
    try:
        return str(MlflowClient().get_model_version_by_alias(workload, CHAMPION).version)
    except MlflowException:
        return None


def _version_of(client: MlflowClient, workload: str, model_id: str) -> str | None:
    for version in client.search_model_versions(f"name = '{workload}'"):
        if version.tags.get(MODEL_ID) == model_id:
            return str(version.version)
    return None
