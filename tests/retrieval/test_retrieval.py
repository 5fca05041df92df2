"""Rankings counted by hand, the shipped handbook, and a public set with known figures."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from pipelines.core.errors import DataError, UserError
from pipelines.core.paths import ROOT
from pipelines.core.prompt import question_in, with_passages
from pipelines.core.records import Example, Message, Passage
from pipelines.core.workload import Embedder, Retrieval
from pipelines.data import passages as passages_of
from pipelines.governance.egress import Gate
from pipelines.retrieval import embedder, passages_sha256, retrieve
from pipelines.retrieval.embedder import embed
from pipelines.retrieval.measures import measure
from pipelines.retrieval.store import fuse, open_store
from pipelines.serving.extractive import quote

PASSAGES = [
    Passage(id="leave", title="Leave", text="Everybody has 27 days of holiday. Ask in May."),
    Passage(id="pay", title="Pay", text="Wages are paid on the 28th. In December on the 19th."),
    Passage(id="dogs", title="Pets", text="Dogs may come along on Fridays."),
]


def item(number: int, question: str, *gold: str) -> Example:
    return Example(
        id=f"e{number}",
        messages=(Message(role="user", content=question),),
        target="x",
        metadata={"passages": list(gold)},
    )


def test_measures_by_hand() -> None:
    # Gold at places 2 and 4 of the ranking, k = 3, two gold passages.
    got = measure(["a", "g1", "b", "g2"], {"g1", "g2"}, 3)
    assert got.recall_at_k == 0.5
    assert got.reciprocal_rank == 0.5
    gain = 1 / math.log2(3) + 1 / math.log2(5)
    assert got.ndcg_at_10 == pytest.approx(gain / (1 + 1 / math.log2(3)))
    assert measure(["g"], {"g"}, 5) == (1.0, 1.0, 1.0)
    assert measure(["a", "b"], {"g"}, 5) == (0.0, 0.0, 0.0)


def test_fusing_prefers_what_both_lists_have() -> None:
    # b: 1/62 + 1/61; a: 1/61; c: 1/62.
    assert fuse([["a", "b"], ["b", "c"]]) == ["b", "a", "c"]


def test_each_method_finds_the_obvious_passage(tmp_path: Path) -> None:
    store = open_store(PASSAGES, passages_sha256(PASSAGES), Embedder(), tmp_path)
    for method in ("bm25", "embeddings", "hybrid"):
        assert store.search("may my dog come along?", method, 1) == ["dogs"]
    assert store.search("when do I get my salary", "embeddings", 1) == ["pay"]
    # Signs that mean something to a query language are words like any other here.
    assert store.search('holiday AND ("days" OR -pay:*', "bm25", 1) == ["leave"]
    again = open_store(PASSAGES, passages_sha256(PASSAGES), Embedder(), tmp_path)
    assert again.search("dogs", "hybrid", 3)[0] == "dogs"
    assert len(list(tmp_path.iterdir())) == 1, "the store is built once"


def test_examples_get_their_passages_and_unanswerable_ones_do_not_count(tmp_path: Path) -> None:
    items = [item(1, "how many days of holiday?", "leave"), item(2, "is there a gym?")]
    config = Retrieval(passages="", method="bm25", k=2)
    enriched, results, rankings = retrieve(items, PASSAGES, config, tmp_path)
    assert enriched[0].context[0].id == "leave"
    assert [r.in_use for r in results] == [True, False, False]
    assert results[0].recall_at_k is not None
    assert results[0].recall_at_k.n_total == 1
    assert len(rankings) == 6
    with pytest.raises(DataError, match=r"item e3: .* names nowhere"):
        retrieve([item(3, "?", "nowhere")], PASSAGES, config, tmp_path)


def test_passages_stand_before_the_question_and_can_be_told_apart_again() -> None:
    example = item(1, "Question: is this one?", "pay").model_copy(
        update={"context": tuple(PASSAGES[:2])}
    )
    [turn] = with_passages(example)
    passages, question = question_in(turn.content)
    assert question == "Question: is this one?"
    assert passages.startswith("[leave] Leave\nEverybody")
    assert passages.endswith("on the 19th.")
    assert question_in("just a question") == ("", "just a question")


def test_the_extractive_rival_quotes_a_sentence_and_its_passage() -> None:
    example = item(1, "When may dogs come along?").model_copy(update={"context": tuple(PASSAGES)})
    assert quote(with_passages(example)[0].content) == "Dogs may come along on Fridays. [dogs]"
    assert quote("no passages here") == ""


def test_embeddings_have_length_one_and_a_dead_endpoint_is_one_clear_error() -> None:
    vectors = embed(["a cat", "a kitten", "the balance sheet"], Embedder())
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
    # What comes behind 256 tokens, two of which frame the text, is not seen.
    full, cut = embed(["cat " * 900, "cat " * 254 + "dog " * 900], Embedder())
    assert full == pytest.approx(cut, abs=1e-6)
    with pytest.raises(UserError, match=r"embedder http://127\.0\.0\.1:9/v1/embeddings"):
        embed(["x"], Embedder(base_url="http://127.0.0.1:9/v1"), Gate("test", "public"))


@pytest.mark.parametrize(
    ("text", "message"),
    [("{\n", "line 1"), ('{"id": "a", "title": "t"}\n', "line 1: text"), ("", "no passages")],
)
def test_bad_passages_are_named_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "passages.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        passages_of.load(Retrieval(passages=str(path)))


def test_the_shipped_handbook_names_only_passages_that_exist() -> None:
    folder = ROOT / "eval_sets" / "handbook"
    known = {
        p.id for p in passages_of.load(Retrieval(passages="eval_sets/handbook/passages.jsonl"))
    }
    rows = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]
    assert len(known) >= 60
    assert len(rows) >= 200
    assert all(set(row["metadata"]["passages"]) <= known for row in rows)
    unanswerable = sum(not row["metadata"]["passages"] for row in rows) / len(rows)
    assert unanswerable == pytest.approx(0.25, abs=0.02)


def test_bm25_reproduces_the_anchor_of_clapnq(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = os.environ.get("FREEHOLD_DATA")
    if not folder or not Path(folder, "clapnq_dev").is_dir():
        pytest.skip(
            "needs the public ClapNQ set: set FREEHOLD_DATA to the folder above clapnq_dev/"
        )
    rows = [
        json.loads(line)
        for name in ("answerable", "unanswerable")
        for line in (Path(folder) / "clapnq_dev" / f"clapnq_dev_{name}.jsonl").open()
    ]
    pool: dict[str, Passage] = {}
    items: list[Example] = []
    for number, row in enumerate(rows):
        ids: list[str] = []
        for each in row["passages"]:
            known = pool.setdefault(
                each["title"] + each["text"],
                Passage(id=str(len(pool)), title=each["title"], text=each["text"]),
            )
            ids.append(known.id)
        if number < 300:  # the answerable ones
            items.append(item(number, row["input"], *ids))
    # The anchor is BM25's, which reads all; to embed all would take a minute.
    monkeypatch.setattr(embedder, "MAX_TOKENS", 16)
    config = Retrieval(passages="", method="bm25", k=5)
    _, [bm25, _, hybrid], _ = retrieve(items, list(pool.values()), config, tmp_path)
    assert bm25.ndcg_at_10 is not None
    assert bm25.recall_at_k is not None
    assert hybrid.recall_at_k is not None
    # Measured before without stemming: nDCG@10 0.934, recall@5 0.963; stems help a little.
    assert bm25.ndcg_at_10.mean == pytest.approx(0.94, abs=0.012)
    assert bm25.recall_at_k.mean == pytest.approx(0.967, abs=0.012)
