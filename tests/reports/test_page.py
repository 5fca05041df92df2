"""What stands on the page of a decision: stamps, inputs with their sources, where it comes from."""

from __future__ import annotations

import re
from html import unescape

import pytest

from pipelines.economics.symbols import in_words
from pipelines.reports import charts
from tests.reports.made import Made, make


@pytest.fixture(scope="module")
def made() -> Made:
    return make(confident="tiny-base")


@pytest.fixture(scope="module")
def report(made: Made) -> str:
    return made.report()


def words(html: str) -> str:
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html)))


def section(report: str, title: str) -> str:
    [found] = re.findall(rf"<h[23]>{title}</h[23]>(.*?)<h[23]>", report, flags=re.DOTALL)
    return words(found)


def test_the_page_is_one_small_file_that_asks_for_nothing(report: str) -> None:
    assert len(report.encode()) < 3_000_000
    page = re.sub(r"<script>.*?</script>", "", report, flags=re.DOTALL).replace("xmlns:xlink", "")
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert "default-src 'none'" in page
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}='", page)


def test_the_verdict_comes_first_with_dollars_quality_and_conditions(
    made: Made, report: str
) -> None:
    first = words(report[report.index("<main>") : report.index("<h2>Why</h2>")])
    assert made.decision.headline in first
    for row in made.decision.candidates.values():
        assert f"${row.usd_per_month:,.0f}" in first
        assert row.quality is not None
        assert row.quality.low is not None
        assert row.quality.high is not None
        mean, low, high = (100 * q for q in (row.quality.mean, row.quality.low, row.quality.high))
        assert f"{mean:.1f} % {low:.1f} to {high:.1f}" in first
    for condition in made.decision.flips_when:
        assert condition in first


def test_what_was_made_up_or_recorded_is_stamped_across() -> None:
    made = make(names=("frontier-standin", "tiny-lora"))
    assert 'content: "SIMULATED"' in made.report()
    rent = made.study.candidates["frontier-standin"].model_copy(
        update={"recorded": "answers.jsonl"}
    )
    candidates = {**made.study.candidates, "frontier-standin": rent}
    made.study = made.study.model_copy(update={"candidates": candidates})
    made.decision = made.decision.model_copy(update={"simulated": ()})
    report = made.report()
    assert 'content: "RECORDED"' in report
    assert "RECORDED. The answers of frontier-standin were given elsewhere" in report
    assert "SIMULATED. The answers" not in report


def test_every_input_has_its_range_source_and_date(report: str) -> None:
    inputs = section(report, "Inputs of owning")
    assert "usd per machine hour 0.08 0.1 0.12 2026-11-21 assumption of the example" in inputs
    assert "operations usd per month 450 900 1,800 assumption of the example" in inputs
    assert "capacity per s tiny-lora 2 3 4 load test" in inputs
    assert "tuning usd per month tiny-lora 50 150 400" in inputs
    assert "openai/gpt-6.1-sol $2 in, $8 out per million tokens (test, 2026-11-21)" in words(report)


def test_the_cascade_has_its_row(made: Made, report: str) -> None:
    both = made.decision.cascade
    assert both is not None
    text = section(report, "Both together")
    assert f"{100 * both.escalated_share:.1f} % of the requests go on" in text
    assert f"It does not win: {both.fails_because}." in text
    assert f"-${-both.saving_to_second.mean:.2f}" in text


def test_slices_and_sensitivity_are_told(made: Made, report: str) -> None:
    assert section(report, "Slices").count("worse") == 1 + 2  # the legend; tiny-base in both
    hangs = section(report, "What the answer hangs on")
    for each in made.decision.sensitivity:
        assert in_words(each.input) in hangs
    assert report.count("that tiny-lora saves as each input moves alone") == 1
    assert "that tiny-base saves" not in report


def test_the_acceptability_curve_is_also_a_table(made: Made, report: str) -> None:
    rows = section(report, "Who is best as an error costs more")
    for point in made.decision.acceptability:
        shares = " ".join(f"{share:.0%}" for share in point.probability_best.values())
        assert f"${point.usd_per_error:,.4g} {shares}" in rows


def test_every_run_is_named(report: str) -> None:
    runs = words(report[report.index("<h3>MLflow runs</h3>") :])
    for run in (
        "prepare prepare-run",
        "decide decide-run",
        "evaluate tiny-lora evaluate-tiny-lora m-",
    ):
        assert run in runs


def test_the_cascade_s_curve_is_drawn_over_the_share_that_goes_on(made: Made) -> None:
    both = made.decision.cascade
    assert both is not None
    # From nothing escalated, the first model's own quality, to everything, the incumbent's.
    first, last = both.curve[0], both.curve[-1]
    assert (first.escalated_share, last.escalated_share) == (0.0, 1.0)
    for point, name in ((first, both.first), (last, both.second)):
        alone = made.decision.candidates[name].quality
        assert alone is not None
        assert point.quality == pytest.approx(alone.mean)
    drawn = charts.cascade(both)
    assert drawn is not None
    assert drawn.count("<svg") == 2
    assert "share that goes on to" in drawn
    assert charts.cascade(both.model_copy(update={"curve": ()})) is None
