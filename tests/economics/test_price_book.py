"""Dated prices of ours, the catalog behind them, and prices that are too old."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from pipelines.core.errors import ConfigError
from pipelines.core.prices import TokenPrice
from pipelines.economics import own_prices
from pipelines.economics.price_book import load_prices, stale

SOL = "openai/gpt-6.1-sol"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(own_prices, "FOLDER", tmp_path)
    return tmp_path


def entry(usd: str, **more: object) -> str:
    fields = {
        "usd_per_million_input_tokens": usd,
        "usd_per_million_output_tokens": usd,
        "source": "contract",
        "checked_on": "2026-11-01",
        **more,
    }
    return f"{{{', '.join(f'{name}: {value}' for name, value in fields.items())}}}"


def write(folder: Path, file: str, *entries: str, name: str = SOL) -> None:
    listed = entries[0] if len(entries) == 1 else f"[{', '.join(entries)}]"
    (folder / file).write_text(f"tokens: {{{name}: {listed}}}", encoding="utf-8")


def usd(day: date | None = None, name: str = SOL) -> Decimal:
    return load_prices({name}, day).token_price(name).usd_per_million_input_tokens


def test_the_price_of_the_day_wins_and_the_catalog_fills_the_gaps(folder: Path) -> None:
    write(
        folder,
        "a.yaml",
        entry("7", valid_from="2026-09-01", valid_until="2026-09-30"),
        entry("5", valid_until="2026-06-30"),
    )
    assert usd(date(2020, 1, 1)) == usd(date(2026, 6, 30)) == 5
    assert usd(date(2026, 9, 1)) == usd(date(2026, 9, 30)) == 7
    # $2 in the catalog, before, between and after.
    assert usd(date(2026, 7, 1)) == usd(date(2026, 10, 1)) == usd() == 2


def test_a_price_without_dates_always_holds(folder: Path) -> None:
    write(folder, "a.yaml", entry("9"))
    assert usd(date(2020, 1, 1)) == usd() == 9


def test_tiers_thresholds_and_cache_writes_can_be_written(folder: Path) -> None:
    write(
        folder,
        "a.yaml",
        entry(
            "2",
            usd_per_million_cache_write_5m_tokens="2.5",
            usd_per_million_cache_write_1h_tokens="4",
            long_context="[{threshold_tokens: 1000, input: 4}]",
            service_tiers="{batch: {input: 1, output: 0.5}}",
        ),
    )
    price = load_prices({SOL}).token_price(SOL)
    assert price.standard.cache_write_5m == Decimal("2.5")
    assert price.standard.cache_write_1h == 4
    assert price.long_context[0].threshold_tokens == 1000
    assert price.service_tiers["batch"].output == Decimal("0.5")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"valid_until": "2026-06-30"}, {"valid_from": "2026-06-30"}),
        ({}, {"valid_from": "2026-06-30"}),
        ({"valid_until": "2026-06-30"}, {}),
        ({}, {}),
    ],
)
def test_two_prices_for_one_day_are_an_error_that_names_the_files(
    folder: Path, first: dict[str, str], second: dict[str, str]
) -> None:
    write(folder, "a.yaml", entry("1", **first), entry("2", **second))
    with pytest.raises(ConfigError, match=r"a\.yaml: openai/gpt-6\.1-sol has two prices on"):
        usd()
    write(folder, "a.yaml", entry("1", **first))
    write(folder, "b.yaml", entry("2", **second))
    own_prices.read.cache_clear()
    with pytest.raises(ConfigError, match=r"two prices on.*in .*[ab]\.yaml"):
        usd()


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("tokens: {a/b: {usd_per_million_input_tokens: 1}}", "usd_per_million_output_tokens"),
        (f"tokens: {{a/b: {entry('-1')}}}", "greater than or equal to 0"),
        (f"tokens: {{a/b: {entry('1', usd_per_token='1')}}}", "usd_per_token"),
        (f"tokens: {{a/b: {entry('1', service_tiers='{slow: {input: 1}}')}}}", "slow"),
        (
            f"tokens: {{a/b: {entry('1', valid_from='2026-02-01', valid_until='2026-01-01')}}}",
            "after valid_until",
        ),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(folder: Path, text: str, wrong: str) -> None:
    (folder / "a.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"a\.yaml: [\s\S]*{wrong}"):
        usd()


def test_a_missing_price_names_the_folder_and_names_that_look_like_it(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"'openai/gpt-6-sool'.*configs/prices/.*openai/gpt-6-sol"
    ):
        load_prices({"openai/gpt-6-sool"})
    # A price of ours that has ended, and no catalog behind it.
    write(folder, "a.yaml", entry("1", valid_until="2026-06-30"), name="acme/m")
    own_prices.read.cache_clear()
    assert usd(date(2026, 6, 30), "acme/m") == 1
    with pytest.raises(ConfigError, match=r"'acme/m' on 2026-07-01"):
        usd(date(2026, 7, 1), "acme/m")


def checked(day: date, first: date | None = None, last: date | None = None) -> TokenPrice:
    return TokenPrice(
        usd_per_million_input_tokens=Decimal(1),
        usd_per_million_output_tokens=Decimal(1),
        source="test",
        checked_on=day,
        valid_from=first,
        valid_until=last,
    )


def test_a_price_is_stale_ninety_days_from_when_it_is_known() -> None:
    price = checked(date(2026, 8, 1))
    # August 1 + 90 days = October 30, - 90 days = May 3.
    assert stale(price, date(2026, 10, 30)) is None
    assert stale(price, date(2026, 5, 3)) is None
    said = stale(price, date(2026, 10, 31))
    assert said is not None
    assert "checked on 2026-08-01, 91 days from 2026-10-31" in said
    assert "91 days" in str(stale(price, date(2026, 5, 2)))


def test_a_price_is_known_from_its_first_to_its_last_day() -> None:
    price = checked(date(2026, 8, 1), date(2026, 1, 1), date(2026, 12, 31))
    assert stale(price, date(2026, 1, 1)) is None
    assert stale(price, date(2027, 3, 31)) is None
    # December 31 + 91 days = April 1.
    assert "91 days" in str(stale(price, date(2027, 4, 1)))


def test_an_old_log_is_priced_as_it_was_billed() -> None:
    def usd(name: str, day: date) -> tuple[Decimal, Decimal]:
        price = load_prices([name], day).token_price(name)
        return price.usd_per_million_input_tokens, price.usd_per_million_output_tokens

    # o3 was cut by 80 % on 2025-06-10; its snapshot has the same price on every day.
    assert usd("openai/o3", date(2025, 6, 9)) == (10, 40)
    assert usd("openai/o3", date(2025, 6, 10)) == (2, 8)
    assert usd("openai/o3-2025-04-16", date(2025, 5, 1)) == (10, 40)
    assert usd("deepseek/deepseek-chat", date(2025, 9, 20)) == (Decimal("0.56"), Decimal("1.68"))
    assert usd("deepseek/deepseek-chat", date(2025, 9, 29)) == (Decimal("0.28"), Decimal("0.42"))
