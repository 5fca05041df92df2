"""Every plug-in and every shipped study keeps its contract; a new file is covered by itself."""

from __future__ import annotations

import contextlib
import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from pipelines import judging, metrics, providers
from pipelines.core.config import load_study
from pipelines.core.errors import ConfigError, ScoringError, Unparseable
from pipelines.core.paths import ROOT
from pipelines.core.records import Example, Message
from pipelines.economics.price_book import load_prices
from pipelines.sandbox import Unavailable

QUESTION = (Message(role="user", content="Where is my refund?"),)
STUDIES = sorted((ROOT / "configs").glob("*.yaml"))
CANDIDATES = sorted(path.stem for path in (ROOT / "configs" / "candidates").glob("*.yaml"))
PRESETS = sorted(path.stem for path in (ROOT / "configs" / "training").glob("*.yaml"))


def metric(name: str) -> ModuleType:
    return importlib.import_module(f"pipelines.metrics.{name}")


def params(name: str) -> dict[str, str]:
    module = metric(name)
    return module.example_params() if hasattr(module, "example_params") else {}


def value(score: float | metrics.Weighted) -> float:
    return score.value if isinstance(score, metrics.Weighted) else score


def example_for(name: str) -> Example:
    """The metric's own `contract_example()`, where one with a JSON target does not fit it."""
    module = metric(name)
    if hasattr(module, "contract_example"):
        return module.contract_example()
    return Example(id="e1", messages=QUESTION, target=json.dumps({"label": "refund_status"}))


@pytest.mark.parametrize("name", metrics.names())
def test_a_metric_gives_its_own_target_one(name: str) -> None:
    example = example_for(name)
    try:
        assert value(metrics.load(name)(example, example.target, **params(name))) == 1.0
    except ScoringError as error:
        if isinstance(error.__cause__, Unavailable):
            pytest.skip(str(error))
        raise
    with contextlib.suppress(Unparseable):  # counted as 0.0, with the reason
        assert value(metrics.load(name)(example, "something else", **params(name))) == 0.0


@pytest.mark.parametrize("name", metrics.names())
def test_a_metric_without_its_target_refuses_instead_of_scoring_zero(name: str) -> None:
    if not getattr(metric(name), "NEEDS_TARGET", True):
        pytest.skip(f"{name} judges the answer alone")
    with pytest.raises(ScoringError, match="e1"):
        metrics.load(name)(Example(id="e1", messages=QUESTION, target=" "), "x", **params(name))


def test_unknown_plugins_name_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown metric 'f2'.*exact_match"):
        metrics.load("f2")
    with pytest.raises(ConfigError, match=r"unknown provider 'acme'.*openai_compatible"):
        providers.load("acme")


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_shipped_study_loads_and_is_priced(path: Path) -> None:
    study = load_study(path)
    for spec in study.workload.metrics.values():
        (judging if spec.judges else metrics).load(spec.metric)
    models = (*study.candidates.values(), *study.judges.values())
    names = {model.price for model in models if model.kind == "rent"}
    book = load_prices(names)
    for name in names:
        assert book.token_price(name).usd_per_million_output_tokens > 0


@pytest.mark.parametrize("name", CANDIDATES)
def test_every_shipped_candidate_loads_and_is_priced(name: str) -> None:
    study = load_study(ROOT / "configs" / "quickstart.yaml", [
        f"candidates=[frontier-standin, {name}]",
    ])  # fmt: skip
    candidate = study.candidates[name]
    if candidate.kind == "rent":
        providers.load(candidate.provider)
        assert load_prices({candidate.price}).token_price(candidate.price)
    else:
        assert candidate.hardware.usd_per_hour > 0


@pytest.mark.parametrize("name", PRESETS)
def test_every_shipped_preset_loads(name: str) -> None:
    study = load_study(ROOT / "configs" / "quickstart.yaml", [f"finetune.preset={name}"])
    assert study.finetune.preset == name


def test_a_missing_price_names_the_folder_to_edit() -> None:
    with pytest.raises(ConfigError, match=r"no token price for 'openai/none'.*configs/prices/"):
        load_prices({"openai/none"}).token_price("openai/none")
