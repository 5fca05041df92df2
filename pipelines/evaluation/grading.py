"""Every Response gets exactly one Score per metric; whose fault a missing answer is decides it."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from pydantic import JsonValue

from pipelines import metrics
from pipelines.core.errors import ConfigError, ScoringError, Unparseable
from pipelines.core.records import Example, Response, Score
from pipelines.core.study import Grading
from pipelines.core.workload import MetricSpec

UNPARSEABLE = "unparseable: "
MAX_AHEAD = 256
"""Rows that are held while an earlier one is still being graded."""
Row = tuple[Example, Response]


def grade(
    name: str,
    spec: MetricSpec,
    examples: Iterable[Example],
    responses: Iterable[Response],
    grading: Grading,
) -> Iterator[Score]:
    """Score every response, in order; some metrics grade several at a time (`metrics.workers`).

    A call that failed is nobody's fault: `value=None` with the reason, which lowers coverage. A
    refusal, a filter, a prompt too long and an answer that cannot be parsed are the candidate's:
    0.0 with the reason. Cut and refused answers are graded as the study says.
    """
    score, whole = metrics.load(spec.metric), metrics.whole_set(spec.metric)

    def graded(row: Row) -> Score:
        example, response = row
        value, weight, reason, text = None, 1.0, "", ""
        if not response.is_final:
            reason = response.error or response.outcome
        else:
            # Graded as an empty answer, which is wrong but weighs what it should.
            wrong = response.text is None or grading.is_wrong(response.outcome)
            text = "" if wrong else response.text or ""
            try:
                if spec.metric == metrics.RECORDED_SCORE:
                    found = 0.0 if wrong else _recorded(response, spec.params.get("name"))
                else:
                    found = score(example, text, **spec.params)
                value, weight = found if isinstance(found, metrics.Weighted) else (found, 1.0)
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
        return Score(
            example_id=example.id,
            metric=name,
            value=value,
            weight=weight,
            labels=labels,
            reason=reason,
        )

    rows = zip(examples, responses, strict=True)
    return _in_order(graded, rows, metrics.workers(spec.metric))


def trial(name: str, spec: MetricSpec, items: Iterable[Sequence[Example]]) -> bool:
    """Grade an item's own target, before anything is asked or paid.

    The first item that can be graded is enough. Where none can, the parameters are wrong, such as a
    field that no target has, unless it is the machine that lacks something.

    Args:
        name: of the metric in the study.
        spec: what it computes; not a judged one.
        items: each as often as it will be asked.

    Returns:
        True when the metric is a plain mean of its items, as far as this one tells.

    Raises:
        ConfigError: there is no such metric, or its parameters do not fit; names the metric.
    """
    if spec.metric == metrics.RECORDED_SCORE:
        return True
    score, whole = metrics.load(spec.metric), metrics.whole_set(spec.metric)
    where = f"workload.metrics.{name}"
    try:
        inspect.signature(score).bind(None, "", **spec.params)
    except TypeError as error:
        raise ConfigError(
            f"{where}: {spec.metric}: {error}; its parameters: {_parameters(score)}"
        ) from None
    problem = None
    for samples in items:
        example = samples[0]
        try:
            found = score(example, example.target, **spec.params)
            if whole is not None:
                labels = {e.id: whole.label(e, e.target, **spec.params) for e in samples}
                groups = {e.id: e.group for e in samples if e.group is not None}
                whole.of_labels(labels, groups, **spec.params)
            return whole is None and (not isinstance(found, metrics.Weighted) or found.weight == 1)
        except Unparseable as error:
            return whole is None and error.weight == 1
        except ScoringError as error:
            if f"example {example.id}" not in str(error):
                raise ConfigError(f"{where}: {error}") from None
            if error.__cause__ is not None:  # no sandbox, a package that is missing
                return whole is None
            problem = problem or error
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            raise ConfigError(
                f"{where}: {spec.metric} cannot grade example {example.id} with params "
                f"{spec.params}: {type(error).__name__}: {error}"
            ) from error
    if problem is not None:
        raise ConfigError(f"{where}: not one item can be graded; the first one: {problem}")
    return whole is None


def no_quality(name: str) -> ConfigError:
    """What to raise where the quality is a metric that `trial` calls no plain mean."""
    return ConfigError(
        f"workload.quality: {name!r} is a figure of the whole set, which cannot be compared item "
        "by item; keep it in metrics and choose another one as quality"
    )


def _in_order(
    graded: Callable[[Row], Score], rows: Iterable[Row], n_workers: int
) -> Iterator[Score]:
    """`map` with threads that work ahead, but by no more than MAX_AHEAD rows."""
    if n_workers == 1:
        yield from map(graded, rows)
        return
    ahead: deque[Future[Score]] = deque()
    with ThreadPoolExecutor(n_workers) as pool:
        try:
            for row in rows:
                ahead.append(pool.submit(graded, row))
                if len(ahead) == MAX_AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _parameters(score: metrics.ScoreText) -> str:
    """Names of a metric's parameters, those without a default marked."""
    _, _, *parameters = inspect.signature(score).parameters.values()
    names = [
        f"{each.name}{' (needed)' if each.default is each.empty else ''}" for each in parameters
    ]
    return ", ".join(names) or "it has none"


def _recorded(response: Response, name: JsonValue) -> float:
    """What the harness that recorded the answer scored under `name`."""
    known = response.recorded_scores
    if not isinstance(name, str) or name not in known:
        raise ScoringError(
            f"{response.example_id}: no recorded score {name!r}; params.name may be: "
            f"{', '.join(sorted(known)) or 'none, for nothing was recorded'}"
        )
    return known[name]
