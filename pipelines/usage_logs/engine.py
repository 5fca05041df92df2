"""The engine that reads usage logs, its limits, and what it says when it cannot."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb

from pipelines.core.errors import ConfigError, DataError
from pipelines.core.usage_log import GroupedBy
from pipelines.usage_logs.calls import NAMED, SETUP
from pipelines.usage_logs.source import Source, first_line

MEMORY_GIB = 3.0
"""What the engine may use before it writes to its temporary folder."""


def telling(group_by: GroupedBy | None) -> Sequence[str]:
    """What a workload's name may be taken from, the most telling first.

    Raises:
        ConfigError: `group_by` is unknown.
    """
    if group_by is None:
        return NAMED
    if group_by not in NAMED:
        raise ConfigError(f"no grouping by {group_by!r}; choose one of {', '.join(NAMED)}")
    return NAMED[NAMED.index(group_by) :]


def named(show_prompts: bool = False) -> str:
    """SQL of a workload's name: a system prompt is shown by its first words, or its digest."""
    words = r"left(trim(regexp_replace(workload, '\s+', ' ', 'g')), 60)"
    prompt = words if show_prompts else "'prompt ' || left(md5(workload), 12)"
    return f"CASE WHEN grouped_by = 'prompt' THEN {prompt} ELSE workload END"


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def opened(memory_gib: float) -> Generator[tuple[duckdb.DuckDBPyConnection, Path]]:
    """An engine that loads nothing from the network, and its folder, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="freehold-") as folder:
        engine = duckdb.connect(
            config={
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "memory_limit": f"{memory_gib}GiB",
                "temp_directory": str(Path(folder, "spill")),
                "threads": n_cores(),
                # What one file took, the next one takes: given back in between, it costs anew.
                "allocator_flush_threshold": f"{memory_gib}GiB",
                "allocator_bulk_deallocation_flush_threshold": f"{memory_gib}GiB",
            }
        )
        try:
            engine.execute(SETUP)
            yield engine, Path(folder)
        finally:
            engine.close()


@contextmanager
def explained(sources: Iterable[Source], memory_gib: float) -> Generator[None]:
    """Turn the engine's errors into ours."""
    try:
        yield
    except duckdb.OutOfMemoryException:
        raise DataError(
            f"usage logs: {memory_gib:g} GiB of memory are not enough; read fewer files at once, "
            "or group by something with fewer values"
        ) from None
    except duckdb.Error as error:
        message = first_line(error)
        for each in sources:
            message = message.replace(each.path, each.name)
        raise DataError(f"usage logs cannot be read: {message}") from None
