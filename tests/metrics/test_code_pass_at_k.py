"""pass@k by hand, and which answers it counts."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import pytest

from pipelines.core.errors import ConfigError
from pipelines.core.records import Estimate, Example
from pipelines.evaluation.asked import repeated
from pipelines.metrics import Labels, code_accepted, code_tests
from pipelines.metrics.code_pass_at_k import (
    contract_example,
    label,
    of_labels,
    pass_at_k,
    score,
)
from pipelines.sandbox import Unavailable, run


def labels_of(n_passed: Mapping[str, int], n: int = 5) -> dict[str, tuple[str, str] | None]:
    return {
        f"{item}#{sample}": (item, "passed" if sample < c else "failed")
        for item, c in n_passed.items()
        for sample in range(n)
    }


def found(labels: Labels, k: int, groups: Mapping[str, str] | None = None) -> Estimate:
    result = of_labels(labels, groups or {}, k=k, timeout_s=10)
    assert result is not None
    return result


@pytest.mark.parametrize(
    ("n", "c", "k", "value"),
    [
        (5, 2, 3, 0.9),  # 1 of the 10 triples holds none of the two: 1 - 1/10
        (5, 1, 3, 0.6),  # 4 of 10
        (5, 0, 3, 0.0),
        (5, 3, 3, 1.0),
        (5, 2, 1, 0.4),
        (4, 2, 2, 5 / 6),
        (1, 1, 1, 1.0),
        (3, 1, 3, 1.0),
    ],
)
def test_the_estimator_by_hand(n: int, c: int, k: int, value: float) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(value)


def test_the_estimator_is_the_share_of_all_draws() -> None:
    for n, c, k in [(7, 3, 2), (8, 2, 5), (10, 1, 4)]:
        draws = list(combinations([True] * c + [False] * (n - c), k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))
    assert pass_at_k(2000, 1, 1000) == pytest.approx(0.5)  # no overflow


def test_the_mean_is_over_items_and_its_interval_over_their_groups() -> None:
    labels = labels_of({"a": 1, "b": 1, "c": 2, "d": 2})
    # 0.6, 0.6, 0.9, 0.9. t(3) sqrt(4/3 x 4 x 0.15^2) / 4 = 3.182446 x 0.0866025
    alone = found(labels, 3, {each: each[0] for each in labels})
    assert alone.mean == pytest.approx(0.75)
    assert alone.low == pytest.approx(0.75 - 0.2756079, abs=1e-6)
    assert alone.high == 1.0
    assert found(labels, 3) == alone
    # a and b together: t(2) sqrt(3/2 (0.3^2 + 2 x 0.15^2)) / 4 = 4.302653 x 0.1125
    group = {"a": "g", "b": "g", "c": "c", "d": "d"}
    tied = found(labels, 3, {each: group[each[0]] for each in labels})
    assert tied.mean == pytest.approx(0.75)
    assert tied.low == pytest.approx(0.75 - 0.4840484, abs=1e-6)


def test_an_item_with_too_few_answers_that_could_be_scored_lowers_the_coverage() -> None:
    labels = labels_of({"a": 2, "b": 4})
    labels |= {"b#0": None, "b#1": None, "b#2": None}  # two are left
    result = found(labels, 3)
    assert result.mean == pytest.approx(0.9)
    assert (result.n_scored, result.n_total) == (5, 10)
    # Three answers are enough: 2 of the 3 passed, and 1 of the 3.
    labels = labels_of({"a": 2, "b": 3}) | {"a#3": None, "a#4": None, "b#0": None, "b#1": None}
    assert found(labels, 2).mean == pytest.approx((1 + 1 - 1 / 3) / 2)
    assert of_labels({"a#0": None}, {}, k=1) is None


def test_fewer_answers_than_k_is_an_error_that_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match=r"k is 3, and item a has 1 answer; set .*n_samples to 3"):
        of_labels(labels_of({"a": 1}, n=1), {}, k=3)


@pytest.mark.parametrize("k", [0, -1, True, 1.5, "3"])
def test_k_is_a_number_of_answers(k: object) -> None:
    with pytest.raises(ConfigError, match="whole number from 1"):
        score(contract_example(), "", k=k)  # pyright: ignore[reportArgumentType]


def test_an_answer_is_run_once_whatever_metrics_look_at_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    try:
        run("")
    except Unavailable as reason:
        pytest.skip(f"no sandbox on this machine: {reason}")
    runs: list[object] = []
    evaluate = code_tests.evaluate
    monkeypatch.setattr(
        code_tests, "evaluate", lambda steps, **each: runs.append(each) or evaluate(steps, **each)
    )  # fmt: skip
    monkeypatch.setattr(code_tests, "_results", {})
    right, wrong = "def double(x): return x + x", "def double(x): return 3"
    first, second = repeated([contract_example().model_copy(update={"id": "a#7"})], 2)
    for _ in range(2):
        assert label(first, right, k=2) == ("a#7", "passed")
        assert label(second, wrong, k=2) == ("a#7", "failed")
        assert code_tests.score(first, right) == score(second, right, k=2) == 1.0
        assert code_accepted.score(first, right) == 1.0
        assert code_accepted.score(first, wrong) == 0.0
    assert len(runs) == 2
    others: list[Example] = [
        first.model_copy(
            update={"metadata": {**first.metadata, "tests": ["assert double(1) == 9"]}}
        ),
        first.model_copy(update={"metadata": {**first.metadata, "setup": "double = len"}}),
    ]
    assert [score(each, right, k=2) for each in others] == [0.0, 0.0]
    assert code_tests.score(first, right, memory_mib=512) == 1.0
    assert len(runs) == 5


def test_results_are_forgotten_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_tests, "_results", kept := {})
    monkeypatch.setattr(code_tests, "MAX_KEPT", 2)
    monkeypatch.setattr(code_tests, "_passes", lambda code, *_: code == "b")
    assert [code_tests.score(contract_example(), code) for code in "abcb"] == [0.0, 1.0, 0.0, 1.0]
    assert list(kept.values()) == [1.0, 0.0]


def test_an_id_that_looks_repeated_is_one_item_unless_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(code_tests, "score", lambda *_, **__: 1.0)
    item = contract_example().model_copy(update={"id": "repository#12"})
    assert label(item, "", k=1) == ("repository#12", "passed")
    assert [label(each, "", k=1)[0] for each in repeated([item], 3)] == ["repository#12"] * 3
