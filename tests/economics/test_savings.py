"""What caches saved and batches would save, by hand."""

from __future__ import annotations

from decimal import Decimal

from pipelines.economics.savings import batching, caching
from tests.economics.conftest import haiku, sol, unknown


def test_what_the_cache_saved_and_what_filling_it_cost() -> None:
    found = caching([sol(), haiku(cache_write_5m_tokens=100_000), unknown()])
    assert found.hit_share == 0.4
    # 0.4 x (2 - 0.2) + 0.4 x (1 - 0.1) = 0.72 + 0.36
    assert found.usd_saved_reading == Decimal("1.08")
    assert found.usd_extra_writing == Decimal("0.025")  # 0.1 x (1.25 - 1)
    assert caching([unknown()]).usd_saved_reading is None


def test_what_batches_would_save_counts_only_calls_that_have_a_batch_price() -> None:
    found = batching([sol(), sol(service_tier="batch"), haiku()])
    assert (found.n_calls, found.n_calls_batched) == (100, 100)
    assert (found.usd, found.usd_saved) == (Decimal("1.48"), Decimal("0.76"))  # 1.48 - 0.72
    nothing = batching([haiku()])
    assert (nothing.usd, nothing.usd_saved) == (None, None)
