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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.core.records import Passage
from pipelines.core.study import Embedder, RetrievalMethod
from pipelines.retrieval.embedder import embed

TABLE = "passages"


class PassageStore:
    """Passages that can be searched."""

    def __init__(self, table: Any, embedder: Embedder, n_passages: int) -> None:
        """Made by `open_store`."""
        self._table, self._embedder, self._n_passages = table, embedder, n_passages

    def search(self, question: str, method: RetrievalMethod, k: int) -> list[str]:
        """Ids of at most k passages, best first.

        `bm25`: Okapi BM25 over title and text, stemmed · `embeddings`: cosine similarity ·
        `hybrid`: both lists, fused by reciprocal rank (Cormack 2009).
        """
        if method == "hybrid":
            depth = min(self._n_passages, max(50, k))
            lists = [self.search(question, each, depth) for each in ("bm25", "embeddings")]
            return fuse(lists)[:k]
        if method == "bm25":
            query = self._table.search(question, query_type="fts").select(["id", "_score"])
        else:
            vector = embed([question], self._embedder)[0]
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
    passages: Sequence[Passage], sha256: str, embedder: Embedder, folder: Path
) -> PassageStore:
    """The store of exactly these passages and this embedder in `folder`; built when it is new.

    Args:
        passages: what is searched.
        sha256: their digest.
        embedder: makes the vectors.
        folder: parent of all stores.
    """
    os.environ.setdefault("LANCE_LOG", "error")  # it warns of each table that it is about to make
    import lancedb
    from lancedb.index import FTS

    key = hashlib.sha256(f"{sha256} {embedder.model_dump_json()}".encode()).hexdigest()[:16]
    path = folder / f"passages-{key}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".passages-", dir=folder))
        try:
            texts = [f"{passage.title}\n{passage.text}" for passage in passages]
            rows = [
                {"id": passage.id, "text": text, "vector": vector}
                for passage, text, vector in zip(
                    passages, texts, embed(texts, embedder), strict=True
                )
            ]
            table: Any = lancedb.connect(staging).create_table(TABLE, data=rows)
            table.create_index("text", config=FTS(stem=True, remove_stop_words=True))
            try:
                staging.rename(path)
            except OSError:
                if not path.exists():  # else another process was faster
                    raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return PassageStore(lancedb.connect(path).open_table(TABLE), embedder, len(passages))
