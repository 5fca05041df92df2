"""Token counts: the parts fit into the whole, and sums keep them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipelines.core.records import Usage


def test_a_sum_keeps_every_part() -> None:
    one = Usage(
        input_tokens=100,
        cached_input_tokens=10,
        cache_write_5m_tokens=20,
        cache_write_1h_tokens=30,
        output_tokens=50,
        reasoning_tokens=5,
    )
    assert one + one == Usage(
        input_tokens=200,
        cached_input_tokens=20,
        cache_write_5m_tokens=40,
        cache_write_1h_tokens=60,
        output_tokens=100,
        reasoning_tokens=10,
    )


@pytest.mark.parametrize(
    ("parts", "wrong"),
    [
        ({"cached_input_tokens": 11}, "11 cached and 0 written"),
        ({"cache_write_5m_tokens": 6, "cache_write_1h_tokens": 5}, "0 cached and 11 written"),
        ({"cached_input_tokens": 5, "cache_write_5m_tokens": 6}, "5 cached and 6 written"),
        ({"reasoning_tokens": 3}, "3 reasoning tokens are more than the 2 output tokens"),
        ({"cached_input_tokens": -1}, "negative"),
        ({"input_tokens": -1}, "more than the -1 input tokens"),
        ({"output_tokens": -1}, "more than the -1 output tokens"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts: dict[str, int], wrong: str) -> None:
    with pytest.raises(ValidationError, match=wrong):
        Usage(**{"input_tokens": 10, "output_tokens": 2, **parts})


def test_parts_may_be_the_whole() -> None:
    whole = Usage(
        input_tokens=10,
        cached_input_tokens=4,
        cache_write_5m_tokens=3,
        cache_write_1h_tokens=3,
        output_tokens=2,
        reasoning_tokens=2,
    )
    assert whole.input_tokens == 10


def test_a_journal_from_before_cache_writes_were_counted_is_read() -> None:
    row = '{"input_tokens":10,"cached_input_tokens":4,"output_tokens":2,"reasoning_tokens":0}'
    assert Usage.model_validate_json(row) == Usage(
        input_tokens=10, cached_input_tokens=4, output_tokens=2
    )
