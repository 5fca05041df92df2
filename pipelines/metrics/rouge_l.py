"""How much of a long answer stands in a reference in the same order of words (ROUGE-L, 0 to 1).

It sees words, not meaning: a right answer in other words scores low, and one that copies the
reference but for a "not" scores high. A judge is needed where that matters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipelines.core.errors import ScoringError
from pipelines.core.records import Example
from pipelines.metrics import Weighted


def score(
    example: Example, text: str, *, figure: str = "f1", leave_out: str | None = None
) -> float | Weighted:
    """Longest common subsequence of words, whatever their case; the nearest reference counts.

    Args:
        example: `references` in its metadata, a list of texts; without it the target counts.
        text: the answer; what stands in square brackets is a citation and is left out.
        figure: `precision` share of the answer's words that are common · `recall` share of the
            reference's · `f1` their harmonic mean.
        leave_out: items with this target do not count, such as those without an answer.

    Raises:
        ScoringError: there is no reference with a word, or no such figure.
    """
    if figure not in ("f1", "precision", "recall"):
        raise ScoringError(f"rouge_l: unknown figure {figure!r}")
    raw = example.metadata.get("references")
    references = [str(each) for each in raw] if isinstance(raw, list) else [example.target]
    if not (wanted := [words for each in references if (words := _words(each))]):
        raise ScoringError(f"rouge_l needs a reference; example {example.id} has none")
    answer = _words(text)
    value = max(_value(reference, answer, figure) for reference in wanted)
    if leave_out is None:
        return value
    return Weighted(value, float(example.target.strip() != leave_out))


def _value(reference: Sequence[str], answer: Sequence[str], figure: str) -> float:
    if not answer:
        return 0.0
    n_common = common_words(reference, answer)
    if figure == "precision":
        return n_common / len(answer)
    if figure == "recall":
        return n_common / len(reference)
    return 2 * n_common / (len(answer) + len(reference))


def common_words(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence.

    Bit-parallel (Hyyrö 2004): a few operations on one integer per word of `second`, so that an
    endless answer costs no endless time.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    everywhere = (1 << len(first)) - 1
    unmatched = everywhere
    for word in second:
        matching = unmatched & places.get(word, 0)
        unmatched = ((unmatched + matching) | (unmatched - matching)) & everywhere
    return len(first) - unmatched.bit_count()


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", re.sub(r"\[[^\]]*\]", " ", text).casefold())
