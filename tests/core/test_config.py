"""A study is read whole, and everything that is wrong with it is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.core.candidate import Own, Rent
from pipelines.core.config import load_study
from pipelines.core.errors import ConfigError


def test_all_problems_are_reported_at_once_with_file_and_key(small_study: Path) -> None:
    text = small_study.read_text()
    text = text.replace("max_output_tokens: 8", "max_output_tokens: eight\n  colour: red")
    text = text.replace("incumbent: frontier", "incumbent: frontier\nevaluate: {concurrency: 0}")
    small_study.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_study(small_study)
    message = str(caught.value)
    assert message.startswith("3 problem(s)")
    assert f"{small_study}: workload.max_output_tokens: Input should be a valid integer" in message
    assert "workload.colour: Extra inputs are not permitted" in message
    assert "evaluate.concurrency: Input should be greater than 0" in message


def test_a_problem_inside_a_candidate_names_the_candidate_not_the_union(small_study: Path) -> None:
    text = small_study.read_text().replace("    price: openai/gpt-6.1-sol\n", "")
    small_study.write_text(text)
    with pytest.raises(ConfigError, match=r"candidates\.frontier\.price: Field required"):
        load_study(small_study)


def test_a_missing_study_lists_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("{}")
    with pytest.raises(ConfigError, match=r"study\.yaml: no such file; .* has other\.yaml"):
        load_study(tmp_path / "study.yaml")


def test_a_missing_fragment_lists_the_fragments_that_exist(small_study: Path) -> None:
    with pytest.raises(ConfigError, match=r"finetune: .*huge\.yaml: no such file.*tiny\.yaml"):
        load_study(small_study, ["finetune.preset=huge"])


def test_broken_yaml_says_the_line(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("workload: {name: [}\n")
    with pytest.raises(ConfigError, match=r"not valid YAML(.|\n)*line 1"):
        load_study(path)


def test_set_overrides_a_value_and_the_later_one_wins(small_study: Path) -> None:
    study = load_study(small_study, ["evaluate.concurrency=3", "evaluate.concurrency=5"])
    assert study.evaluate.concurrency == 5


def test_set_of_a_list_chooses_candidates_of_the_study_or_fragments(small_study: Path) -> None:
    study = load_study(small_study, ["candidates=[frontier, own-lora]"])
    assert list(study.candidates) == ["frontier", "own-lora"]
    assert isinstance(study.candidates["frontier"], Rent)
    tuned = study.candidates["own-lora"]
    assert isinstance(tuned, Own)
    assert tuned.hardware.name == "h100"


def test_the_studys_own_keys_win_over_the_preset(small_study: Path) -> None:
    study = load_study(small_study, ["finetune.lora.rank=16"])
    assert study.finetune.lora.rank == 16
    assert study.finetune.base.build == "toy"  # from the preset


@pytest.mark.parametrize("override", ["evaluate.concurrency", "=3", "workload.name.x=1"])
def test_a_malformed_override_is_named(small_study: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load_study(small_study, [override])


def test_the_incumbent_must_be_a_candidate(small_study: Path) -> None:
    with pytest.raises(ConfigError, match="incumbent 'gpt' is not a candidate: frontier"):
        load_study(small_study, ["incumbent=gpt"])


def test_a_rank_that_vllm_refuses_is_refused_before_training(small_study: Path) -> None:
    with pytest.raises(ConfigError, match=r"finetune\.lora: rank 12: vLLM serves only"):
        load_study(small_study, ["finetune.lora.rank=12"])
