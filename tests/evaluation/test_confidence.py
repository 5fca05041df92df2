"""How sure a candidate was: the best source there is, and never one that knows the target."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.core.records import Outcome, Response
from pipelines.core.workload import MetricSpec
from pipelines.evaluation.confidence import Confidences, confidences
from pipelines.metrics import code_tests

EXACT = {"accuracy": MetricSpec(metric="exact_match")}
IDS = [f"{item}#{k}" for item in "abc" for k in range(3)]
LOGPROB = "the mean log-probability of an answer's tokens"


def response(
    example_id: str,
    text: str | None = "a",
    mean_logprob: float | None = None,
    outcome: Outcome = "answered",
) -> Response:
    return Response(
        example_id=example_id,
        request_sha256="0",
        text=text,
        error="no" if text is None else None,
        outcome=outcome,
        model="m",
        started_at_s=0,
        latency_s=1,
        mean_logprob=mean_logprob,
    )


def sampled(**texts: str) -> list[Response]:
    """`a="xxy"` = item a was asked three times and answered x, x and y."""
    return [
        response(f"{item}#{k}", text) for item, said in texts.items() for k, text in enumerate(said)
    ]


def scored(metric: str, **values: float | None) -> dict[str, dict[str, float | None]]:
    return {metric: values}


def rubric(**params: Any) -> MetricSpec:
    return MetricSpec(metric="rubric", judges=("j",), params={"rubric": "good?", **params})


def test_token_probabilities_come_first() -> None:
    answers = [response("a#0", "x", -0.5), response("a#1", "y", -0.1), response("b#0", "x", -2)]
    specs = {**EXACT, "fluent": rubric(reference=False)}
    judged = scored("fluent", **{"a#0": 1.0, "a#1": 0.5, "b#0": 0.0})
    found = confidences(answers, judged, specs, "accuracy", n_samples=2)
    assert found == Confidences({"a#0": -0.5, "a#1": -0.1, "b#0": -2.0}, LOGPROB)


def test_what_is_no_answer_has_no_confidence() -> None:
    found = confidences(
        [
            response("a", "x", -0.5),
            response("cut", "x", -1.5, "truncated"),
            response("refused", "no", -0.1, "refused"),
            response("filtered", "x", -0.1, "filtered"),
            response("failed", None, None, "failed"),
        ],
        {},
        EXACT,
        "accuracy",
    )
    assert found is not None
    assert found.by_id == {"a": -0.5, "cut": -1.5}


@pytest.mark.parametrize(("known", "is_source"), [(1, False), (2, True)])
def test_a_source_that_knows_less_than_half_is_none(known: int, is_source: bool) -> None:
    some = [response(f"i{k}", "x", -0.1 * k if k < known else None) for k in range(4)]
    if known == 1:
        some += [response("j", "x", -0.9)]  # 2 of 5
    found = confidences(some, {}, EXACT, "accuracy")
    assert (found is not None) == is_source


def test_nothing_to_go_by_is_none() -> None:
    assert confidences([response("a"), response("b")], {}, EXACT, "accuracy") is None
    assert confidences([], {}, EXACT, "accuracy", n_samples=3) is None
    equal = [response("a", "x", -0.1), response("b", "y", -0.1)]
    assert confidences(equal, {}, EXACT, "accuracy") is None


def test_agreement_is_the_share_of_the_other_answers_that_say_the_same() -> None:
    found = confidences(sampled(a="xXy", b="zzz", c="xyz"), {}, EXACT, "accuracy", n_samples=3)
    assert found is not None
    # a: each x has one of its two others with it, the y has none.
    values = [0.5, 0.5, 0, 1, 1, 1, 0, 0, 0]
    assert found.by_id == dict(zip(IDS, values, strict=True))
    assert found.n_calls == 3
    assert found.source == (
        "the agreement of 3 answers to the same item, compared as accuracy does"
    )


def test_an_answer_without_another_one_to_the_item_has_no_agreement() -> None:
    answers = [
        *sampled(a="xx", b="xy"),
        response("c#0", "x"),
        response("c#1", None, None, "failed"),
    ]
    found = confidences(answers, {}, EXACT, "accuracy", n_samples=2)
    assert found is not None
    assert found.by_id == {"a#0": 1, "a#1": 1, "b#0": 0, "b#1": 0}


def test_an_item_whose_id_has_a_number_sign_is_one_item() -> None:
    answers = [response("doc#1#0", "x"), response("doc#1#1", "x"), response("doc#2#0", "y")]
    answers.append(response("doc#2#1", "x"))
    found = confidences(answers, {}, EXACT, "accuracy", n_samples=2)
    assert found is not None
    assert found.by_id == {"doc#1#0": 1, "doc#1#1": 1, "doc#2#0": 0, "doc#2#1": 0}
    assert confidences(answers, {}, EXACT, "accuracy") is None  # asked once each


def test_answers_are_compared_by_what_the_quality_reads() -> None:
    specs = {"intent": MetricSpec(metric="json_field", params={"field": "intent"})}
    texts = ['{"intent": "pay", "why": "a"}', '```json\n{"intent": "pay"}\n```', "pay", "pay"]
    answers = [response(f"a#{k}", text) for k, text in enumerate(texts)]
    found = confidences(answers, {}, specs, "intent", n_samples=4)
    assert found is not None
    # Two of four hold the same field; what cannot be read agrees with nothing, itself included.
    assert found.by_id == pytest.approx({"a#0": 1 / 3, "a#1": 1 / 3, "a#2": 0, "a#3": 0})


def test_long_answers_agree_by_degrees() -> None:
    specs = {"overlap": MetricSpec(metric="rouge_l")}
    answers = [response("a#0", "one two three four"), response("a#1", "one two three five")]
    answers += [response("b#0", "same"), response("b#1", "same")]
    found = confidences(answers, {}, specs, "overlap", n_samples=2)
    assert found is not None
    assert found.by_id == {"a#0": 0.75, "a#1": 0.75, "b#0": 1, "b#1": 1}  # 2 x 3 of 4 + 4 words


@pytest.mark.parametrize(
    "spec",
    [
        MetricSpec(metric="citations"),  # needs the item's metadata
        MetricSpec(metric="code_tests"),  # runs the code
        MetricSpec(metric="code_parses"),  # looks at one answer alone
        MetricSpec(metric="recorded_score", params={"name": "f1"}),
        rubric(),
    ],
    ids=lambda spec: spec.metric,
)
def test_answers_that_cannot_be_compared_so_are_compared_as_texts(spec: MetricSpec) -> None:
    answers = [*sampled(a="xx", b="xy"), response("c#0", " z"), response("c#1", "z\n")]
    found = confidences(answers, {}, {"quality": spec}, "quality", n_samples=2)
    assert found is not None
    assert found.by_id == {"a#0": 1, "a#1": 1, "b#0": 0, "b#1": 0, "c#0": 1, "c#1": 1}
    assert found.source.endswith("compared as texts")


def test_no_code_is_run_to_compare_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_tests, "score", lambda *_, **__: 1.0)
    specs = {"passes": MetricSpec(metric="code_tests")}
    found = confidences(sampled(a="xx", b="xy"), {}, specs, "passes", n_samples=2)
    assert found is not None
    assert found.by_id == {"a#0": 1, "a#1": 1, "b#0": 0, "b#1": 0}


@pytest.mark.parametrize("hostile", ["[" * 100_000, '{"intent": ' + "9" * 5000 + "}", "\ud800", ""])
def test_an_answer_that_breaks_the_metric_agrees_with_nothing(hostile: str) -> None:
    specs = {"intent": MetricSpec(metric="json_field", params={"field": "intent"})}
    good = '{"intent": "pay"}'
    answers = [response("a#0", good), response("a#1", good), response("a#2", hostile)]
    found = confidences(answers, {}, specs, "intent", n_samples=3)
    assert found is not None
    assert found.by_id == {"a#0": 0.5, "a#1": 0.5, "a#2": 0}


def test_equal_answers_everywhere_say_nothing_and_a_judge_is_asked() -> None:
    specs = {**EXACT, "fluent": rubric(reference=False)}
    answers = sampled(a="xx", b="yy")
    judged = scored("fluent", **{"a#0": 0.75, "a#1": None, "b#0": 0.25, "b#1": 0.5, "gone#0": 1.0})
    found = confidences(answers, judged, specs, "accuracy", n_samples=2)
    assert found == Confidences(
        {"a#0": 0.75, "b#0": 0.25, "b#1": 0.5}, "what its judges say of fluent", metric="fluent"
    )


@pytest.mark.parametrize(
    ("spec", "is_source"),
    [
        (rubric(reference=False), True),
        (rubric(reference=False, context=True), True),
        (rubric(), False),
        (rubric(reference=True), False),
        (MetricSpec(metric="pairwise", judges=("j",), params={"reference": False}), False),
        (MetricSpec(metric="ragas", judges=("j",)), True),
        (MetricSpec(metric="ragas", judges=("j",), params={"metric": "answer_accuracy"}), False),
        (MetricSpec(metric="ragas", judges=("j",), params={"metric": "context_recall"}), False),
        (MetricSpec(metric="rouge_l"), False),
    ],
)
def test_only_a_judge_that_sees_what_is_there_in_operation_is_a_source(
    spec: MetricSpec, is_source: bool
) -> None:
    answers, judged = [response("a"), response("b")], scored("other", a=1.0, b=0.0)
    found = confidences(answers, judged, {**EXACT, "other": spec}, "accuracy")
    assert (found is not None) == is_source
    assert confidences(answers, judged, {"other": spec}, "other") is None  # it is the quality


def test_scores_of_other_metrics_never_count() -> None:
    answers = [response("a"), response("b")]
    assert confidences(answers, scored("accuracy", a=1.0, b=0.0), EXACT, "accuracy") is None
