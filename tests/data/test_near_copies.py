"""Near-copies are found as an exact comparison of all pairs finds them."""

from __future__ import annotations

import json
import random

import pytest

from pipelines.core.paths import ROOT
from pipelines.core.records import Message
from pipelines.data import near_copies
from pipelines.data.near_copies import CONFLICT, DUPLICATE, KEPT, LEAKED, NEAR_DUPLICATE
from pipelines.data.splits import normalise


def support_messages() -> list[str]:
    path = ROOT / "eval_sets/support/train.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["messages"][0]["content"] for line in lines]
    return [text for text in texts if len(text.split()) >= 6]


def normal(text: str) -> str:
    return normalise([Message(role="user", content=text)])


def with_typo(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text) - 1)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def with_swap(text: str, rng: random.Random) -> str:
    words = text.split()
    at = rng.randrange(len(words) - 1)
    words[at : at + 2] = reversed(words[at : at + 2])
    return " ".join(words)


def with_greeting(text: str, rng: random.Random) -> str:
    return rng.choice(["Hi, ", "Hello there, ", "Good morning. ", "Dear team, "]) + text


CHANGES = {
    "typo": with_typo,
    "swap": with_swap,
    "greeting": with_greeting,
    "case": lambda text, rng: text.upper(),
    "punctuation": lambda text, rng: text.replace(" ", ", ", 1) + " !!",
}


def test_every_kind_of_copy_is_told_apart() -> None:
    rows = [
        ("where is my parcel", "a"),
        ("where is my parcel", "a "),
        ("where is my parcel", "b"),
        ("i would like my money back as soon as you can", "a"),
        ("i would like my money back as soon as you cna", "a"),
        ("i would like my money bakc as soon as you can", "b"),
        ("please do close my account today", "a"),
        ("", "a"),
        ("", "a"),
    ]
    kinds = near_copies.find_copies(rows, ["please close my account today"], 0.7)
    assert kinds.tolist() == [
        KEPT, DUPLICATE, CONFLICT, KEPT, NEAR_DUPLICATE, KEPT, LEAKED, KEPT, DUPLICATE,
    ]  # fmt: skip
    apart = near_copies.find_copies(rows, [], 0.7, nearly=False)
    assert apart.tolist()[4:7] == [KEPT, KEPT, KEPT]
    assert near_copies.find_copies([], ["x"], 0.7).tolist() == []


def test_similarity_is_the_jaccard_of_the_shingles() -> None:
    # Two marks on both ends give "abc" the five shingles "^^a" ... "c$$"; "abd" shares "^^a" and
    # "^ab": 2 of 5 + 5 - 2 = 8.
    mine, theirs = near_copies.shingles("abc", 3), near_copies.shingles("abd", 3)
    assert near_copies.jaccard(mine, theirs) == pytest.approx(2 / 8)
    assert near_copies.shingle_size(["x" * 199]) == 3
    assert near_copies.shingle_size(["x" * 200]) == 5


@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
def test_hardly_a_pair_of_all_is_missed(threshold: float) -> None:
    rng = random.Random(0)
    texts = support_messages()[:120]
    changed = [normal(rng.choice([*CHANGES.values()])(text, rng)) for text in texts]
    items = [normal(text) for text in texts]
    grams = [near_copies.shingles(item, 3) for item in items]
    expected = [
        max(near_copies.jaccard(near_copies.shingles(text, 3), other) for other in grams)
        >= threshold
        for text in changed
    ]
    kinds = near_copies.find_copies([(text, "a") for text in changed], items, threshold)
    is_copy = kinds == LEAKED
    assert 20 < sum(expected) <= 120
    missed = sum(e and not c for e, c in zip(expected, is_copy, strict=True))
    assert missed <= 0.01 * sum(expected)
    assert not any(c and not e for e, c in zip(expected, is_copy, strict=True))


def test_planted_copies_are_found_and_other_messages_are_not() -> None:
    """Recall by kind of change; what fails at 0.8 is short: a word is a fifth of the text."""
    rng = random.Random(1)
    texts = support_messages()
    eval_items, others = [normal(text) for text in texts[::2]], [normal(t) for t in texts[1::2]]
    recall: dict[str, float] = {}
    for name, change in CHANGES.items():
        rows = [(normal(change(text, rng)), "a") for text in texts[::2]]
        kinds = near_copies.find_copies(rows, eval_items, 0.8)
        recall[name] = float((kinds != KEPT).mean())
    assert recall["case"] == recall["punctuation"] == 1
    assert min(recall.values()) >= 0.85
    unrelated = near_copies.find_copies([(text, "a") for text in others], eval_items, 0.8)
    assert (unrelated == KEPT).all()


def test_a_copy_of_a_copy_stays_when_its_original_is_far() -> None:
    # b is near a and c; c is not near a. b goes, so nothing that stays is near c.
    a = "one two three four five six seven eight nine ten"
    b = "one two three four five six seven eight nine tenfold up"
    c = "one two three four five six seven eight ninety tenfold up high"
    first, second, third = (near_copies.shingles(text, 3) for text in (a, b, c))
    assert near_copies.jaccard(first, second) >= 0.75 > near_copies.jaccard(first, third)
    assert near_copies.jaccard(second, third) >= 0.75
    kinds = near_copies.find_copies([(text, "x") for text in (a, b, c)], [], 0.75)
    assert kinds.tolist() == [KEPT, NEAR_DUPLICATE, KEPT]
    assert near_copies.leaders([a, b, c], 0.75).tolist() == [0, 0, 2]


def test_many_eval_items_are_found_as_a_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """More of both than are looked at in one go."""
    monkeypatch.setattr(near_copies, "BATCH", 16)
    rows = [(f"order {k} of the blue kettle number {k * 7919} is late", "a") for k in range(100)]
    items = [text for text, _ in rows[::-1]][:40]
    kinds = near_copies.find_copies(rows, items, 1.0, nearly=False)
    assert kinds.tolist() == [KEPT] * 60 + [LEAKED] * 40
    whole, last = near_copies.sketches(items, 3), near_copies.sketches(items[-1:], 3)
    assert whole.shape == (40, near_copies.SKETCH)
    assert (whole[-1] == last[0]).all()
    assert near_copies.sketches([], 3).shape == (0, near_copies.SKETCH)
