"""The support set keeps what its README says of it."""

from __future__ import annotations

import hashlib
import json
import re
import statistics
from collections import Counter
from typing import Any

import pytest

from pipelines.core.paths import ROOT
from pipelines.core.records import Example
from pipelines.core.workload import DataSource, Retrieval
from pipelines.data import passages as passages_of
from pipelines.data.labels import CONSTRUCTION, Label, load
from pipelines.data.sources import load_eval, load_training
from pipelines.retrieval import gold_of

FOLDER = "eval_sets/support"
JUDGED: dict[str, dict[float, int]] = {
    "on_policy": {0: 72, 1: 72},
    "helpful": {0: 16, 0.25: 16, 0.5: 16, 0.75: 16, 1: 16},
    "tone": {0: 30, 1: 30},
}


def read(name: str) -> str:
    return (ROOT / FOLDER / name).read_text(encoding="utf-8")


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read(name).splitlines()]


def target_of(metadata: dict[str, Any]) -> dict[str, Any]:
    reply = json.loads(read("replies.json"))[metadata["intent"]][metadata["reply"]]
    return {"intent": metadata["intent"], "escalate": metadata["escalate"], "reply": reply}


@pytest.fixture(scope="module")
def items() -> dict[str, Example]:
    return {e.id: e for e in load_eval(DataSource(path=f"{FOLDER}/conversations.jsonl"))}


@pytest.fixture(scope="module")
def labels(items: dict[str, Example]) -> list[Label]:
    return load(f"{FOLDER}/labels.jsonl", items, JUDGED)


def test_the_readme_lists_every_file_with_its_digest() -> None:
    stated = dict(re.findall(r"^\| `([\w.]+)` .*`([0-9a-f]{64})` \|$", read("README.md"), re.M))
    files = [p for p in (ROOT / FOLDER).iterdir() if p.name != "README.md"]
    assert stated == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_passages_are_of_manageable_length_and_all_references_resolve() -> None:
    passages = passages_of.load(Retrieval(passages=f"{FOLDER}/policies.jsonl"))
    assert len({p.title for p in passages}) == len(passages) == 60
    assert all(60 <= len(p.text.split()) <= 180 for p in passages)
    known = {p.id for p in passages}
    named = json.loads(read("replies_policies.json"))
    replies = json.loads(read("replies.json"))
    assert named.keys() == {f"{intent}/{key}" for intent in replies for key in replies[intent]}
    assert all(ids and set(ids) <= known for ids in named.values())
    assert len({each for ids in named.values() for each in ids}) == 37


def test_conversations_are_the_triage_items_with_the_approved_answer(
    items: dict[str, Example],
) -> None:
    known = frozenset(
        p.id for p in passages_of.load(Retrieval(passages=f"{FOLDER}/policies.jsonl"))
    )
    named = json.loads(read("replies_policies.json"))
    triage = load_eval(DataSource(path=f"{FOLDER}/eval.jsonl"))
    assert list(items) == [e.id for e in triage]
    for before in triage:
        item, metadata = items[before.id], dict(before.metadata)
        gold = named[f"{metadata['intent']}/{metadata['reply']}"]
        assert item.messages == before.messages
        assert json.loads(item.target) == target_of(metadata)
        assert item.metadata == {**metadata, "passages": gold}
        assert list(gold_of(item, known)) == gold


def test_training_conversations_are_the_triage_rows_and_hold_no_eval_item(
    items: dict[str, Example],
) -> None:
    made = load_training(DataSource(path=f"{FOLDER}/conversations_train.jsonl"))
    triage = load_training(DataSource(path=f"{FOLDER}/train.jsonl"))
    assert [r.messages[:-1] for r in made] == [r.messages[:-1] for r in triage]
    for row, before in zip(made, triage, strict=True):
        assert json.loads(row.messages[-1].content) == target_of(dict(before.metadata))
    asked = {item.messages[-1].content for item in items.values()}
    assert not asked & {row.messages[0].content for row in made}


def test_labels_are_balanced_and_say_that_no_human_made_them(labels: list[Label]) -> None:
    counts: dict[str, dict[float, int]] = {}
    for label in labels:
        counts.setdefault(label.metric, Counter())[label.label] += 1
    assert counts == JUDGED
    assert {label.labelled_by for label in labels} == {CONSTRUCTION}
    assert all(label.how for label in labels)
    assert len({(label.metric, label.id) for label in labels}) == len(labels)


def test_labelled_answers_differ_from_the_target_in_the_reply_only(
    labels: list[Label], items: dict[str, Example]
) -> None:
    for label in labels:
        answer, target = json.loads(label.answer), json.loads(items[label.id].target)
        assert answer.keys() == target.keys()
        assert answer.pop("reply") != target.pop("reply")
        assert answer == target
    assert len({json.loads(label.answer)["reply"] for label in labels}) == len(labels)


@pytest.mark.parametrize("metric", ["on_policy", "tone"])
def test_length_does_not_give_the_label_away(labels: list[Label], metric: str) -> None:
    words: dict[float, list[int]] = {0: [], 1: []}
    for label in labels:
        if label.metric == metric:
            words[label.label].append(len(json.loads(label.answer)["reply"].split()))
    assert abs(statistics.mean(words[0]) - statistics.mean(words[1])) < 2
    pairs = [(good > bad) + (good == bad) / 2 for good in words[1] for bad in words[0]]
    assert 0.4 < statistics.mean(pairs) < 0.6  # the area under the ROC curve
