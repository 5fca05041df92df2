"""System prompts in MLflow's prompt registry: one prompt per workload, one version per wording."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipelines.tracking.store import StageRun

NO_PROMPT = "none"


def link(run: StageRun, workload: str, text: str) -> str:
    """Register `text` if it is new, and link it to the run.

    Returns:
        Its address, such as `prompts:/support-instructions/2`; `none` for an empty prompt.
    """
    if not text:
        return NO_PROMPT
    client, name = MlflowClient(), f"{workload}-instructions"
    version = next((v for v in _versions(client, name) if v.template == text), None)
    if version is None:
        version = client.register_prompt(name=name, template=text)
    client.link_prompt_version_to_run(run.run_id, version)
    return str(version.uri)


def _versions(client: MlflowClient, name: str) -> list:
    try:
        found = client.search_prompt_versions(name)
    except MlflowException:  # the first version makes the prompt
        return []
    # The listing of some stores leaves the template out.
    return [v if v.template else client.get_prompt_version(name, str(v.version)) for v in found]
