"""Find the passages that a question needs, and measure how well that works."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pipelines.core.errors import DataError
from pipelines.core.records import Example, Passage, Record
from pipelines.core.results import RetrieverResult
from pipelines.core.workload import Retrieval, RetrievalMethod
from pipelines.governance.egress import Gate
from pipelines.retrieval.measures import measure
from pipelines.statistics.intervals import estimate

METHODS: tuple[RetrievalMethod, ...] = ("bm25", "embeddings", "hybrid")
DEPTH = 10
"""Passages that are looked at for nDCG and the reciprocal rank."""


class Ranking(Record):
    """What one retriever found for one question."""

    example_id: str
    method: RetrievalMethod
    found: tuple[str, ...]
    """Ids of passages, best first."""
    gold: tuple[str, ...]
    """Ids that answer the question; empty = no passage does."""
    latency_s: float


def passages_sha256(passages: Sequence[Passage]) -> str:
    """SHA-256 of the passages as canonical JSON Lines."""
    lines = (passage.model_dump_json() + "\n" for passage in passages)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def gold_of(example: Example, known: frozenset[str]) -> tuple[str, ...]:
    """Ids in the item's metadata that answer it.

    Raises:
        DataError: an id names no passage.
    """
    raw = example.metadata.get("passages")
    ids = tuple(str(each) for each in raw) if isinstance(raw, list) else ()
    if unknown := [each for each in ids if each not in known]:
        raise DataError(f"item {example.id}: metadata.passages names {', '.join(unknown)}: unknown")
    return ids


def retrieve(
    examples: Sequence[Example],
    passages: Sequence[Passage],
    config: Retrieval,
    folder: Path,
    gate: Gate | None = None,
) -> tuple[list[Example], list[RetrieverResult], list[Ranking]]:
    """Each example with the passages of the study's method; figures and rankings of all methods.

    Args:
        examples: the questions; `metadata.passages` holds the ids that answer them.
        passages: what is searched.
        config: method, number of passages, embedder.
        folder: where the store is kept between runs.
        gate: of the workload; needed where the embedder is an endpoint.

    Raises:
        DataError: gold ids that name no passage.
    """
    from pipelines.retrieval.store import open_store

    by_id = {passage.id: passage for passage in passages}
    gold = {e.id: gold_of(e, frozenset(by_id)) for e in examples}
    questions = [e.messages[-1].content for e in examples]
    store = open_store(passages, passages_sha256(passages), config.embedder, folder, gate)
    rankings: list[Ranking] = []
    results: list[RetrieverResult] = []
    chosen: dict[str, tuple[str, ...]] = {}
    searches = [store.search_by_all(question, max(DEPTH, config.k)) for question in questions]
    for method in METHODS:
        rows = [
            Ranking(
                example_id=example.id,
                method=method,
                found=tuple(search[method].found),
                gold=gold[example.id],
                latency_s=search[method].latency_s,
            )
            for example, search in zip(examples, searches, strict=True)
        ]
        rankings += rows
        results.append(_result(method, rows, examples, config))
        if method == config.method:
            chosen = {row.example_id: row.found[: config.k] for row in rows}
    enriched = [
        example.model_copy(update={"context": tuple(by_id[i] for i in chosen[example.id])})
        for example in examples
    ]
    return enriched, results, rankings


def _result(
    method: RetrievalMethod, rows: Sequence[Ranking], examples: Sequence[Example], config: Retrieval
) -> RetrieverResult:
    """Estimates over the questions that a passage answers."""
    groups = {e.id: e.group for e in examples if e.group is not None}
    measured = {row.example_id: measure(row.found, row.gold, config.k) for row in rows if row.gold}
    latencies = sorted(row.latency_s for row in rows)
    return RetrieverResult(
        method=method,
        in_use=method == config.method,
        k=config.k,
        recall_at_k=estimate({i: m.recall_at_k for i, m in measured.items()}, groups),
        ndcg_at_10=estimate({i: m.ndcg_at_10 for i, m in measured.items()}, groups),
        reciprocal_rank=estimate({i: m.reciprocal_rank for i, m in measured.items()}, groups),
        latency_p50_s=latencies[len(latencies) // 2],
    )
