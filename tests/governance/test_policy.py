"""The policy engine says what the table says, or nothing leaves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from pipelines.core.config import load_study
from pipelines.core.errors import ConfigError
from pipelines.core.paths import ROOT
from pipelines.core.workload import TIERS, Tier
from pipelines.governance import policy
from pipelines.governance.zones import ZONES, Zone

A, R, D = "allow", "require_approval", "deny"
TRUTH = {
    "public": (A, A, A),
    "internal": (A, A, A),
    "confidential": (A, A, R),
    "restricted": (A, R, D),
    None: (D, D, D),
    "": (D, D, D),
    "typo": (D, D, D),
    "Public": (D, D, D),
    "public' or data.tier != 'x": (D, D, D),
}
"""By hand: local, private, external."""


def table(text: str, tmp_path: Path) -> Path:
    path = tmp_path / "egress.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_table_and_the_engine_say_this() -> None:
    shipped = policy.load()
    engine = policy.proved(shipped.table)
    for tier, row in TRUTH.items():
        for zone, action in zip(("local", "private", "external"), row, strict=True):
            assert shipped.decide(tier, zone).action == action
            assert policy.asked(engine, tier, zone) == action
        assert policy.asked(engine, tier, "elsewhere") == D


def test_a_decision_names_its_cell() -> None:
    shipped = policy.load()
    assert shipped.decide("restricted", "external").cell == (
        "configs/policies/egress.yaml, restricted x external: deny"
    )
    assert shipped.decide(None, "local").cell == "configs/policies/egress.yaml, no tier None: deny"


def test_another_table_is_obeyed_and_has_another_digest(tmp_path: Path) -> None:
    row = "{local: deny, private: require_approval, external: allow}"
    path = table("".join(f"{tier}: {row}\n" for tier in TIERS), tmp_path)
    found = policy.load(path)
    wanted: dict[Zone, str] = {"local": D, "private": R, "external": A}
    for tier in TIERS:
        assert {zone: found.decide(tier, zone).action for zone in ZONES} == wanted
    assert found.sha256 != policy.load().sha256


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("public: {local: allow, private: allow, external: allow}\n", "internal: Field required"),
        ("public: {local: allow}\n", "public.private: Field required"),
        ("public: {local: yes, private: allow, external: allow}\n", "public.local: Input"),
        ("top_secret: {local: allow, private: allow, external: allow}\n", "top_secret: Extra"),
        ("public: {local: allow, moon: allow}\n", "public.moon: Extra"),
        ("public: allow\n", "public: Input should be"),
    ],
)
def test_a_table_with_a_hole_is_an_error(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        policy.load(table(text, tmp_path))
    assert problem in str(caught.value)
    assert "allow, require_approval or deny for local, private, external" in str(caught.value)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("data.tier == 'restricted' and", "(data.tier == 'restricted') and"),
        ("data.tier == 'public' and", "data.tier == 'public' &&"),
        ("data.tier == 'public' and", "data.tier == 'public' AND"),
        ("data.tier == 'public'", "data.tier == public"),
        ("action: require_approval", "action: warn"),
        ("default_action: deny", "default_action: allow"),
    ],
)
def test_rules_that_the_engine_misreads_in_silence_are_found(right: str, wrong: str) -> None:
    shipped = policy.load().table
    text = policy.rules(shipped)
    assert right in text
    with pytest.raises(ConfigError, match="the policy engine says"):
        policy.proved(shipped, text.replace(right, wrong))


def test_without_the_engine_only_local_calls_are_decided() -> None:
    code = (
        "import sys; sys.modules['agentmesh'] = None\n"
        "from pipelines.governance import policy\n"
        "table = policy.load()\n"
        "print(table.decide('public', 'local').action)\n"
        "try: table.decide('public', 'external')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.splitlines()[0] == "allow"
    assert "ConfigError calls that leave this machine need the policy engine" in done.stdout


def test_a_local_decision_imports_no_engine() -> None:
    code = (
        "import sys\n"
        "from pipelines.governance.egress import Gate\n"
        "assert Gate('w', 'restricted').why_not('local') is None\n"
        "print([name for name in sys.modules if name.startswith('agentmesh')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == "[]\n"


def test_a_study_needs_a_known_tier_and_the_error_lists_them(small_study: Path) -> None:
    for wrong in ("typo", "null", "[public]", ""):
        with pytest.raises(ConfigError) as caught:
            load_study(small_study, [f"workload.tier={wrong}"])
        for tier, meaning in TIERS.items():
            assert f"{tier:<13} {meaning}" in str(caught.value)
    for tier in get_args(Tier):
        assert load_study(small_study, [f"workload.tier={tier}"]).workload.tier == tier


def test_a_study_without_a_tier_is_refused(small_study: Path) -> None:
    lines = small_study.read_text().splitlines(keepends=True)
    small_study.write_text("".join(line for line in lines if not line.startswith("  tier:")))
    with pytest.raises(ConfigError, match="workload.tier: it decides which endpoints"):
        load_study(small_study)
