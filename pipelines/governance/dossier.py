"""The technical documentation of Annex IV of the EU AI Act, as far as measured runs can fill it.

Every field is filled and names its source, or is owed by a person; nothing is invented.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from pipelines.core.config import CONFIGS, read_yaml
from pipelines.core.errors import ConfigError
from pipelines.core.paths import shown
from pipelines.core.records import Record
from pipelines.core.results import FinetuneResult
from pipelines.core.workload import Tier
from pipelines.governance import seal
from pipelines.governance.trail import Entry, TrailReport

PATH = CONFIGS / "policies" / "ai_act.yaml"
PREDICATE_TYPE = seal.PREDICATE_PREFIX + "dossier/v1"
NOTICE = "Generated draft. Not legal advice."
OWED = "owed by a person"
FROZEN_FLOP, LEARNED_FLOP, FULL_FLOP = 4, 6, 6
"""Operations per parameter and token: of a frozen weight (forward, and the gradient of its input),
of one that is learned (its own gradient, too), and of a whole training."""


class Duty(Record):
    """One duty of the law and the day from which it applies."""

    applies_from: date
    article: str
    duty: str
    by: Literal["person", "software"]
    how: str | None = None
    """What the software does of it."""


class KnownBase(Record):
    """What a base model was trained with, as its makers published it."""

    parameters: float = Field(gt=0)
    tokens: float = Field(gt=0)
    source: str
    checked_on: date

    @property
    def flop(self) -> float:
        """Of its training, an estimate."""
        return FULL_FLOP * self.parameters * self.tokens


class ComputeRule(Record):
    """When a fine-tuner becomes the provider of a general-purpose model."""

    source: str
    share: int = Field(gt=0)
    """More than one part in so many of the base's training compute."""
    unknown_base_flop: float = Field(gt=0)
    """Stands for the base's where that is not known."""
    bases: dict[str, KnownBase]
    """By name on the hub."""


class Act(Record):
    """The content of configs/policies/ai_act.yaml."""

    law: str
    checked_on: date
    checked_against: str
    duties: tuple[Duty, ...]
    retention: str
    standards: str
    compute: ComputeRule


class DossierField(Record):
    """One field: a value with its source, or owed."""

    name: str
    value: str | None
    """None = owed by a person."""
    source: str
    """Run, file or record that the value is from; of a field that is owed, what to write."""


class Point(Record):
    """One point of Annex IV."""

    number: str
    title: str
    fields: tuple[DossierField, ...]


class Compute(Record):
    """The training of an adapter beside the limit from which a fine-tuner is a provider."""

    n_tokens: int
    """That were trained on, all epochs and trials; the larger of planned and measured."""
    parameters: int
    adapter_parameters: int
    training_flop: float
    """4 per token and frozen parameter, 6 per token and parameter of the adapter. What gradient
    checkpointing computes again is not counted."""
    base_flop: float | None
    """None = not known."""
    base_source: str
    limit_flop: float
    ratio: float
    """Training over limit."""
    source: str
    """Of the rule."""

    @property
    def exceeds(self) -> bool:
        """Whether the fine-tuner is presumed to become a provider."""
        return self.ratio > 1

    @property
    def words(self) -> str:
        """The number, how it comes about and what follows."""
        verdict = "above" if self.exceeds else "not above"
        return (
            f"{self.ratio:.2g}: {self.training_flop:.2e} FLOP of training over a limit of "
            f"{self.limit_flop:.2e} ({self.base_source}); {verdict} the limit"
        )


class LogSummary(Record):
    """What the audit trail holds."""

    file: str
    kinds: dict[str, int]
    """Kind -> entries."""
    n_entries: int
    n_of_workload: int
    """Entries that name this workload."""
    first_at: str | None
    last_at: str | None
    problems: tuple[str, ...]
    """Signs that it was changed; none = the chain holds."""
    changes: tuple[str, ...]
    """Promotions of this workload's model, oldest first, in words."""
    n_anchors: int = 0
    """Signed anchors that were compared with it."""
    anchored: int = 0
    """Entries 1 to this one are as the anchors say; 0 = none."""
    notes: tuple[str, ...] = ()
    """What is odd: anchors that do not count or were not found, and what the check explains."""

    @property
    def anchors(self) -> str:
        """What the anchors say of it, in words."""
        odd = "".join(f"; {each}" for each in self.notes)
        if not self.n_anchors:
            return f"covered by no signed anchor: its writer could have written all anew{odd}"
        if self.problems:
            return f"does NOT hold beside {self.n_anchors} signed anchors{odd}"
        later = self.n_entries - self.anchored
        return (
            f"entries 1 to {self.anchored:,} are as {self.n_anchors} signed anchors say; the "
            f"{later:,} later ones rest on the chain alone{odd}"
        )


class Dossier(Record):
    """The whole document."""

    schema_version: Literal[1] = 1
    workload: str
    title: str
    candidate: str
    tier: Tier
    written_at: datetime
    decision_run_id: str
    stamps: tuple[str, ...]
    """What must not be overlooked: simulated, toy, unverified, a changed trail."""
    compute: Compute | None
    """None = nothing was trained, or see `compute_reason`."""
    compute_reason: str
    points: tuple[Point, ...]
    log: LogSummary | None
    """None = there is no trail."""
    act: Act

    @property
    def fields(self) -> tuple[DossierField, ...]:
        """Of all points."""
        return tuple(field for point in self.points for field in point.fields)

    @property
    def n_owed(self) -> int:
        """Fields that only a person can fill."""
        return sum(field.value is None for field in self.fields)

    def duties(self) -> tuple[tuple[Duty, str], ...]:
        """Each duty, and whether it applies on the day of writing."""
        today = self.written_at.date()
        return tuple(
            (
                each,
                "applies"
                if each.applies_from <= today
                else f"in {(each.applies_from - today).days} days",
            )
            for each in self.act.duties
        )


class DossierResult(Record):
    """What the command wrote."""

    run_id: str
    candidate: str
    n_fields: int
    n_owed: int
    compute_ratio: float | None
    """Of the limit; None = nothing was trained, or its size is not known."""
    bom_serial: str
    files: tuple[str, ...]
    """Artifacts of the run."""
    stamps: tuple[str, ...]
    signed_by: str | None
    """Id of the key; None = unsigned."""


def read_act(path: Path = PATH) -> Act:
    """The facts about the law.

    Raises:
        ConfigError: no such file, or it is wrong; lists what is.
    """
    try:
        return Act.model_validate(read_yaml(path))
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}"
            for each in error.errors(include_url=False)
        ]
    raise ConfigError(f"{shown(path)}: {len(problems)} problem(s)\n  " + "\n  ".join(problems))


def compute_of(
    tuned: FinetuneResult | None, base: str | None, rule: ComputeRule
) -> tuple[Compute | None, str]:
    """What a training took, over what makes a fine-tuner a provider.

    Args:
        tuned: the training; None = there was none.
        base: name of the base model on the hub; None = it is not from there.
        rule: the limit.

    Returns:
        The ratio, or None and why there is none.
    """
    if tuned is None:
        return None, "no base model was fine-tuned for this candidate"
    estimate = tuned.estimate
    if estimate is None or estimate.parameters is None or estimate.adapter_parameters is None:
        return None, f"run {tuned.run_id} does not say how many parameters the base has"
    trials = sum(len(each.trials) for each in tuned.search.settings) if tuned.search else 1
    n_tokens = max(round(tuned.tokens_per_s * tuned.train_s), estimate.n_tokens * trials)
    frozen, learned = estimate.parameters, estimate.adapter_parameters
    flop = float(n_tokens) * (FROZEN_FLOP * frozen + LEARNED_FLOP * learned)
    known = rule.bases.get(base or "")
    if known is not None:
        base_flop: float | None = known.flop
        said = f"a {_part(rule.share)} of {known.flop:.2e}: {known.source}"
    else:
        base_flop = None
        said = f"a {_part(rule.share)} of {rule.unknown_base_flop:.0e}: the base's is not known"
    limit = (base_flop or rule.unknown_base_flop) / rule.share
    found = Compute(
        n_tokens=n_tokens,
        parameters=frozen,
        adapter_parameters=learned,
        training_flop=flop,
        base_flop=base_flop,
        base_source=said,
        limit_flop=limit,
        ratio=flop / limit,
        source=rule.source,
    )
    return found, ""


def summed_up(
    file: str,
    entries: Iterable[Entry],
    report: TrailReport,
    workload: str,
    n_anchors: int = 0,
    not_counted: Sequence[str] = (),
) -> LogSummary:
    """Count what a trail holds; it is not checked here.

    Args:
        file: its name.
        entries: from `trail.read`.
        report: from `trail.verify`.
        workload: whose entries and promotions are told.
        n_anchors: that were given to `trail.verify`.
        not_counted: why other anchors were not.
    """
    kinds: dict[str, int] = {}
    n_mine = n = 0
    first_at = last_at = None
    changes: list[str] = []
    for each in entries:
        n += 1
        first_at, last_at = first_at or each.at, each.at
        kinds[each.kind] = kinds.get(each.kind, 0) + 1
        if workload in (each.fields.get("workload"), each.fields.get("model")):
            n_mine += 1
            if each.kind == "promotion":
                changes.append(_change(each))
    return LogSummary(
        file=file,
        kinds=dict(sorted(kinds.items())),
        n_entries=n,
        n_of_workload=n_mine,
        first_at=first_at,
        last_at=last_at,
        problems=report.problems,
        changes=tuple(changes),
        n_anchors=n_anchors,
        anchored=report.anchored,
        notes=(*not_counted, *report.notes),
    )


def _change(entry: Entry) -> str:
    people = entry.fields.get("approved_by")
    by = ""
    if isinstance(people, dict) and people:
        by = ", approved by " + ", ".join(f"{name} ({role})" for role, name in people.items())
    version, candidate = entry.fields.get("version"), entry.fields.get("candidate")
    return f"{entry.at[:10]} version {version}: {candidate}{by}"


def _part(share: int) -> str:
    return {2: "half", 3: "third", 4: "quarter"}.get(share, f"1/{share}")
