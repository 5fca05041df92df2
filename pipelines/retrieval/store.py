"""An embedded store of passages, LanceDB: BM25, vectors, and both, in a folder, without a server.

LanceDB, because it alone of the embedded stores has a full-text index of its own beside the
vectors (Qdrant's local mode and Chroma have none without another package, DuckDB's extensions are
downloaded when they are first used); it is one wheel, and its files are Arrow.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.core.records import Passage
from pipelines.core.workload import Embedder, RetrievalMethod
from pipelines.governance.egress import Gate
from pipelines.retrieval.embedder import embed

TABLE = "passages"
WORDS: dict[str, Any] = {"stem": True, "remove_stop_words": True}
"""How BM25 makes words of a text."""


class Search(NamedTuple):
    """What one method found, and how long it took."""

    found: list[str]
    """Ids of passages, best first."""
    latency_s: float


class PassageStore:
    """Passages that can be searched."""

    def __init__(self, table: Any, embedder: Embedder, n_passages: int, gate: Gate | None) -> None:
        """Made by `open_store`."""
        self._table, self._embedder, self._n_passages = table, embedder, n_passages
        self._gate = gate

    def search(self, question: str, method: RetrievalMethod, k: int) -> list[str]:
        """Ids of at most k passages, best first.

        `bm25`: Okapi BM25 over title and text, stemmed · `embeddings`: cosine similarity ·
        `hybrid`: both lists, fused by reciprocal rank (Cormack 2009).
        """
        depth = min(self._n_passages, max(50, k))
        if method == "bm25":
            return self._bm25(question, k)
        if method == "embeddings":
            return self._embeddings(question, k)
        return fuse([self._bm25(question, depth), self._embeddings(question, depth)])[:k]

    def search_by_all(self, question: str, k: int) -> dict[RetrievalMethod, Search]:
        """What each method finds; `hybrid` takes as long as the two lists that it fuses."""
        depth = min(self._n_passages, max(50, k))
        start = time.perf_counter()
        bm25 = self._bm25(question, depth)
        middle = time.perf_counter()
        embeddings = self._embeddings(question, depth)
        end = time.perf_counter()
        return {
            "bm25": Search(bm25[:k], middle - start),
            "embeddings": Search(embeddings[:k], end - middle),
            "hybrid": Search(fuse([bm25, embeddings])[:k], end - start),
        }

    def _bm25(self, question: str, k: int) -> list[str]:
        query = self._table.search(question, query_type="fts").select(["id", "_score"])
        return [row["id"] for row in query.limit(k).to_list()]

    def _embeddings(self, question: str, k: int) -> list[str]:
        vector = embed([question], self._embedder, self._gate)[0]
        query = self._table.search(vector).distance_type("cosine").select(["id", "_distance"])
        return [row["id"] for row in query.limit(k).to_list()]


def fuse(rankings: Sequence[Sequence[str]]) -> list[str]:
    """One ranking out of several by the sum of 1 / (60 + rank); ties in alphabetical order."""
    points: dict[str, float] = {}
    for ranking in rankings:
        for rank, each in enumerate(ranking, start=1):
            points[each] = points.get(each, 0.0) + 1 / (60 + rank)
    return sorted(points, key=lambda each: (-points[each], each))


def open_store(
    passages: Sequence[Passage],
    sha256: str,
    embedder: Embedder,
    folder: Path,
    gate: Gate | None = None,
) -> PassageStore:
    """The store of exactly these passages and this embedder in `folder`; built when it is new.

    Args:
        passages: what is searched.
        sha256: their digest.
        embedder: makes the vectors.
        folder: parent of all stores.
        gate: of the workload; needed where the embedder is an endpoint.
    """
    os.environ.setdefault("LANCE_LOG", "error")  # it warns of each table that it is about to make
    import lancedb
    from lancedb.index import FTS

    content = f"{sha256} {embedder.model_dump_json()} {WORDS} {lancedb.__version__}"
    key = hashlib.sha256(content.encode()).hexdigest()[:16]
    path = folder / f"passages-{key}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".passages-", dir=folder))
        try:
            texts = [f"{passage.title}\n{passage.text}" for passage in passages]
            rows = [
                {"id": passage.id, "text": text, "vector": vector}
                for passage, text, vector in zip(
                    passages, texts, embed(texts, embedder, gate), strict=True
                )
            ]
            table: Any = lancedb.connect(staging).create_table(TABLE, data=rows)
            table.create_index("text", config=FTS(**WORDS))
            try:
                staging.rename(path)
            except OSError:
                if not path.exists():  # else another process was faster
                    raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return PassageStore(lancedb.connect(path).open_table(TABLE), embedder, len(passages), gate)
