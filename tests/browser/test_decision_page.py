"""The decision report in a real browser: sliders, other readers, hostile text, no network."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Error, Page

from pipelines.core.hardware import END_NAMES, End
from pipelines.economics import own_cost, own_measured
from pipelines.economics.verdict import usd
from tests.browser.conftest import Open
from tests.reports.made import HOSTILE, RIGHT, Made, make

HOURLY = (
    "workload.own_costs={operations_usd_per_month: {low: 450, likely: 900, high: 1800}, "
    "tuning_usd_per_month: null, "
    "scaling: hourly, spares: 0, calls_per_task: 1.5, retries_per_call: {low: 0, likely: 0.02, "
    "high: 0.1}, headroom: {low: 0.5, likely: 0.67, high: 0.8}, tuning: {labels: 500, "
    "usd_per_label: 0.5, trials: 5, machine_hours_per_trial: {low: 8, likely: 12, high: 30}, "
    "eval_calls: 100, usd_per_eval_call: 0.01, judge_calls: 0, usd_per_judge_call: 0, "
    "engineer_days: 1, usd_per_engineer_day: 500, life_months: {low: 6, likely: 9, high: 12}, "
    "refreshes: 1}, source: test}",
    "workload.traffic={tasks_per_month: 9_000_000, peak_to_mean: 1.5, profile: day_and_night}",
)
POSITIONS: tuple[dict[str, float], ...] = (
    {},
    {"volume": 1.1, "machine": 2.49},
    {"volume": 1.95, "load": 0.9, "api": 0.4, "error": -1.5},
    {"volume": -1.6, "machine": 0.3, "load": 0.31, "api": 2.2, "error": -4},
)
"""Of the sliders; the volume's in powers of ten of the study's."""
COLUMNS = ("usd", "wrong", "total")


@pytest.fixture(scope="module")
def made() -> Made:
    return make()


@pytest.fixture(scope="module")
def report(made: Made) -> str:
    return made.report()


def move(page: Page, positions: dict[str, float]) -> None:
    for name, value in positions.items():
        page.locator(f"#{name}").evaluate(
            "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }",
            value,
        )
    page.wait_for_timeout(300)


def cell(page: Page, row: str, column: str) -> str:
    return page.locator(f'[data-row="{row}"][data-cell="{column}"]').inner_text()


def number(text: str) -> float:
    return float(text.replace("$", "").replace(",", "").split()[0])


def near(shown: str, expected: float) -> bool:
    """Equal but for the rounding of what is shown."""
    return abs(number(shown) - expected) <= (0.0051 if expected < 100 else 0.51)


def bill(made: Made, name: str, end: End, tasks: int, moved: dict[str, float]) -> float | None:
    """What the economics say at the sliders' positions; None = there is no such end."""
    result, row = made.evaluated.results[name], made.decision.candidates[name]
    own = own_measured.owning(made.study.workload, result)
    if own is None:
        span = row.usd_per_1000
        assert span is not None
        price = {"low": span.low, "likely": 1000 * float(result.cost.usd_per_task or 0)}.get(
            end, span.high
        )
        return None if price is None else price / 1000 * tasks * moved.get("api", 1.0)
    at = own.at(end)
    at["usd_per_machine_hour"] *= Decimal(repr(moved.get("machine", 1.0)))
    if "load" in moved:
        of_likely = 1 + made.study.workload.own_costs.headroom.likely
        at["headroom"] = (1 + at["headroom"]) / of_likely / Decimal(repr(moved["load"])) - 1
    return float(own_cost.usd_per_month(own, tasks, at))


@pytest.mark.parametrize("settings", [(), HOURLY], ids=["always on", "hourly"])
def test_the_sliders_do_the_economics_arithmetic(open_page: Open, settings: Any) -> None:
    made = make(*settings)
    page = open_page(made.report())
    assert page.locator("#live-chart svg").is_visible()
    assert page.locator("#live-drawn").is_hidden()
    first = math.log10(made.decision.tasks_per_month)
    for moved in POSITIONS:
        page.locator("#sliders-reset").click()
        volume = first + moved.get("volume", 0)
        move(page, moved | {"volume": volume})
        tasks = int(number(page.locator("output[for=volume]").inner_text()))
        assert tasks == round(10**volume)
        power = moved.get("error", math.log10(0.02))
        usd_per_error = 0.0 if power == -4 else 10**power
        for key, (name, row) in enumerate(made.decision.candidates.items()):
            assert row.quality is not None
            for end in END_NAMES:
                expected = bill(made, name, end, tasks, moved)
                assert expected is not None
                assert near(cell(page, f"{key} {end}", "usd"), expected), (name, end, moved)
            likely = bill(made, name, "likely", tasks, moved)
            assert likely is not None
            wrong = tasks * (1 - row.quality.mean) * usd_per_error
            assert near(cell(page, f"{key} likely", "wrong"), wrong)
            assert near(cell(page, f"{key} likely", "total"), likely + wrong)


def test_at_first_the_page_says_what_the_decision_says(
    open_page: Open, made: Made, report: str
) -> None:
    page, plain = open_page(report), open_page(report, ready=False, java_script_enabled=False)
    for key, row in enumerate(made.decision.candidates.values()):
        assert cell(page, f"{key} likely", "usd") == usd(row.usd_per_month)
        for end in END_NAMES:
            for column in (*COLUMNS, "price", "machines", "least") if end == "likely" else ("usd",):
                shown = cell(page, f"{key} {end}", column)
                assert shown == cell(plain, f"{key} {end}", column), (key, end, column)
    assert page.locator("#live-least").inner_text() == plain.locator("#live-least").inner_text()
    for name in ("volume", "machine", "load", "api", "error"):
        text = page.locator(f"output[for={name}]").text_content()
        assert text == plain.locator(f"output[for={name}]").text_content()
        assert page.locator(f"#{name}").get_attribute("aria-valuetext") == text


def test_a_key_moves_a_slider_and_the_numbers_follow(open_page: Open, report: str) -> None:
    page = open_page(report)
    before, drawn = cell(page, "0 likely", "usd"), page.locator("#live-chart svg").inner_html()
    page.locator("#volume").press("ArrowRight")
    page.wait_for_timeout(300)
    assert number(cell(page, "0 likely", "usd")) > number(before)
    assert page.locator("#live-chart svg").inner_html() != drawn
    page.locator("#sliders-reset").click()
    page.wait_for_timeout(300)
    assert cell(page, "0 likely", "usd") == before


def test_the_least_follows_the_price_of_the_api(open_page: Open) -> None:
    page = open_page(make("workload.requirements.usd_per_error=0").report())
    move(page, {"api": 3})
    dear = page.locator("#live-least").inner_text()
    move(page, {"api": 0.05})
    cheap = page.locator("#live-least").inner_text()
    assert cheap.startswith("frontier-standin (simulated), $62")
    assert not dear.startswith("frontier-standin")
    assert cell(page, "0 likely", "least") == "least"


@pytest.mark.parametrize(
    "settings",
    [{}, {"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 844}}],
    ids=["wide", "dark", "phone"],
)
def test_axe_finds_nothing_serious(open_page: Open, report: str, settings: Any) -> None:
    page = open_page(report, **settings)
    found = Axe().run(page).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] != "minor"] == []


def test_a_phone_scrolls_down_only(open_page: Open, report: str) -> None:
    page = open_page(report, viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator("figure .wide").first.is_hidden()
    assert page.locator("figure .narrow").first.is_visible()
    sizes = page.evaluate(
        """[...document.querySelectorAll('figure svg')].filter((svg) => svg.checkVisibility())
        .map((svg) => 12 * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)"""
    )
    assert len(sizes) >= 4
    assert min(sizes) > 9.5
    headline = page.locator("h1").bounding_box()
    assert headline is not None
    assert headline["y"] + headline["height"] < 844


def test_the_first_screen_holds_verdict_options_and_conditions(
    open_page: Open, made: Made, report: str
) -> None:
    page = open_page(report, viewport={"width": 1280, "height": 900})
    for place in ("h1", ".options", ".flips"):
        box = page.locator(place).bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 900, place
    assert page.locator("h1").inner_text() == made.decision.headline


def test_paper_shows_the_chart_as_it_stands_and_no_sliders(open_page: Open, report: str) -> None:
    page = open_page(report, color_scheme="dark")
    move(page, {"volume": 6.9})
    page.emulate_media(media="print")
    assert page.locator("#volume").is_hidden()
    assert page.locator("#sliders-reset").is_hidden()
    assert page.locator("output[for=volume]").inner_text() == "7,943,282 tasks a month"
    assert page.locator("#live-chart svg").is_visible()
    colour = page.evaluate("getComputedStyle(document.body).color")
    assert colour == "rgb(15, 23, 42)"
    assert page.pdf().startswith(b"%PDF")


def test_without_scripts_the_charts_are_drawn(open_page: Open, report: str) -> None:
    page = open_page(report, ready=False, java_script_enabled=False)
    assert page.locator("#live-drawn .wide svg").is_visible()
    assert page.locator("#live-chart").is_hidden()
    assert page.locator("#sliders").is_hidden()


def test_hostile_text_is_shown_and_not_obeyed(open_page: Open) -> None:
    made = make(says=HOSTILE)
    rows = {
        name: row.model_copy(update={"title": HOSTILE})
        for name, row in made.decision.candidates.items()
    }
    made.decision = made.decision.model_copy(
        update={"candidates": rows, "quality_metric": HOSTILE, "headline": HOSTILE}
    )
    report = made.report()
    assert "\x1b" not in report
    page = open_page(report)
    move(page, {"volume": 6.9})
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2
    for place in ("h1", ".cards tbody th small", ".item .said"):
        assert "<script>window.hacked=1</script>" in page.locator(place).first.inner_text()
    assert "{{7*7}}" in page.locator(".item .side .said").first.inner_text()


def test_hostile_names_in_the_chart_are_text(open_page: Open) -> None:
    made = make()
    names = [*RIGHT]
    hostile = dict(zip(names, [f"{HOSTILE}{k}" for k in range(len(names))], strict=True))
    made.decision = made.decision.model_copy(
        update={
            "candidates": {hostile[n]: row for n, row in made.decision.candidates.items()},
            "incumbent": hostile[made.decision.incumbent],
            "chosen": hostile[made.decision.chosen or names[0]],
            "acceptability": (),
        }
    )
    results = {hostile[n]: result for n, result in made.evaluated.results.items()}
    made.evaluated = made.evaluated.model_copy(update={"results": results})
    made.latencies, made.answers = {}, made.answers.model_copy(update={"worst": (), "slices": ()})
    page = open_page(made.report())
    assert page.evaluate("window.hacked") is None
    assert page.locator("script").count() == 2
    assert "<script>" in (page.locator("#live-chart svg").text_content() or "")


def test_the_policy_lets_no_other_script_run(browser: Browser, tmp_path: Path, report: str) -> None:
    file = tmp_path / "report.html"
    file.write_text(report.replace("</main>", "<script>window.hacked = 1</script></main>"))
    page = browser.new_page()
    page.goto(file.as_uri())
    page.wait_for_selector("#live[data-ready]")
    assert page.evaluate("window.hacked") is None
    with pytest.raises(Error, match="Failed to fetch"):
        page.evaluate("fetch('http://127.0.0.1:9/')")
    page.close()
