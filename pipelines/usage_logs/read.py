"""Read usage logs with DuckDB: every row once, summed by what sets its price."""

# ruff: noqa: S608 - what comes from outside is quoted by `literal` and `identifier`

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from pipelines.core.errors import DataError
from pipelines.core.usage_log import (
    BadRow,
    BilledLine,
    GroupedBy,
    SourceFile,
    UsageGroup,
    UsageLog,
)
from pipelines.usage_logs import formats
from pipelines.usage_logs.alike import Alike, alike
from pipelines.usage_logs.calls import (
    BILL_REASON,
    GROUPED,
    KEYS,
    NAMED,
    NO_LINE,
    SESSION,
    SUMMED,
    SUMS,
    canonical,
    constant,
    keyed,
    keys,
)
from pipelines.usage_logs.engine import MEMORY_GIB, explained, n_cores, named, opened, telling
from pipelines.usage_logs.formats import Shape
from pipelines.usage_logs.formats.fields import literal
from pipelines.usage_logs.prompts import prompts as prompts
from pipelines.usage_logs.source import Found, Source, find, lines_of

N_LISTED = 20
"""Rows listed of each thing that is wrong; the rest are counted."""
MAX_GROUPS = 500_000
"""Days x workloads x models x hours; more come from a name that differs from call to call."""
PROVIDERS = {
    "aws.bedrock": "bedrock", "aws_bedrock": "bedrock", "amazon_bedrock": "bedrock",
    "az.ai.openai": "azure", "azure.ai.openai": "azure", "azure_openai": "azure",
    "az.ai.inference": "azure_ai", "azure.ai.inference": "azure_ai",
    "gcp.gemini": "gemini", "gcp.gen_ai": "gemini", "google": "gemini", "google_genai": "gemini",
    "gcp.vertex_ai": "vertex_ai", "vertexai": "vertex_ai", "google_vertex": "vertex_ai",
    "mistral_ai": "mistral", "mistralai": "mistral", "x_ai": "xai", "together": "together_ai",
}  # fmt: skip
"""What logs call a provider -> the price catalog's name, where that differs."""
LONG_FILE_BYTES = 64 * 1024**2
"""Such files are read one by one: groups of one file at a time stay in the processor's cache."""
FILES_PER_CORE = 2
"""From so many long files on, each core reads files of its own."""
EPOCH = date(1970, 1, 1)
CSV_ROW = "a row that does not fit the table"
_TABLES = f"""
CREATE TABLE grouped (filename VARCHAR, hour INTEGER, workload VARCHAR, grouped_by VARCHAR,
    provider VARCHAR, model VARCHAR, tier VARCHAR, region VARCHAR, context_over BIGINT,
    is_sum BOOLEAN, timed BOOLEAN, reason VARCHAR, n_rows BIGINT,
    {", ".join(f"{name} {'DECIMAL(38, 12)' if name == 'usd' else 'HUGEINT'}" for name in SUMS)},
    n_usd BIGINT);
CREATE TABLE bills (source INTEGER, line BIGINT, ts TIMESTAMP, provider VARCHAR,
    project VARCHAR, description VARCHAR, usd DECIMAL(28, 12), request_id VARCHAR, reason VARCHAR);
"""  # fmt: skip


def read(
    paths: Iterable[str | Path],
    *,
    thresholds: Sequence[int],
    group_by: GroupedBy | None = None,
    show_prompts: bool = False,
    memory_gib: float = MEMORY_GIB,
) -> UsageLog:
    """Read files, folders and patterns, in any mixture of the known formats.

    Args:
        paths: what to read; compressed files (`.gz`, `.zst`), Parquet and CSV as well.
        thresholds: input tokens above which some price is another.
        group_by: what a workload's name is taken from, where a row states it, else the less
            telling; None = the most telling that the row states.
        show_prompts: name workloads that are told by their system prompt after its first words,
            not after its digest.
        memory_gib: what the engine may use before it writes to its temporary folder.

    Raises:
        ConfigError: `group_by` is unknown.
        DataError: a path is not there, is of no known format, or cannot be read, or there are
            too many groups.
    """
    by = telling(group_by)
    with opened(memory_gib) as (engine, folder):
        with explained((), memory_gib):
            found = find(engine, paths, folder)
        with explained(found.sources, memory_gib):
            return _Reading(engine, found, thresholds, by).log(show_prompts)


class _Reading:
    """One pass over all files, and more only where there is something to point at."""

    def __init__(
        self,
        engine: duckdb.DuckDBPyConnection,
        found: Found,
        thresholds: Sequence[int],
        by: Sequence[str],
    ) -> None:
        self.engine = engine
        self.found = found
        self.thresholds = sorted(set(thresholds), reverse=True)
        self.by = by
        self.number_of = {each.path: number for number, each in enumerate(found.sources)}
        self.rejected: list[BadRow] = []
        self.n_rejected: Counter[int] = Counter()
        self.compared: set[tuple[str, str, str]] = set()
        self.constants: dict[tuple[str, str], dict[str, str]] = {}
        self.hashes: dict[int, NDArray[np.uint64]] = {}
        """Number of a file -> hash of the request id of each good row; of rows without one, too."""

    def log(self, show_prompts: bool) -> UsageLog:
        self.engine.execute(_TABLES)
        long = [each for each in self.found.sources if _is_long(each)]
        if len(long) >= FILES_PER_CORE * n_cores():
            self._scan_together(long)
        else:
            for each in long:
                self._scan(self.engine, [each])
        for sources in _batches([each for each in self.found.sources if not _is_long(each)]):
            self._scan(self.engine, sources)
        n_repeated, repeated = self._repeated()
        groups, hourly = self._groups(show_prompts)
        billed = self._billed()
        n_rows, bad_by_file, n_bad = self._counts()
        return UsageLog(
            files=tuple(
                SourceFile(
                    file=each.name,
                    format=formats.load(each.format).TITLE,
                    n_rows=n_rows[number],
                    n_bad=bad_by_file[number],
                )
                for number, each in enumerate(self.found.sources)
            ),
            groups=groups,
            billed=billed,
            hourly=hourly,
            n_rows=n_rows.total(),
            n_bad=dict(sorted(n_bad.items(), key=lambda each: (-each[1], each[0]))),
            bad_rows=tuple(self._bad_rows(n_bad)),
            n_repeated=n_repeated,
            repeated=tuple(repeated),
            skipped=self.found.skipped,
        )

    def _scan_together(self, long: Sequence[Source]) -> None:
        """Add many long files, one at a time on each core.

        All cores on one file would wait for each other at its beginning and its end.
        """
        engines = [self.engine.cursor() for _ in range(n_cores())]
        free = list(engines)

        def scan(source: Source) -> None:
            engine = free.pop()
            engine.execute(SESSION)
            self._scan(engine, [source])
            free.append(engine)

        self.engine.execute("SET threads = 1")
        try:
            with ThreadPoolExecutor(len(engines)) as pool:
                try:
                    for _ in pool.map(scan, sorted(long, key=_size, reverse=True)):
                        pass
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    for engine in engines:
                        engine.interrupt()
                    raise
        finally:
            for engine in engines:
                engine.close()
        self.engine.execute(f"SET threads = {n_cores()}")

    def _scan(self, engine: duckdb.DuckDBPyConnection, sources: Sequence[Source]) -> None:
        """Add files of one kind and one format to `grouped` or `bills`."""
        shape = formats.load(sources[0].format).SHAPE
        if sources[0].kind == "csv":
            engine.execute("DELETE FROM reject_errors")
        if shape.bill:
            for each in sources:
                self._scan_bill(engine, each, shape)
        elif not self._scan_alike(engine, sources, shape):
            self._scan_calls(engine, sources, shape, None)
        if sources[0].kind == "csv":
            self._note_rejected(sources[0])

    def _scan_alike(
        self, engine: duckdb.DuckDBPyConnection, sources: Sequence[Source], shape: Shape
    ) -> bool:
        """Add a long file whose records are all alike; False = it is not one."""
        if len(sources) > 1 or not _is_long(sources[0]):
            return False
        found = alike(engine, sources[0], shape.fields, NO_LINE, self.compared)
        if found is None:
            return False
        try:
            self._scan_calls(engine, sources, shape, found)
        except (duckdb.OutOfMemoryException, duckdb.InterruptException):
            raise
        except duckdb.Error:  # a record that is not like the first ones
            return False
        return True

    def _scan_calls(
        self,
        engine: duckdb.DuckDBPyConnection,
        sources: Sequence[Source],
        shape: Shape,
        found: Alike | None,
    ) -> None:
        told = (sources[0].format, found.lacking if found else "SELECT NULL")
        if told not in self.constants:
            self.constants[told] = constant(engine, shape, told[1])
        same = self.constants[told]
        by = [each for each in self.by if each not in same or each == self.by[-1]]
        canon = canonical(engine, sources, shape, recorded=found and found.records, same=same)
        if len(sources) == 1:
            same = same | {"filename": literal(sources[0].path)}
        grouped = [each for each in ("filename", *GROUPED) if each not in same]
        sums = {each: f"sum({each})" for each in SUMMED} | {
            each: f"{value} * count(*)" for each, value in same.items() if each in SUMMED
        }
        n_usd = "count(usd)"
        if "usd" in same:
            n_usd = f"CASE WHEN {same['usd']} IS NULL THEN 0 ELSE count(*) END"
        fixed = "".join(
            f", {same[each]} AS {each}" for each in ("filename", *GROUPED) if each in same
        )
        ids = "NULL" if "request_id" in same else "list(hash(request_id))"
        engine.execute(
            f"CREATE OR REPLACE TEMP TABLE scanned AS SELECT filename, "
            f"{keys(self.thresholds, by)}, n_rows, {', '.join(SUMS.values())}, n_usd, ids FROM ("
            f"SELECT {', '.join(grouped)}{fixed}, count(*) AS n_rows, "
            f"{', '.join(f'{sum_} AS {each}' for each, sum_ in sums.items())}, "
            f"{n_usd} AS n_usd, {ids} AS ids FROM ({keyed(canon, self.thresholds, by, same)}) "
            f"GROUP BY {', '.join(grouped)})"
        )
        engine.execute("INSERT INTO grouped SELECT * EXCLUDE (ids) FROM scanned")
        if ids != "NULL":
            self._keep_hashes(engine, sources)

    def _keep_hashes(self, engine: duckdb.DuckDBPyConnection, sources: Sequence[Source]) -> None:
        """Take the hashes of the request ids out of `scanned`, whose memory is then used again."""
        good = "FROM scanned WHERE reason IS NULL"
        for each in sources:
            here = "" if len(sources) == 1 else f" AND filename = {literal(each.path)}"
            found = engine.execute(f"SELECT unnest(ids) AS id {good}{here}").fetchnumpy()
            self.hashes[self.number_of[each.path]] = np.asarray(found["id"], np.uint64)

    def _scan_bill(self, engine: duckdb.DuckDBPyConnection, source: Source, shape: Shape) -> None:
        engine.execute(
            f"INSERT INTO bills SELECT {self.number_of[source.path]}, line, ts, provider, project, "
            f"description, usd, request_id, {BILL_REASON} "
            f"FROM ({canonical(engine, [source], shape, numbered=True)})"
        )

    def _note_rejected(self, source: Source) -> None:
        lines = self._all("SELECT DISTINCT line FROM reject_errors ORDER BY line")
        self.n_rejected[self.number_of[source.path]] = len(lines)
        self.rejected += [
            BadRow(file=source.name, line=line, reason=CSV_ROW)
            for (line,) in lines[: N_LISTED - len(self.rejected)]
        ]

    def _numbered(self, number: int) -> str:
        """SQL of a file's calls with `line`, `request_id`, `KEYS` and what `SUMS` sums."""
        source = self.found.sources[number]
        calls = canonical(self.engine, [source], formats.load(source.format).SHAPE, numbered=True)
        return (
            f"SELECT line, request_id, {keys(self.thresholds, self.by)}, "
            f"{', '.join(f'{each} AS {name}' for name, each in SUMS.items())} "
            f"FROM ({keyed(calls, self.thresholds, self.by)})"
        )

    def _repeated(self) -> tuple[int, list[BadRow]]:
        """Put into `repeated` every call but the first of each request id.

        Equal hashes are looked for first; only the files that hold some are read again, and the
        ids themselves compared. Ids that are mere numbers are compared within their file.
        """
        columns = ", ".join((*KEYS, *SUMS))
        ids = np.concatenate([np.empty(0, np.uint64), *self.hashes.values()])
        ids.sort()
        twice = np.unique(ids[1:][ids[1:] == ids[:-1]])
        twice = twice[twice != self._all("SELECT hash(CAST(NULL AS VARCHAR))")[0][0]]
        self.engine.register("twice", {"id": twice})
        self.engine.execute(f"""
            CREATE TEMP TABLE suspects AS SELECT 0 AS source, CAST(0 AS BIGINT) AS line,
                '' AS request_id, {columns} FROM grouped LIMIT 0;
        """)
        for number, hashes in sorted(self.hashes.items()):
            if not np.isin(hashes, twice).any():
                continue
            self.engine.execute(
                f"INSERT INTO suspects SELECT {number}, line, request_id, {columns} "
                f"FROM ({self._numbered(number)}) "
                "WHERE reason IS NULL AND hash(request_id) IN (SELECT id FROM twice)"
            )
        self.engine.execute("""
            CREATE TEMP TABLE repeated AS SELECT *, 1 AS n_rows,
                CAST(usd IS NOT NULL AS BIGINT) AS n_usd,
                first_value(source) OVER calls AS first_source,
                first_value(line) OVER calls AS first_line
            FROM suspects
            WINDOW calls AS (PARTITION BY request_id,
                    CASE WHEN TRY_CAST(request_id AS HUGEINT) IS NOT NULL THEN source END
                ORDER BY input IS NULL, source, line)
            QUALIFY row_number() OVER calls > 1;
            CREATE TEMP TABLE billed_again AS SELECT source, line, request_id,
                first_value(source) OVER bill AS first_source,
                first_value(line) OVER bill AS first_line
            FROM bills WHERE reason IS NULL
            WINDOW bill AS (PARTITION BY request_id ORDER BY source, line)
            QUALIFY row_number() OVER bill > 1;
        """)
        places = "source, line, first_source, first_line"
        again = f"SELECT {places} FROM repeated UNION ALL SELECT {places} FROM billed_again"
        n_repeated = self._all(f"SELECT count(*) FROM ({again})")[0][0]
        listed = self._all(f"{again} ORDER BY source, line LIMIT {N_LISTED}")
        first = self._lines({(row[2], row[3]) for row in listed})
        second = self._lines({(row[0], row[1]) for row in listed})
        return n_repeated, [
            BadRow(
                file=self.found.sources[row[0]].name,
                line=second[row[0], row[1]],
                reason=f"the request id of {self.found.sources[row[2]].name}:"
                f"{first[row[2], row[3]]}",
            )
            for row in listed
        ]

    def _groups(self, show_prompts: bool) -> tuple[list[UsageGroup], dict[str, dict[int, int]]]:
        columns = ", ".join(KEYS)
        minus = ", ".join(f"-{name}" for name in ("n_rows", *SUMS, "n_usd"))
        sums = ", ".join(f"sum({name}) AS {name}" for name in ("n_rows", *SUMS, "n_usd"))
        titles = ", ".join(
            f"({number}, {literal(each.path)}, {literal(formats.load(each.format).TITLE)})"
            for number, each in enumerate(self.found.sources)
        )
        self.engine.execute(f"""
            CREATE TEMP TABLE titles AS
                SELECT * FROM (VALUES {titles}) AS titles(source, filename, format);
            CREATE TEMP TABLE totals AS SELECT {columns}, format, {sums} FROM (
                SELECT {columns}, format, n_rows, {", ".join(SUMS)}, n_usd
                    FROM grouped JOIN titles USING (filename) WHERE reason IS NULL
                UNION ALL SELECT {columns}, format, {minus}
                    FROM repeated JOIN titles USING (source))
            GROUP BY {columns}, format HAVING sum(n_rows) > 0;
            UPDATE totals SET workload = {named(show_prompts)} WHERE grouped_by = 'prompt';
        """)
        fixed = [name for name in (*KEYS, "format") if name not in ("hour", "timed", "reason")]
        counts = [name for name in SUMS if name != "usd"]
        daily = f"""SELECT hour // 24 AS day, {", ".join(fixed)},
                {", ".join(f"coalesce(sum({name}), 0)::HUGEINT AS {name}" for name in counts)},
                CASE WHEN sum(n_usd) = sum(n_rows) THEN sum(usd) END AS usd
            FROM totals GROUP BY ALL"""
        n_groups = self._all(f"SELECT count(*) FROM ({daily})")[0][0]
        if n_groups > MAX_GROUPS:
            raise DataError(
                f"usage logs: {n_groups:,} groups of calls, at most {MAX_GROUPS:,} are kept: a "
                f"name differs from call to call; group by another of {', '.join(NAMED)}"
            )
        names = ("day", *fixed, *counts, "usd")
        groups = [
            _group(dict(zip(names, row, strict=True))) for row in self._all(f"{daily} ORDER BY ALL")
        ]
        hourly: dict[str, dict[int, int]] = defaultdict(dict)
        for workload, hour, n_calls in self._all(
            "SELECT workload, hour, sum(n_calls)::BIGINT FROM totals WHERE timed "
            "GROUP BY ALL ORDER BY ALL"
        ):
            hourly[workload][hour] = n_calls
        return groups, dict(hourly)

    def _billed(self) -> list[BilledLine]:
        return [
            BilledLine(day=ts, provider=provider, project=project, description=description, usd=usd)
            for ts, provider, project, description, usd in self._all(
                "SELECT CAST(ts AS DATE), provider, project, description, usd FROM bills "
                "WHERE reason IS NULL QUALIFY row_number() OVER (PARTITION BY request_id "
                "ORDER BY source, line) = 1 ORDER BY source, line, ts, project, description"
            )
        ]

    def _counts(self) -> tuple[Counter[int], Counter[int], Counter[str]]:
        """Rows by file, bad ones by file, and bad ones by reason."""
        n_rows, bad_by_file, n_bad = Counter[int](), Counter[int](), Counter[str]()
        found = self._all("SELECT filename, reason, sum(n_rows)::BIGINT FROM grouped GROUP BY ALL")
        rows = [(self.number_of[filename], reason, n) for filename, reason, n in found]
        rows += self._all("SELECT source, reason, count(*) FROM bills GROUP BY ALL")
        rows += [(number, CSV_ROW, n) for number, n in self.n_rejected.items() if n]
        for number, reason, n in rows:
            n_rows[number] += n
            if reason is not None:
                bad_by_file[number] += n
                n_bad[reason] += n
        return n_rows, bad_by_file, n_bad

    def _bad_rows(self, n_bad: Mapping[str, int]) -> list[BadRow]:
        """The first rows of each reason, in files read again for it."""
        places = self._all(
            "SELECT source, line, reason FROM bills WHERE reason IS NOT NULL ORDER BY source, line"
        )
        holding = self._all("SELECT DISTINCT filename FROM grouped WHERE reason IS NOT NULL")
        n_found = Counter[str]()
        for number in sorted(self.number_of[filename] for (filename,) in holding):
            here = self._all(
                f"SELECT {number}, line, reason FROM ({self._numbered(number)}) "
                "WHERE reason IS NOT NULL "
                "QUALIFY row_number() OVER (PARTITION BY reason ORDER BY line) "
                f"<= {N_LISTED} ORDER BY line"
            )
            places += here
            n_found.update(reason for _, _, reason in here)
            if all(n_found[reason] >= min(n, N_LISTED) for reason, n in n_bad.items()):
                break
        listed: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for number, line, reason in places:
            if len(listed[reason]) < N_LISTED:
                listed[reason].append((number, line))
        lines = self._lines({place for each in listed.values() for place in each})
        return self.rejected + [
            BadRow(file=self.found.sources[place[0]].name, line=lines[place], reason=reason)
            for reason in sorted(n_bad)
            for place in listed[reason]
        ]

    def _lines(self, places: Iterable[tuple[int, int]]) -> dict[tuple[int, int], int]:
        """Pairs of file and ordinal -> line of a text file, else the ordinal."""
        lines: dict[tuple[int, int], int] = {}
        for number, group in groupby(sorted(places), key=lambda place: place[0]):
            source, ordinals = self.found.sources[number], [ordinal for _, ordinal in group]
            if source.kind == "lines":
                found = lines_of(source, set(ordinals))
                lines |= {(number, ordinal): line for ordinal, line in found.items()}
            else:
                header = 1 if source.kind == "csv" else 0
                lines |= {(number, ordinal): ordinal + header for ordinal in ordinals}
        return lines

    def _all(self, query: str) -> list[Any]:
        return self.engine.execute(query).fetchall()


def _size(source: Source) -> int:
    return Path(source.path).stat().st_size


def _is_long(source: Source) -> bool:
    return source.kind == "lines" and _size(source) >= LONG_FILE_BYTES


def _batches(sources: Sequence[Source]) -> list[list[Source]]:
    """Files that one query reads: small ones of a format together, other files and kinds alone."""
    together: dict[tuple[str, str, int], list[Source]] = defaultdict(list)
    for number, each in enumerate(sources):
        together[each.format, each.kind, number if each.kind != "lines" else -1].append(each)
    return list(together.values())


def _group(row: dict[str, Any]) -> UsageGroup:
    provider: str = row["provider"].lower()
    return UsageGroup(
        day=date.fromordinal(EPOCH.toordinal() + row["day"]),
        workload=row["workload"],
        grouped_by=row["grouped_by"],
        provider=PROVIDERS.get(provider, provider),
        model=row["model"],
        service_tier=row["tier"],
        region=row["region"],
        context_over=row["context_over"],
        n_calls=row["n_calls"],
        n_failed=row["n_failed"],
        input_tokens=row["input"],
        cached_input_tokens=row["cached"],
        cache_write_5m_tokens=row["write_5m"],
        cache_write_1h_tokens=row["write_1h"],
        output_tokens=row["output"],
        reasoning_tokens=row["reasoning"],
        n_without_usage=row["n_without_usage"],
        usd_reported=row["usd"],
        format=row["format"],
        is_sum=row["is_sum"],
    )
