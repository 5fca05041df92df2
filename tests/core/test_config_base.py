"""One base model replaces another whole; what only describes it is added to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.core.config import load_study
from pipelines.core.errors import ConfigError
from pipelines.core.paths import ROOT

HUB = {"hub": "Qwen/Qwen3-8B", "revision": "b968826d9c46dd6066d109eabc6255188de91218"}


def base(*settings: str) -> dict[str, Any]:
    study = load_study(ROOT / "configs" / "quickstart.yaml", settings)
    return study.finetune.base.model_dump(exclude_none=True)


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        (("preset=qwen3-8b",), HUB),
        (("preset=qwen3-8b", "base={path: /m}"), {"path": Path("/m")}),
        (("preset=qwen3-8b", "base.path=/m"), {"path": Path("/m")}),
        (("preset=qwen3-8b", "base={build: toy}"), {"build": "toy"}),
        # The preset is a toy: a `build`.
        (("base={hub: a/b}",), {"hub": "a/b"}),
        (("base={path: /m, build: null}",), {"path": Path("/m")}),
        # The last one wins, also over one that was given on top of the preset.
        (("preset=qwen3-8b", "base={path: /m}", "base={hub: a/b}"), {"hub": "a/b"}),
        (("preset=qwen3-8b", "base={hub: a/b, revision: r}", "base.path=/m"), {"path": Path("/m")}),
        # Another commit's name means nothing in another repository.
        (("preset=qwen3-8b", "base.hub=a/b"), {"hub": "a/b"}),
        # No origin, or the same one: an addition.
        (("preset=qwen3-8b", "base={licence: mit}"), {**HUB, "licence": "mit"}),
        (("preset=qwen3-8b", "base.revision=r"), {**HUB, "revision": "r"}),
        (("base.licence=mit", "base.path=/m"), {"path": Path("/m"), "licence": "mit"}),
        (("preset=qwen3-8b", "base={hub: Qwen/Qwen3-8B, licence: mit}"), {**HUB, "licence": "mit"}),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, tuple) else "",
)
def test_the_base_that_is_given_last_is_the_base(
    settings: tuple[str, ...], left: dict[str, Any]
) -> None:
    assert base(*(f"finetune.{each}" for each in settings)) == left


def test_two_at_once_are_refused_still() -> None:
    with pytest.raises(ConfigError, match="give exactly one of build, hub, path"):
        base("finetune.base={path: /m, hub: a/b}")


def test_data_sources_are_merged_as_before() -> None:
    plain = load_study(ROOT / "configs" / "quickstart.yaml")
    study = load_study(ROOT / "configs" / "quickstart.yaml", ["prepare.train={path: x.jsonl}"])
    assert study.prepare.train == plain.prepare.train.model_copy(update={"path": "x.jsonl"})
