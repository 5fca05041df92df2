"""Results of promptfoo, written by `promptfoo eval --output results.json`.

An answer's item is the test's variable `id`, else the number of the test, or its description
where the eval set knows none of the numbers. Several providers or prompts give several answers to
an item; `#PROVIDER`, or `#PROVIDER, column N` where a provider has several prompts, chooses. What
promptfoo states as cost is not used: the price book prices all candidates alike. An answer from
promptfoo's cache has no token counts, and only the latency that was stored with it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.core.records import Outcome, Usage
from pipelines.evaluation.imports import (
    Count,
    Foreign,
    RecordedAnswer,
    Row,
    Seconds,
    kept_scores,
    read_document,
    usage_of,
)
from pipelines.providers.http import OUTCOMES, logprob, mean_logprob

TITLE = "promptfoo results"
ERROR = 2
"""`failureReason` when something broke, rather than an assertion failed."""


class _Details(Foreign):
    reasoning: Count | None = None
    cacheReadInputTokens: Count | None = None


class _Tokens(Foreign):
    prompt: Count | None = None
    completion: Count | None = None
    completionDetails: _Details | None = None


class _Response(Foreign):
    output: Any = None
    error: str | None = None
    cached: bool | None = None
    isRefusal: bool | None = None
    finishReason: str | None = None
    latencyMs: Seconds | None = None
    tokenUsage: _Tokens | None = None
    logProbs: Any = None
    """A number for each token."""


class _Provider(Foreign):
    id: str = ""
    label: str | None = None


class _Result(Foreign):
    promptIdx: int
    testIdx: int
    description: str | None = None
    vars: dict[str, Any] = {}
    provider: _Provider
    response: _Response | None = None
    error: str | None = None
    failureReason: int = 0
    success: Any = None
    score: Any = None
    namedScores: dict[str, Any] | None = None
    latencyMs: Seconds | None = None


class _Summary(Foreign):
    results: list[_Result]


class _File(Foreign):
    results: _Summary


def detects(head: bytes, path: Path) -> bool:
    """The first keys are `evalId`, which older files lack, and `results`."""
    start = rb'\s*\{\s*(?:"evalId"\s*:\s*(?:"[^"]*"|null)\s*,\s*)?"results"\s*:\s*\{'
    return re.match(start, head) is not None


def read(path: Path) -> Iterator[Row]:
    """The answers in the file.

    Raises:
        DataError: it is broken.
    """
    results = read_document(path, _File).results.results
    columns = {result.promptIdx: _name(result.provider) for result in results}
    n_prompts = Counter(columns.values())
    for number, result in enumerate(results):
        name = _name(result.provider)
        if n_prompts[name] > 1:
            name += f", column {result.promptIdx + 1}"
        named = result.vars.get("id")
        id = named if isinstance(named, str | int) else result.testIdx
        graded = {} if result.failureReason == ERROR else _graded(result)
        scores, n_left_out = kept_scores(graded)
        answer = _answer(str(id), result, scores)
        yield Row(f"result {number}", answer, name, result.description, n_left_out)


def _name(provider: _Provider) -> str:
    return provider.label or provider.id


def _graded(result: _Result) -> dict[str, Any]:
    return {**(result.namedScores or {}), "success": result.success, "score": result.score}


def _answer(id: str, result: _Result, scores: dict[str, float]) -> RecordedAnswer:
    response = result.response or _Response()
    text, output = None, response.output
    if output is not None and response.error is None:
        text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
    milliseconds = response.latencyMs
    if milliseconds is None and not response.cached:
        milliseconds = result.latencyMs
    return RecordedAnswer(
        id=id,
        text=text,
        error=None if text is not None else response.error or result.error or "no output",
        outcome=_outcome(response) if text is not None else None,
        usage=_usage(response.tokenUsage),
        model=result.provider.id or None,
        finish_reason=response.finishReason,
        latency_s=None if milliseconds is None or text is None else milliseconds / 1000,
        mean_logprob=_mean_logprob(response.logProbs) if text is not None else None,
        scores=scores,
    )


def _mean_logprob(said: object) -> float | None:
    return mean_logprob([logprob(each) for each in said]) if isinstance(said, list) else None


def _outcome(response: _Response) -> Outcome:
    if response.isRefusal:
        return "refused"
    return OUTCOMES.get(response.finishReason or "", "answered")


def _usage(tokens: _Tokens | None) -> Usage | None:
    if tokens is None:
        return None
    details = tokens.completionDetails or _Details()
    return usage_of(
        tokens.prompt, tokens.completion, details.cacheReadInputTokens, details.reasoning
    )
