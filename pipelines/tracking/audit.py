"""Decisions, approvals, promotions and refusals in the audit trail."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from pydantic import JsonValue

from pipelines.core.errors import Refused
from pipelines.governance.egress import trail_path
from pipelines.governance.trail import Trail

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
