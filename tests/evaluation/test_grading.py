"""Grading works ahead and keeps the order; a metric that cannot work is found before any call."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from pydantic import JsonValue

from pipelines.core.command import Options
from pipelines.core.config import load_study
from pipelines.core.errors import ConfigError
from pipelines.core.paths import ROOT
from pipelines.core.records import Example, Message, Response
from pipelines.core.study import Grading
from pipelines.core.workload import MetricSpec
from pipelines.data.sources import load_eval, resolve
from pipelines.evaluate import evaluate
from pipelines.evaluation import grading
from pipelines.evaluation.asked import repeated
from pipelines.evaluation.grading import grade, trial
from pipelines.evaluation.scores import ScoreBook
from pipelines.metrics import code_pass_at_k, exact_match
from pipelines.sandbox import Unavailable, confine, run

QUESTION = (Message(role="user", content="?"),)
EXACT = MetricSpec(metric="exact_match")


def items(*targets: str, metadata: Mapping[str, JsonValue] | None = None) -> list[Example]:
    return [
        Example(id=f"e{k}", messages=QUESTION, target=target, metadata=metadata or {})
        for k, target in enumerate(targets)
    ]


def answer(example: Example, text: str) -> Response:
    return Response(
        example_id=example.id,
        request_sha256="",
        text=text,
        model="m",
        started_at_s=0.0,
        latency_s=0.1,
    )


def try_out(metric: str, params: dict[str, JsonValue], examples: list[Example], n: int = 1) -> bool:
    spec = MetricSpec(metric=metric, params=params)
    return trial("mine", spec, (repeated([each], n) for each in examples))


def test_several_are_graded_at_a_time_and_come_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    others_done = threading.Semaphore(0)

    def slow_first(example: Example, text: str) -> float:
        if example.id == "e0":
            for _ in range(3):
                assert others_done.acquire(timeout=10)
        others_done.release()
        return float(text)

    monkeypatch.setattr(exact_match, "WORKERS", 2, raising=False)
    monkeypatch.setattr(exact_match, "score", slow_first)
    examples = items(*"abcdef")
    answers = [answer(example, f"0.{k}") for k, example in enumerate(examples)]
    scores = list(grade("mine", EXACT, examples, answers, Grading()))
    assert [(s.example_id, s.value) for s in scores] == [(f"e{k}", k / 10) for k in range(6)]


def test_no_more_than_some_rows_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    examples, n_read = items(*"a" * 40), 0

    def answers() -> Iterator[Response]:
        nonlocal n_read
        for example in examples:
            n_read += 1
            yield answer(example, "a")

    monkeypatch.setattr(exact_match, "WORKERS", 2, raising=False)
    monkeypatch.setattr(grading, "MAX_AHEAD", 5)
    seen = []
    for score in grade("mine", EXACT, examples, answers(), Grading()):
        seen.append(score.example_id)
        assert n_read <= len(seen) + 4
    assert seen == [example.id for example in examples]


def test_an_error_ends_it_and_what_waits_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def failing(example: Example, text: str) -> float:
        called.append(example.id)
        if example.id == "e0":
            raise ConfigError("no such thing")
        time.sleep(0.05)
        return 1.0

    monkeypatch.setattr(exact_match, "WORKERS", 2, raising=False)
    monkeypatch.setattr(exact_match, "score", failing)
    examples = items(*"a" * 40)
    answers = [answer(example, "a") for example in examples]
    with pytest.raises(ConfigError, match="no such thing"):
        list(grade("mine", EXACT, examples, answers, Grading()))
    assert len(called) < 20  # all 40 are waiting when the first one's error is seen


def test_pass_at_k_from_answers_to_its_figure() -> None:
    try:
        run("")
    except Unavailable as reason:
        pytest.skip(f"no sandbox on this machine: {reason}")
    examples = repeated([code_pass_at_k.contract_example()], 5)
    texts = ["def double(x): return x * 2"] * 2 + ["def double(x): return 4 + x"] * 3
    answers = [answer(example, text) for example, text in zip(examples, texts, strict=True)]
    spec = MetricSpec(metric="code_pass_at_k", params={"k": 3})
    book = ScoreBook({"pass_at_3": spec})
    list(book.noting(grade("pass_at_3", spec, examples, answers, Grading())))
    found = book.estimates({each.id: each.group or "" for each in examples})["pass_at_3"]
    assert found is not None
    assert found.mean == pytest.approx(0.9)
    assert (found.n_scored, found.n_total) == (5, 5)
    assert not book.is_plain_mean("pass_at_3")


@pytest.mark.parametrize(
    ("metric", "params", "message"),
    [
        ("json_field", {}, r"json_field: missing.*'field'; its parameters: field \(needed\)"),
        ("json_field", {"feild": "a", "field": "a"}, r"unexpected.*'feild'; its parameters: field"),
        ("exact_match", {"case": True}, r"unexpected.*'case'; its parameters: it has none"),
        ("json_field", {"field": "c"}, r"not one item can be graded.*example e0 has no field 'c'"),
        ("json_fields", {"figure": "f2"}, r"unknown figure 'f2'"),
        ("json_fields", {"types": {"a": "dat"}}, r"unknown type 'dat'"),
        (
            "json_fields",
            {"types": ["a"]},
            r"json_fields cannot grade example e0 with params .*AttributeError",
        ),
        (
            "json_fields",
            {"ignore": 5},
            r"json_fields cannot grade example e0 with params .*TypeError",
        ),
        ("json_macro_f1", {"field": "c"}, r"example e0 has no field 'c'"),
        ("rouge_l", {"figure": "f2"}, r"unknown figure 'f2'"),
        ("code_scan", {"severity": "grave"}, r"severity 'grave'; it is one of low"),
        ("code_pass_at_k", {"k": 0}, r"k is 0; it is a whole number"),
    ],
)
def test_wrong_parameters_are_one_error_that_names_the_metric(
    metric: str, params: dict[str, JsonValue], message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^workload\.metrics\.mine: .*{message}"):
        try_out(metric, params, items('{"a": 1}', '{"a": 2}'))


def test_an_item_that_lacks_something_is_no_wrong_parameter() -> None:
    assert try_out("json_field", {"field": "c"}, items('{"a": 1}', '{"c": 1}'))
    # Neither is a machine that lacks something.
    tests: dict[str, JsonValue] = {"tests": ["assert f(1) == 1"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confine, "landlock_abi", lambda: -1)
        assert try_out("code_tests", {}, items("def f(x): return 1  # nor seen", metadata=tests))
    assert try_out("recorded_score", {"name": "theirs"}, items("a"))


def test_more_tries_than_answers_are_found_before_any_is_paid() -> None:
    try:
        run("")
    except Unavailable as reason:
        pytest.skip(f"no sandbox on this machine: {reason}")
    examples = [code_pass_at_k.contract_example()]
    with pytest.raises(ConfigError, match=r"metrics\.mine: .*k is 3, and item e1 has 2 answers"):
        try_out("code_pass_at_k", {"k": 3}, examples, n=2)
    assert try_out("code_pass_at_k", {"k": 3}, examples, n=3) is False
    assert try_out("code_tests", {}, examples, n=3)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_study_passes_its_trial(path: Path) -> None:
    study = load_study(path)
    source = resolve(study.workload.eval_set.path)
    if source is None or not source.exists():
        pytest.skip("needs public data: set FREEHOLD_DATA to its folder")
    examples = load_eval(study.workload.eval_set)
    for name, spec in study.workload.metrics.items():
        if not spec.judges:
            plain = trial(name, spec, ([each] for each in examples))
            assert plain or name != study.workload.quality


WHOLE_SET = [
    ("json_macro_f1", {"field": "a"}),
    ("json_fields", {"figure": "f1"}),  # two fields: a weight of 4
    ("one_label", {"label": "nothing here"}),  # a weight of 0
]


@pytest.mark.parametrize(("metric", "params"), WHOLE_SET)
def test_what_is_no_mean_of_its_items_is_told(metric: str, params: dict[str, JsonValue]) -> None:
    assert not try_out(metric, params, items('{"a": 1, "b": 2}'))
    assert try_out("json_fields", {"figure": "exact"}, items('{"a": 1, "b": 2}'))
    assert try_out("one_label", {"label": "here"}, items("here"))


REFUSED = r"^workload\.quality: 'mine' is a figure of the whole set.*choose another one as quality"


def with_quality(study: Path, params: dict[str, str]) -> list[str]:
    metric = json.dumps({"metric": "one_label", "params": params})
    return [f"workload.metrics.mine={metric}", "workload.quality=mine"]


@pytest.mark.parametrize(
    ("label", "asked"),
    [
        ("delivery", False),  # the first item weighs nothing: said at once
        ("refund", True),  # only later ones do
    ],
)
def test_a_figure_of_the_whole_set_is_no_quality(
    small_study: Path, store_uri: str, label: str, asked: bool
) -> None:
    study = load_study(small_study, with_quality(small_study, {"label": label}))
    with pytest.raises(ConfigError, match=REFUSED):
        evaluate(study, Options(small_study, store_uri, dry_run=False, json=False))
    journals = list((small_study.parent / "mlruns").rglob("*.jsonl"))
    assert any("small-frontier" in path.name for path in journals) is asked


def test_a_wrong_parameter_stops_a_study_before_anything_is_asked(
    small_study: Path, store_uri: str
) -> None:
    study = load_study(small_study, with_quality(small_study, {"lable": "refund"}))
    with pytest.raises(ConfigError, match=r"^workload\.metrics\.mine: .*'label'"):
        evaluate(study, Options(small_study, store_uri, dry_run=True, json=False))


def test_weights_of_one_everywhere_may_be_the_quality(small_study: Path, store_uri: str) -> None:
    lines = (small_study.parent / "eval.jsonl").read_text(encoding="utf-8").splitlines()
    refunds = [line for line in lines if json.loads(line)["target"] == "refund"]
    (small_study.parent / "eval.jsonl").write_text("\n".join(refunds) + "\n", encoding="utf-8")
    study = load_study(small_study, with_quality(small_study, {"label": "refund"}))
    assert evaluate(study, Options(small_study, store_uri, dry_run=False, json=False))
