"""The rival that everybody forgets: TF-IDF and logistic regression, no LLM."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union

from pipelines.core.errors import DataError
from pipelines.core.records import Message, TrainingRow
from pipelines.serving.loopback import Reply, openai_server


def fit(rows: Sequence[TrainingRow]) -> Any:
    """Learn to answer a question with the whole text of one of the known answers.

    Raises:
        DataError: all rows have the same answer.
    """
    questions = [_question(row.messages[:-1]) for row in rows]
    answers = [row.messages[-1].content for row in rows]
    if len(set(answers)) < 2:
        raise DataError("the classical baseline needs at least two different answers to learn from")
    model = make_pipeline(
        make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        ),
        LogisticRegression(C=10, max_iter=1000),
    )
    return model.fit(questions, answers)


@asynccontextmanager
async def serve(model: str, rows: Sequence[TrainingRow]) -> AsyncGenerator[str]:
    """Fit on `rows` and serve; yields the base URL."""
    classifier = fit(rows)

    async def answer(messages: tuple[Message, ...]) -> Reply:
        return Reply(text=str(classifier.predict([_question(messages)])[0]))

    async with openai_server(model, answer) as base_url:
        yield base_url


def _question(messages: Sequence[Message]) -> str:
    return "\n".join(m.content for m in messages if m.role == "user")
