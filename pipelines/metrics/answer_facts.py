"""1.0 when a short answer states all facts, or abstains where there is no answer; else 0.0.

The example's metadata holds `keys`: for each fact the texts that state it. An example without keys
has no answer, and the right thing is to say so.
"""

from __future__ import annotations

import re
import unicodedata

from pydantic import JsonValue

from pipelines.core.errors import ScoringError
from pipelines.core.records import Example, Message
from pipelines.metrics import Weighted

ABSTAINS = "NOT_IN_HANDBOOK"


def score(
    example: Example,
    text: str,
    *,
    figure: str = "correct",
    abstains: str = ABSTAINS,
    max_words: int = 80,
) -> float | Weighted:
    """Look for the facts as whole words, whatever their case.

    Args:
        example: has `keys` in its metadata.
        text: the answer; what stands in square brackets is a citation and is left out.
        figure: `correct` every item · `answered` the share of right answers to the questions that
            have one · `abstention_precision` share of the abstentions that were right ·
            `abstention_recall` share of the questions without an answer that were declined.
        abstains: what the instructions ask for where there is no answer.
        max_words: a longer answer is wrong: it may state everything and its opposite.

    Raises:
        ScoringError: the metadata has no keys, or there is no such figure.
    """
    keys = _keys(example)
    declined = abstains.casefold() in text.casefold()
    unanswerable = not keys
    if declined:
        right = unanswerable
    else:
        plain = _plain(re.sub(r"\[[^\]]*\]", " ", text))
        stated = all(any(_plain(each) in plain for each in fact) for fact in keys)
        right = bool(keys) and stated and len(text.split()) <= max_words
    match figure:
        case "correct":
            return float(right)
        case "answered":
            return Weighted(float(right), float(not unanswerable))
        case "abstention_precision":
            return Weighted(float(unanswerable), float(declined))
        case "abstention_recall":
            return Weighted(float(declined), float(unanswerable))
        case _:
            raise ScoringError(f"answer_facts: unknown figure {figure!r}")


def contract_example() -> Example:
    """An example for the contract tests."""
    return Example(
        id="e1",
        messages=(Message(role="user", content="How long is parental leave?"),),
        target="Twelve weeks.",
        metadata={"keys": [["12 weeks", "twelve weeks"]]},
    )


def _keys(example: Example) -> list[list[str]]:
    raw: JsonValue = example.metadata.get("keys")
    if not isinstance(raw, list) or not all(isinstance(fact, list) for fact in raw):
        raise ScoringError(f"answer_facts needs metadata.keys; example {example.id} has none")
    return [[str(each) for each in fact] for fact in raw if isinstance(fact, list)]


def _plain(text: str) -> str:
    """Words and signs in lower case between single spaces, so that `5 days` is not in `15 days`."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace(",", "")
    words = re.findall(r"[^\W_]+|[£$€%&+-]", folded)
    return f" {' '.join(words)} "
