"""The law's dates, the compute ratio, and what the audit trail is summed up to."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from pipelines.core.errors import ConfigError
from pipelines.core.results import (
    FinetuneResult,
    SearchResult,
    TrainingEstimate,
    TrialResult,
    TriedSetting,
)
from pipelines.governance import dossier, trail
from pipelines.governance.dossier import Dossier, DossierField, Point

ACT = dossier.read_act()
TUNED = FinetuneResult(
    run_id="f" * 32, base_name="tiny", base_sha256="b" * 64, base_is_toy=True,
    adapter_sha256="a" * 64, instructions="", n_rows=10, n_scored_tokens=10, n_steps=2,
    final_loss=0.1, tokens_per_s=100.0, train_s=60.0, peak_memory_gib=0.5,
    estimate=TrainingEstimate(
        hardware=None, parameters=1000, adapter_parameters=10, rank=8, n_tokens=5000
    ),
)  # fmt: skip


def test_the_ratio_is_four_per_frozen_and_six_per_learned_parameter_and_token() -> None:
    found, _ = dossier.compute_of(TUNED, None, ACT.compute)
    assert found is not None
    # 100 tokens/s x 60 s = 6,000, more than the 5,000 that were planned.
    assert found.n_tokens == 6000
    assert found.training_flop == 6000 * (4 * 1000 + 6 * 10) == 24_360_000
    assert found.base_flop is None
    assert found.limit_flop == pytest.approx(3.3333e22, rel=1e-4)
    assert found.ratio == pytest.approx(7.308e-16)
    assert not found.exceeds
    assert "7.3e-16: 2.44e+07 FLOP of training over a limit of 3.33e+22" in found.words
    assert "the base's is not known" in found.words


def test_a_known_base_sets_its_own_limit_and_can_be_exceeded() -> None:
    found, _ = dossier.compute_of(TUNED, "Qwen/Qwen3-8B", ACT.compute)
    assert found is not None
    # 6 x 8.2e9 parameters x 36e12 tokens = 1.7712e24, a third of it.
    assert found.base_flop == pytest.approx(1.7712e24)
    assert found.limit_flop == pytest.approx(5.904e23)
    huge = TUNED.model_copy(update={"train_s": 1.5e18})
    above, _ = dossier.compute_of(huge, "Qwen/Qwen3-8B", ACT.compute)
    assert above is not None
    assert above.exceeds
    assert above.words.endswith("; above the limit")


def test_all_trials_of_a_search_count() -> None:
    trial = TrialResult(
        run_id="t", learning_rate=1e-3, rank=8, epochs=1, seed=0, validation_loss=1.0
    )
    tried = TriedSetting(trials=(trial, trial), mean=1.0, low=1.0, high=1.0)
    search = SearchResult(settings=(tried, tried), best=0, n_rows=9, n_validation=1)
    found, _ = dossier.compute_of(TUNED.model_copy(update={"search": search}), None, ACT.compute)
    assert found is not None
    assert found.n_tokens == 4 * 5000


def test_what_is_not_known_is_said_and_never_zero() -> None:
    assert dossier.compute_of(None, None, ACT.compute) == (
        None,
        "no base model was fine-tuned for this candidate",
    )
    silent = TUNED.model_copy(update={"estimate": None})
    found, reason = dossier.compute_of(silent, None, ACT.compute)
    assert found is None
    assert "does not say how many parameters" in reason


def made(day: date) -> Dossier:
    return Dossier(
        workload="claims", title="Claims", candidate="own-lora", tier="public",
        written_at=datetime(day.year, day.month, day.day, tzinfo=UTC), decision_run_id="d",
        stamps=(), compute=None, compute_reason="", log=None, act=ACT,
        points=(
            Point(
                number="1", title="General",
                fields=(
                    DossierField(name="a", value="x", source="run"),
                    DossierField(name="b", value=None, source="say"),
                ),
            ),
        ),
    )  # fmt: skip


def test_a_duty_applies_from_its_day_on_and_counts_down_before() -> None:
    marking = {duty.article: state for duty, state in made(date(2026, 11, 22)).duties()}
    assert marking["Art. 50"] == "applies"
    assert marking["Art. 50(2)"] == "in 10 days"
    later = {duty.article: state for duty, state in made(date(2026, 12, 2)).duties()}
    assert later["Art. 50(2)"] == "applies"
    assert made(date(2026, 12, 2)).n_owed == 1


def test_the_file_of_dates_is_checked(tmp_path: Path) -> None:
    text = dossier.PATH.read_text(encoding="utf-8")
    path = tmp_path / "act.yaml"
    path.write_text(
        text.replace("share: 3 ", "share: 0 ").replace("5, by: person", "5, by: nobody")
    )
    with pytest.raises(ConfigError, match=r"2 problem\(s\)") as caught:
        dossier.read_act(path)
    assert "duties.0.by" in str(caught.value)
    assert "compute.share" in str(caught.value)
    assert all(each.how for each in ACT.duties if each.by == "software")


def test_the_trail_is_counted_by_kind_and_by_workload(tmp_path: Path) -> None:
    log = trail.Trail(tmp_path / "trail.jsonl")
    log.append("decision", workload="claims")
    log.append("decision", workload="other")
    log.append(
        "promotion", model="claims", version="3", candidate="own-lora",
        approved_by={"risk": "alice"},
    )  # fmt: skip
    report = trail.verify(log.path, (), ())
    found = dossier.summed_up("trail.jsonl", trail.read(log.path), report, "claims")
    assert found.kinds == {"decision": 2, "promotion": 1}
    assert (found.n_entries, found.n_of_workload) == (3, 2)
    [change] = found.changes
    assert change.endswith("version 3: own-lora, approved by alice (risk)")
    assert found.first_at is not None
    assert found.last_at is not None
    assert found.first_at < found.last_at
