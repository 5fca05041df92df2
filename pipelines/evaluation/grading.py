"""Every Response gets exactly one Score per metric; whose fault a missing answer is decides it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import JsonValue

from pipelines import metrics
from pipelines.core.errors import ScoringError, Unparseable
from pipelines.core.records import Example, Response, Score
from pipelines.core.study import Grading, MetricSpec

UNPARSEABLE = "unparseable: "


def grade(
    name: str,
    spec: MetricSpec,
    examples: Iterable[Example],
    responses: Iterable[Response],
    grading: Grading,
) -> Iterator[Score]:
    """Score every response.

    A call that failed is nobody's fault: `value=None` with the reason, which lowers coverage. A
    refusal, a filter, a prompt too long and an answer that cannot be parsed are the candidate's:
    0.0 with the reason. Cut and refused answers are graded as the study says.
    """
    score, whole = metrics.load(spec.metric), metrics.whole_set(spec.metric)
    for example, response in zip(examples, responses, strict=True):
        value, weight, reason, text = None, 1.0, "", ""
        if not response.is_final:
            reason = response.error or response.outcome
        else:
            # Graded as an empty answer, which is wrong but weighs what it should.
            wrong = response.text is None or grading.is_wrong(response.outcome)
            text = "" if wrong else response.text or ""
            try:
                if spec.metric == metrics.RECORDED_SCORE:
                    graded = 0.0 if wrong else _recorded(response, spec.params.get("name"))
                else:
                    graded = score(example, text, **spec.params)
                value, weight = graded if isinstance(graded, metrics.Weighted) else (graded, 1.0)
            except Unparseable as problem:
                value, weight, reason = 0.0, problem.weight, f"{UNPARSEABLE}{problem}"
            except ScoringError as problem:
                reason = str(problem)
            if wrong and value is not None:
                value = 0.0
                reason = f"{response.outcome}: {response.error or response.finish_reason}"
        labels = None
        if whole is not None and value is not None:
            labels = whole.label(example, text, **spec.params)
        yield Score(
            example_id=example.id,
            metric=name,
            value=value,
            weight=weight,
            labels=labels,
            reason=reason,
        )


def _recorded(response: Response, name: JsonValue) -> float:
    """What the harness that recorded the answer scored under `name`."""
    known = response.recorded_scores
    if not isinstance(name, str) or name not in known:
        raise ScoringError(
            f"{response.example_id}: no recorded score {name!r}; params.name may be: "
            f"{', '.join(sorted(known)) or 'none, for nothing was recorded'}"
        )
    return known[name]
