"""pass@k: how likely one of k answers to an item passes all hidden tests, from n >= k answers.

Set `evaluate.n_samples` to n and give paid models a temperature above 0, or all n are alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import comb

from pydantic import JsonValue

from pipelines.core.errors import ConfigError
from pipelines.core.records import Estimate, Example
from pipelines.metrics import SAMPLE, Labels, code_tests
from pipelines.statistics.intervals import estimate

WORKERS = code_tests.WORKERS
PASSED = "passed"
contract_example = code_tests.contract_example


def score(
    example: Example, text: str, *, k: int, timeout_s: float = 10, memory_mib: int = 1024
) -> float:
    """Of one answer: 1.0 when it passes; arguments and errors of `code_tests`.

    Raises:
        ConfigError: k is no number of answers.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"code_pass_at_k: k is {k!r}; it is a whole number from 1 on")
    return code_tests.score(example, text, timeout_s=timeout_s, memory_mib=memory_mib)


def label(
    example: Example, text: str, *, k: int, timeout_s: float = 10, memory_mib: int = 1024
) -> tuple[str, str]:
    """The item that the example repeats, and whether this answer to it passed."""
    value = score(example, text, k=k, timeout_s=timeout_s, memory_mib=memory_mib)
    item = example.id.removesuffix(f"#{example.metadata.get(SAMPLE)}")
    return item, PASSED if value == 1.0 else "failed"


def of_labels(
    labels: Labels, groups: Mapping[str, str], *, k: int, **_: JsonValue
) -> Estimate | None:
    """Mean over the items of `pass_at_k`, clustered by the items' groups.

    An item of which fewer than k answers could be scored does not count, and lowers the coverage.

    Args:
        labels: of every answer, by example id.
        groups: example id -> group, the same for all answers to one item.
        k: how many tries the workload has.

    Returns:
        `n_scored` and `n_total` are numbers of answers; None when no item counts.

    Raises:
        ConfigError: fewer than k answers to an item were asked for.
    """
    n_answers: Counter[str] = Counter()
    n_passed: Counter[str] = Counter()
    group_of: dict[str, str] = {}
    for example_id, pair in labels.items():
        if pair is not None:
            item, outcome = pair
            n_answers[item] += 1
            n_passed[item] += outcome == PASSED
            group_of[item] = groups.get(example_id, item)
    counted = {item: n for item, n in n_answers.items() if n >= k}
    if len(counted) < len(n_answers) and None not in labels.values():
        item, n = min(n_answers.items(), key=lambda each: each[1])
        raise ConfigError(
            f"code_pass_at_k: k is {k}, and item {item} has {n} answer{'s' * (n > 1)}; set "
            f"evaluate.n_samples to {k} or more"
        )
    found = estimate(
        {item: pass_at_k(n, n_passed[item], k) for item, n in counted.items()}, group_of
    )
    if found is None:
        return None
    size = {"n_scored": sum(counted.values()), "n_total": len(labels)}
    return found.model_copy(update=size)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that k of n answers, drawn without replacement, hold one of the c that passed.

    Unbiased for k fresh answers (Chen et al. 2021, equation 1); needs k <= n.
    """
    return 1 - comb(n - c, k) / comb(n, k)


def example_params() -> dict[str, JsonValue]:
    """Parameters that fit the contract tests' example."""
    return {"k": 1}
