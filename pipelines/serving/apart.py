"""A server in a process of its own: in that of the sender it would hold up what has to be sent."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from pipelines.core.candidate import Candidate, Own, Rent, Serving
from pipelines.core.errors import ServerError
from pipelines.core.paths import ROOT
from pipelines.core.records import Example, Record, TrainingRow
from pipelines.serving import candidate_server

CODE = "from pipelines.serving.apart import serve_apart; serve_apart()"
"""What the other process runs."""


class Served(Record):
    """What the other process answers for."""

    candidate: Candidate
    items: tuple[Example, ...]
    rows: tuple[TrainingRow, ...]


@contextmanager
def serve(
    candidate: Candidate,
    examples: Sequence[Example],
    train: Callable[[], Sequence[TrainingRow]],
    vllm: Callable[[Serving], str],
) -> Generator[str | None]:
    """Start what answers for `candidate`; yields its base URL, None for a provider's public one.

    Args:
        candidate: rented, own or classical.
        examples: the items, from whose targets a stand-in answers.
        train: reads the training rows; called for a classical model.
        vllm: starts the server of the own candidates, or finds it running; gives its URL.

    Raises:
        ServerError: the process ended before its server was up.
    """
    if isinstance(candidate, Own):
        yield vllm(candidate.serving)
        return
    if isinstance(candidate, Rent) and not candidate.simulated:
        yield candidate.base_url
        return
    rows = train() if candidate.kind == "baseline" else []
    what = Served(candidate=candidate, items=tuple(examples), rows=tuple(rows))
    process = subprocess.Popen(
        [sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(what.model_dump_json().encode() + b"\n")
        process.stdin.flush()
        url = next((line for line in process.stdout if line.startswith(b"http://")), b"")
        if not url:
            raise ServerError(f"{candidate.title}: its server ended before it was ready")
        yield url.decode().strip()
    finally:
        process.kill()
        process.communicate()


def serve_apart() -> None:
    """Serve what stdin says, print the base URL, and end when stdin does: with the parent."""
    what = Served.model_validate_json(sys.stdin.buffer.readline())

    def no_vllm() -> str:
        raise AssertionError("own models are served elsewhere")

    async def run() -> None:
        async with candidate_server.serve(
            what.candidate, what.items, lambda: what.rows, no_vllm
        ) as url:
            sys.stdout.write(f"{url}\n")
            sys.stdout.flush()
            await asyncio.to_thread(sys.stdin.buffer.read)

    asyncio.run(run())
