"""Rows and weights stand under licences; conditions are refused until somebody answers for them."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.config import load_study
from pipelines.core.errors import ConfigError, Refused
from pipelines.core.records import Message, TrainingRow
from pipelines.core.study import BaseModelRef, Study
from pipelines.data import licences
from pipelines.data.licences import FOLDER, Licence

KNOWN = licences.read(FOLDER)
OWN = "{kind: own, title: Own, tuned: true, hardware: vm-2cpu}"
ANSWER = 'prepare.acknowledge=[{licence: openai-terms, by: "A. Doe, legal", why: "a classifier"}]'


def row(licence: str | None = None, answered_by: str | None = None) -> TrainingRow:
    turns = (Message(role="user", content="a"), Message(role="assistant", content="b"))
    return TrainingRow(messages=turns, licence=licence, answered_by=answered_by)


@pytest.fixture
def study(small_study: Path) -> Any:
    return lambda *overrides: load_study(small_study, overrides)


def test_every_file_says_where_it_was_read_and_when() -> None:
    assert set(KNOWN) >= {
        "openai-terms", "anthropic-terms", "google-terms", "llama-3.1-community", "gemma-terms",
        "apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc0-1.0",
    }  # fmt: skip
    for name, licence in KNOWN.items():
        assert licence.source.startswith("https://"), name
        assert licence.version is None or licence.version <= licence.checked_on, name
        assert len(licence.summary) > 40, name


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-6.1-sol-2026-08-01", "openai-terms"),
        ("azure/GPT-4o", "openai-terms"),
        ("o3-mini", "openai-terms"),
        ("openai/gpt-oss-20b", "apache-2.0"),
        ("EleutherAI/gpt-j-6b", None),
        ("us.anthropic.claude-haiku-4-5-v1:0", "anthropic-terms"),
        ("models/gemini-3-flash", "google-terms"),
        ("google/gemma-3-4b-it", "gemma-terms"),
        ("google/gemma-4-31b", "apache-2.0"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-community"),
        ("meta.llama3-1-70b-instruct-v1:0", "llama-3.1-community"),
        ("llama3.2:1b", "llama-3.2-community"),
        ("Meta-Llama-3-70B", "llama-3-community"),
        ("llama-2-13b-chat", "llama-2-community"),
        ("meta-llama/Llama-4-Scout", "llama-4-community"),
        ("Qwen/Qwen3-8B", "apache-2.0"),
        ("qwen3-max", None),
        ("mistralai/Mistral-7B-Instruct-v0.3", "apache-2.0"),
        ("prod-eu-2", None),
    ],
)
def test_models_are_known_by_their_names(model: str, name: str | None) -> None:
    assert licences.of_model(model, KNOWN) == name
    lowered = model.lower()
    matching = [
        each for each, licence in KNOWN.items()
        if any(re.search(pattern, lowered) for pattern in licence.models)
    ]  # fmt: skip
    assert matching == ([name] if name else []), "two files claim one model"


def test_the_shipped_presets_have_known_bases() -> None:
    names = {
        "llama-3.1-8b": "llama-3.1-community", "qwen3-8b": "apache-2.0",
        "mistral-7b": "apache-2.0", "tiny": "apache-2.0",
    }  # fmt: skip
    for preset, name in names.items():
        base = licences.read_yaml(FOLDER.parent / "training" / f"{preset}.yaml")["base"]
        assert licences.of_base(BaseModelRef.model_validate(base), KNOWN) == name


def test_a_folder_is_known_by_its_name_or_by_what_the_study_says() -> None:
    folder = BaseModelRef(path=Path("/models/Llama-3.1-8B-Instruct"))
    assert licences.of_base(folder, KNOWN) == "llama-3.1-community"
    assert licences.of_base(BaseModelRef(path=Path("/models/ours"), licence="MIT"), KNOWN) == "mit"
    assert licences.of_base(BaseModelRef(path=Path("/models/ours")), KNOWN) is None


def test_a_row_counts_under_its_licence_and_under_its_teachers_terms(study: Any) -> None:
    rows = [row("MIT"), row("mit", "gpt-6"), row(None, "gpt-6"), row(), row(), row("House rules")]
    found = licences.survey(study(), rows)
    assert found.counts == {"mit": 2, "openai-terms": 2, "House rules": 1}
    assert (found.n_rows, found.n_without) == (6, 2)


def test_a_refusal_says_the_clause_the_count_and_what_to_write(study: Any) -> None:
    rows = [row(None, "gpt-6"), row(None, "gpt-6"), row("cc-by-nc-4.0"), row("mit")]
    with pytest.raises(Refused) as caught:
        licences.check(study(), rows)
    message = str(caught.value)
    assert "2 licence(s) that somebody has to answer for" in message
    assert "openai-terms: 2 of 4 training rows, answered by gpt-6: needs acknowledgement" in message
    assert "3.3(e)" in message
    assert "cc-by-nc-4.0: 1 of 4 training rows: forbidden for commercial use" in message
    assert '- {licence: openai-terms, by: "NAME, ROLE", why: "..."}' in message
    assert caught.value.exit_code == 4


def test_who_answers_for_it_stands_in_the_survey(study: Any) -> None:
    found = licences.check(study(ANSWER), [row(None, "gpt-6")])
    [standing] = found.standings
    assert (standing.acknowledged_by, standing.acknowledged_why) == (
        "A. Doe, legal",
        "a classifier",
    )
    with pytest.raises(Refused, match="anthropic-terms"):
        licences.check(study(ANSWER), [row(None, "gpt-6"), row(None, "claude-haiku-4-5")])


def test_an_acknowledgement_of_nothing_is_an_error(study: Any) -> None:
    bad = "prepare.acknowledge=[{licence: openai-trems, by: A, why: b}]"
    with pytest.raises(ConfigError, match="no licence 'openai-trems'(.|\n)*openai-terms"):
        licences.check(study(bad))
    with pytest.raises(ConfigError, match="acknowledge.0.why"):
        study("prepare.acknowledge=[{licence: openai-terms, by: A, why: ' '}]")


def test_rows_without_a_licence_are_refused_only_on_demand(study: Any) -> None:
    rows = [row(), row("mit"), row("House rules")]
    assert licences.check(study(), rows).n_without == 1
    with pytest.raises(Refused) as caught:
        licences.check(study("prepare.require_licence=true"), rows)
    assert "1 of 3 training rows have no licence" in str(caught.value)
    assert "1 training rows stand under 'House rules'" in str(caught.value)


def test_the_base_models_licence_is_asked_where_a_candidate_is_made_from_it(study: Any) -> None:
    llama = ("finetune.base={hub: meta-llama/Llama-3.1-8B-Instruct, build: null}",)
    licences.check(study(*llama))  # no candidate is our own
    with pytest.raises(Refused, match="the base model meta-llama/Llama-3.1-8B-Instruct: needs"):
        licences.check(study(*llama, f"candidates.own={OWN}"))
    found: Study = study(
        *llama, f"candidates.own={OWN}", ANSWER.replace("openai-terms", "llama3.1")
    )
    assert licences.check(found).standings[0].acknowledged_by == "A. Doe, legal"


def test_bad_files_are_listed_together(tmp_path: Path) -> None:
    good = Licence(
        title="T", training="allowed", clause="1", summary="s", source="https://x",
        checked_on=date(2026, 1, 1),
    )  # fmt: skip
    (tmp_path / "good.yaml").write_text(good.model_dump_json())
    assert licences.read(tmp_path) == {"good": good}
    (tmp_path / "a.yaml").write_text(good.model_dump_json().replace("allowed", "perhaps"))
    (tmp_path / "b.yaml").write_text(
        good.model_dump_json().replace('"models":[]', '"models":["("]')
    )
    with pytest.raises(ConfigError, match=r"2 problem\(s\)(.|\n)*a.yaml: training(.|\n)*b.yaml"):
        licences.read(tmp_path)
