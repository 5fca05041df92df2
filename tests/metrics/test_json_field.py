"""One field of a JSON answer."""

from __future__ import annotations

import pytest

from pipelines.core.records import Example, Message
from pipelines.metrics.json_field import score

EXAMPLE = Example(
    id="e1",
    messages=(Message(role="user", content="x"),),
    target='{"intent": "refund", "escalate": false}',
)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ('{"intent":"refund","escalate":true}', 1.0),  # other fields do not matter
        ('```json\n{"intent": "refund"}\n```', 1.0),
        ('{"intent": "Refund"}', 0.0),
        ('{"escalate": false}', 0.0),  # the field is missing: wrong, not unscored
        ('["intent", "refund"]', 0.0),
        ("refund", 0.0),
        ("", 0.0),
        ('{"intent": "refund"', 0.0),
        ("[" * 100_000, 0.0),  # hostile nesting
    ],
)
def test_the_field_decides(answer: str, value: float) -> None:
    assert score(EXAMPLE, answer, field="intent") == value


def test_false_is_not_zero_and_not_missing() -> None:
    assert score(EXAMPLE, '{"escalate": false}', field="escalate") == 1.0
    assert score(EXAMPLE, '{"escalate": null}', field="escalate") == 0.0
