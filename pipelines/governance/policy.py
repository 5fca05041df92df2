"""The table of configs/policies/egress.yaml, decided by the Agent Governance Toolkit."""

from __future__ import annotations

import itertools
import warnings
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationError, field_validator

from pipelines.core.config import CONFIGS, read_yaml
from pipelines.core.errors import ConfigError
from pipelines.core.paths import shown
from pipelines.core.records import Record
from pipelines.core.workload import TIERS
from pipelines.governance.zones import ZONES, Zone

Action = Literal["allow", "require_approval", "deny"]
PATH = CONFIGS / "policies" / "egress.yaml"
STRANGERS = (None, "", "typo", "Public", "public ")
"""Tiers that no table has; the proof asks about them, too."""
ELSEWHERE = "elsewhere"


class Row(Record):
    """What may become of one tier's data, zone by zone."""

    local: Action
    private: Action
    external: Action


class Table(Record):
    """Tier x zone."""

    public: Row
    internal: Row
    confidential: Row
    restricted: Row
    consent: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9-]{0,31}$")
    """Role whose signed consent `require_approval` waits for; None = nobody can give it."""

    @field_validator("consent")
    @classmethod
    def _no_builder(cls, role: str | None) -> str | None:
        if role == "builder":
            raise ValueError("who builds does not consent")
        return role

    def cell(self, tier: str | None, zone: str) -> Action:
        """What stands in the table; `deny` where nothing does."""
        if tier is None or tier not in TIERS or zone not in ZONES:
            return "deny"
        return getattr(getattr(self, tier), zone)


class Decision(NamedTuple):
    """What the policy says of one tier and one zone."""

    action: Action
    cell: str
    """The place in the table, in words."""


class Policy:
    """The table, and the engine that was proved to do what it says."""

    def __init__(self, table: Table, path: Path = PATH) -> None:
        """The engine is loaded when a call would leave the machine for the first time."""
        self.table, self.sha256 = table, table.sha256
        self._name = shown(path)
        self._engine: Any = None

    def decide(self, tier: str | None, zone: Zone) -> Decision:
        """What the policy says; a tier that it does not know is denied everywhere.

        The cell is enough for a call that stays on this machine: the engine takes two seconds to
        import. Of any other call the engine is asked, whose answers were all compared with the
        table when it was loaded.

        Raises:
            ConfigError: the engine is not installed, or does not do what the table says.
        """
        action = self.table.cell(tier, zone)
        if zone != "local" and tier in TIERS:
            if self._engine is None:
                self._engine = proved(self.table)
            action = asked(self._engine, tier, zone)
        known = f"{tier} x {zone}: {action}" if tier in TIERS else f"no tier {tier!r}: deny"
        return Decision(action, f"{self._name}, {known}")


def load(path: Path = PATH) -> Policy:
    """Read a table.

    Raises:
        ConfigError: a tier or a zone is missing, unknown or says something else than the actions,
            or `consent` is no role that may consent.
    """
    try:
        return Policy(Table.model_validate(read_yaml(path)), path)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError(
            f"{shown(path)}: a row for each of {', '.join(TIERS)}, and in each row allow, "
            f"require_approval or deny for {', '.join(ZONES)}; consent: a role\n  "
            + "\n  ".join(problems)
        ) from None


@cache
def shipped() -> Policy:
    """The table of this installation."""
    return load()


def rules(table: Table) -> str:
    """The table in the engine's language: one rule for each cell, and everything else denied.

    Its grammar fails in silence (brackets, `not`, `&&` and bare words make a rule that never
    fires), so that nothing is written but `==`, `and` and words without quotes.
    """
    import yaml

    cells = [
        {
            "name": f"{tier}-{zone}",
            "condition": f"data.tier == '{tier}' and target.zone == '{zone}'",
            "action": table.cell(tier, zone),
            "description": f"{tier} data to a {zone} endpoint",
            **({"approvers": ["approver"]} if table.cell(tier, zone) == "require_approval" else {}),
        }
        for tier, zone in itertools.product(TIERS, ZONES)
    ]
    policy = {
        "apiVersion": "governance.toolkit/v1",
        "name": "egress",
        "agents": ["*"],
        "default_action": "deny",
        "rules": cells,
    }
    return yaml.safe_dump(policy, sort_keys=False)


def proved(table: Table, text: str | None = None) -> Any:
    """The engine with the table's rules, after it was asked about every cell and about strangers.

    Args:
        table: what it must say.
        text: the rules; None = those of the table.

    Raises:
        ConfigError: it is not installed, or says something else.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            from agentmesh.governance import PolicyEngine
        except ImportError:
            raise ConfigError(
                "calls that leave this machine need the policy engine: "
                "pip install 'freehold[governance]'"
            ) from None
        engine = PolicyEngine(conflict_strategy="deny_overrides")
        engine.load_yaml(rules(table) if text is None else text)
    for tier, zone in itertools.product((*TIERS, *STRANGERS), (*ZONES, ELSEWHERE)):
        said, want = asked(engine, tier, zone), table.cell(tier, zone)
        if said != want:
            raise ConfigError(
                f"the policy engine says {said} where the table says {want}: {tier} x {zone}; "
                "nothing may leave this machine until they agree"
            )
    return engine


def asked(engine: Any, tier: str | None, zone: str) -> Action:
    """The engine's answer; anything but a plain yes or a wish for approval is a no."""
    context = {"action": {"type": "egress"}, "data": {"tier": tier}, "target": {"zone": zone}}
    said = engine.evaluate("*", context)
    if said.allowed and said.action == "allow":
        return "allow"
    return "require_approval" if said.action == "require_approval" else "deny"
