"""Decisions, approvals, promotions and refusals in the audit trail; the anchors that sign it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from mlflow import MlflowClient
from pydantic import JsonValue

from pipelines.core.errors import MissingRunError, Refused
from pipelines.core.results import PromoteResult
from pipelines.governance import seal
from pipelines.governance.egress import trail_path
from pipelines.governance.seal import Bundle
from pipelines.governance.trail import Trail
from pipelines.tracking import store

MAX_REASON = 2_000


def trail() -> Trail:
    """The one that the calls to models are noted in, too."""
    return Trail(trail_path())


def note(kind: str, **fields: JsonValue) -> None:
    """Add one line: digests, names and figures, no content.

    Raises:
        UserError: the trail cannot be written; nothing goes on without it.
    """
    trail().append(kind, **fields)


@contextmanager
def refusals(kind: str, **fields: JsonValue) -> Generator[None]:
    """Note a refusal that comes out of the block, with its reason."""
    try:
        yield
    except Refused as error:
        note(kind, **fields, reason=str(error)[:MAX_REASON])
        raise


def anchors(workload: str) -> dict[str, Bundle | Refused]:
    """The anchors of the trail that promotions of a workload left in the store; not trusted.

    Returns:
        By promote run, oldest first; Refused = the run should have one, and why there is none.
    """
    client = MlflowClient()
    experiment = client.get_experiment_by_name(workload)
    if experiment is None:
        return {}
    runs = client.search_runs(
        [experiment.experiment_id],
        "tags.stage = 'promote' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time ASC"],
    )
    found: dict[str, Bundle | Refused] = {}
    for run_id in (each.info.run_id for each in runs):
        try:
            if name := store.load_result(run_id, PromoteResult).anchor:
                found[run_id] = seal.read(store.artifact(run_id, name))
        except Refused as error:
            found[run_id] = error
        except MissingRunError as error:
            found[run_id] = Refused(str(error))
    return found
