"""How the nine points of Annex IV are filled: from what was measured, and never from a guess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipelines.core.decision import Decision
from pipelines.core.paths import shown
from pipelines.core.records import Estimate
from pipelines.core.results import EvaluateResult, FinetuneResult, PrepareResult
from pipelines.core.study import Study
from pipelines.core.workload import TIERS
from pipelines.governance.approval import TierRule
from pipelines.governance.bom import Model
from pipelines.governance.dossier import (
    PATH,
    Act,
    Compute,
    Dossier,
    DossierField,
    LogSummary,
    Point,
    compute_of,
)


@dataclass(frozen=True)
class Facts:
    """All that a dossier is made of."""

    study: Study
    decision: Decision
    result: EvaluateResult
    """Of the model that the dossier is about."""
    prepared: PrepareResult
    tuned: FinetuneResult | None
    settings: Mapping[str, Any]
    """Of the training, as its run keeps them; empty = nothing was trained."""
    model: Model
    bom_serial: str
    n_libraries: int
    rule: TierRule | None
    """Who approves; None = there is no table."""
    version: str | None
    """Of the registered model that is champion."""
    champion: str | None
    """Candidate behind it."""
    log: LogSummary | None
    vulnerabilities: str | None
    """What advisories say of the software, in words; None = none were given."""
    vulnerability_problems: Sequence[str]
    """Findings that stand in the way of a release, and rulings that do not count."""
    signed: bool
    at: datetime


def limits_of(result: EvaluateResult, slices_worse: Sequence[str]) -> tuple[str, ...]:
    """What an evaluation shows of a model's limits, in words; nothing is assumed.

    Args:
        result: of the model.
        slices_worse: parts of the items in which it is shown to be worse than allowed.
    """
    found: list[str] = []
    quality = result.metrics.get(result.quality_metric)
    if quality is not None:
        found.append(
            f"{result.quality_metric} is {_interval(quality)} on {quality.n_scored} items of this "
            "workload; nothing was measured on other input"
        )
    if result.n_unparseable:
        found.append(f"{result.n_unparseable} of {result.n_total} answers could not be read")
    if result.n_errors:
        found.append(f"{result.n_errors} of {result.n_total} calls were not answered")
    found += [f"{n} answers ended as {name}" for name, n in result.outcomes.items()
              if name not in ("answered", "failed", "not_asked") and n]  # fmt: skip
    found += [f"shown to be worse than allowed in {each}" for each in slices_worse]
    return (*stamps_of(result), *found)


def stamps_of(result: EvaluateResult) -> tuple[str, ...]:
    """What makes the evidence of one candidate no evidence about a real model."""
    found: list[str] = []
    if result.simulated:
        found.append("SIMULATED: a stand-in gave these answers, no model did")
    if result.toy:
        found.append("TOY: the base exists to show the workflow and is fit for nothing else")
    if result.simulated_metrics:
        names = ", ".join(result.simulated_metrics)
        found.append(f"SIMULATED judge: {names} was judged by a stand-in")
    return tuple(found)


def fill(facts: Facts, act: Act) -> Dossier:
    """Fill the nine points.

    Args:
        facts: what is known.
        act: what the law says.
    """
    result, decision = facts.result, facts.decision
    base = facts.model.base
    compute, reason = compute_of(
        facts.tuned, base.name if base and base.on_hub else None, act.compute
    )
    stamps = list(stamps_of(result))
    others = [name for name in decision.simulated if name != result.candidate]
    if others:
        stamps.append(f"SIMULATED: the verdict rests on simulated answers of {', '.join(others)}")
    if decision.unverified:
        stamps.append(f"UNVERIFIED: {decision.unverified}")
    if decision.chosen != result.candidate:
        stamps.append(f"NOT CHOSEN: the decision names {decision.chosen or 'no candidate'}")
    stamps += [f"VULNERABILITY: {each}" for each in facts.vulnerability_problems]
    if facts.log is not None and facts.log.problems:
        stamps.append(_broken(facts.log))
    points = (
        _general(facts),
        Point(
            number="2",
            title="Elements of the system and its development",
            fields=(
                *_development(facts, compute, reason),
                *_data(facts),
                *_oversight(facts),
                *_validation(facts),
                *_security(facts),
            ),
        ),
        _monitoring(facts),
        Point(
            number="4",
            title="Why the metrics are appropriate",
            fields=(_owed("appropriateness of the metrics", "why these metrics suit the purpose"),),
        ),
        _risk(facts),
        _changes(facts),
        Point(
            number="7",
            title="Harmonised standards",
            fields=(
                DossierField(
                    name="standards cited in the Official Journal",
                    value=act.standards,
                    source=f"{shown(PATH)}, checked {act.checked_on}",
                ),
                _owed("other standards applied", "standards that the provider follows instead"),
            ),
        ),
        Point(
            number="8",
            title="EU declaration of conformity",
            fields=(_owed("copy of the declaration", "Art. 47, for high-risk systems"),),
        ),
        Point(
            number="9",
            title="Post-market monitoring",
            fields=(
                _owed("monitoring plan", "Art. 72: what is watched, how often, by whom"),
                _owed("contact for serious incidents", "Art. 73: who reports, to which authority"),
            ),
        ),
    )
    return Dossier(
        workload=decision.workload,
        title=decision.title,
        candidate=result.candidate,
        tier=facts.model.tier,
        written_at=facts.at,
        decision_run_id=decision.run_id,
        stamps=tuple(stamps),
        compute=compute,
        compute_reason=reason,
        points=points,
        log=facts.log,
        act=act,
    )


def _general(facts: Facts) -> Point:
    result, decision, model = facts.result, facts.decision, facts.model
    version = None
    if facts.version is not None:
        about = "" if facts.champion == result.candidate else f", which is {facts.champion}"
        version = f"{decision.workload} version {facts.version}{about}"
    supply = {
        "rent": f"a model behind somebody else's API: {result.title}",
        "own": "weights with a server (vLLM) behind an OpenAI-compatible HTTP interface",
        "baseline": "a classical model without an LLM, behind an HTTP interface",
    }
    machine = None
    if result.hardware is not None:
        gpus = f", {result.hardware.n_gpus} x {result.hardware.gpu}" if result.hardware.gpu else ""
        machine = f"{result.hardware.name}: {result.hardware.description}{gpus}"
    fields = [
        _owed("intended purpose", "what it is for, and for whom"),
        _owed("provider", "name and address"),
        _owed("risk class", "whether Art. 6 makes it high-risk, and why"),
        _filled(
            "workload",
            f"{decision.title} ({decision.workload}), {decision.tasks_per_month:,} tasks a month",
            _run("decide", decision.run_id),
        ),
        _filled("model", f"{model.name} {model.version}: {model.title}", "bom.cdx.json"),
        _filled(
            "version in production",
            version or "none: nothing was promoted",
            f"model registry, alias champion of {decision.workload}",
        ),
        _filled(
            "interaction with other systems",
            f"a cascade: {decision.cascade.second} is asked where {decision.cascade.first} is "
            "unsure",
            _run("decide", decision.run_id),
        )
        if decision.verdict == "hybrid" and decision.cascade
        else _owed("interaction with other systems", "what calls it, and what it calls"),
        _filled(
            "versions of software",
            f"{facts.n_libraries} packages in bill of materials {facts.bom_serial}",
            "bom.cdx.json",
        ),
        _filled("form in which it is supplied", supply[result.kind], _run("evaluate", model)),
        _filled("hardware", machine, _run("evaluate", model))
        if machine
        else _filled("hardware", "the API provider's; not known", _run("evaluate", model)),
        _owed("user interface", "what a user or deployer sees"),
        _owed("instructions for use", "Art. 13, for the deployer"),
    ]
    return Point(number="1", title="General description", fields=tuple(fields))


def _development(facts: Facts, compute: Compute | None, reason: str) -> tuple[DossierField, ...]:
    tuned, model, decision = facts.tuned, facts.model, facts.decision
    fields: list[DossierField] = []
    if tuned is None:
        fields.append(
            _filled(
                "2a methods",
                f"{facts.result.title}: no base model was fine-tuned",
                _run("evaluate", model),
            )
        )
    else:
        fields.append(_filled("2a methods", _methods(facts, tuned), _run("finetune", model)))
    if base := model.base:
        if base.on_hub:
            origin = f", revision {base.revision}"
        else:
            origin = ", a toy built on the spot" if base.toy else ", from a folder"
        fields.append(
            _filled(
                "2a third-party model",
                f"{base.name}{origin}; licence {base.licence or 'not stated'}",
                "bom.cdx.json",
            )
        )
    limits = facts.study.workload.requirements
    fields += [
        _filled(
            "2b design choices",
            f"{decision.headline} Demanded: a loss of quality of at most "
            f"{limits.max_quality_loss:g}, 95th percentile of latency within "
            f"{limits.max_latency_p95_s:g} s.",
            f"{_run('decide', decision.run_id)}; the study",
        ),
        _filled(
            "2b alternatives measured",
            "; ".join(
                f"{name}: {each.comparison}"
                + (" (SIMULATED)" if each.simulated else " (TOY)" if each.toy else "")
                for name, each in decision.candidates.items()
            ),
            _run("decide", decision.run_id),
        ),
        _owed("2b assumptions about people", "groups on which it is meant to be used"),
    ]
    if tuned is not None:
        fields.append(
            _filled(
                "2c computing resources",
                f"{tuned.train_s / 3600:.2g} hours on {tuned.machine or 'a machine not noted'}, "
                f"{tuned.n_processes} process(es), {tuned.peak_memory_gib:.1f} GiB at the peak",
                _run("finetune", model),
            )
        )
    source = f"{_run('finetune', model)}; {shown(PATH)}" if tuned else _run("evaluate", model)
    fields.append(
        _filled("2c share of the provider limit", compute.words if compute else reason, source)
        if compute or tuned is None
        else _owed("2c share of the provider limit", reason)
    )
    fields.append(_owed("2c energy", "measured energy of training; no meter was read"))
    return tuple(fields)


def _methods(facts: Facts, tuned: FinetuneResult) -> str:
    lora: Mapping[str, Any] = facts.settings.get("lora", {})
    chosen = tuned.search.chosen if tuned.search else None
    rate = chosen.learning_rate if chosen else facts.settings.get("learning_rate")
    epochs = chosen.epochs if chosen else facts.settings.get("epochs")
    parts = [
        f"supervised fine-tuning of a LoRA adapter on {tuned.base_name}",
        f"rank {tuned.lora_rank or lora.get('rank', 'not noted')}",
        f"learning rate {rate}",
        f"{epochs} epochs",
        f"seed {facts.settings.get('seed', 'not noted')}",
        f"{tuned.n_rows:,} rows, {tuned.n_steps:,} steps, final loss {tuned.final_loss:.3f}",
    ]
    if tuned.search is not None:
        parts.append(f"the best of {len(tuned.search.settings)} settings on held-out rows")
    if tuned.validation_loss is not None:
        parts.append(f"validation loss {tuned.validation_loss:.3f} nats a token")
    return ", ".join(parts)


def _data(facts: Facts) -> tuple[DossierField, ...]:
    prepared, model = facts.prepared, facts.model
    source = _run("prepare", prepared.run_id)
    fields = [
        _filled(
            f"2d {part.role} data",
            f"{part.name}: {part.n_rows:,} rows, SHA-256 {part.rows_sha256[:12]}, tier "
            f"{model.tier}; licences "
            f"{', '.join(f'{name} ({n:,})' for name, n in part.licences.items()) or 'not stated'}",
            f"{source}; bom.cdx.json",
        )
        for part in model.data
    ]
    removed = {
        "duplicates": prepared.n_duplicates,
        "near-copies": prepared.n_near_duplicates,
        "rows also in the eval set": prepared.n_leaked,
        "conflicting answers": prepared.n_conflicts,
    }
    told = ", ".join(f"{name} {n:,}" for name, n in removed.items())
    fields.append(_filled("2d cleaning", f"{prepared.n_read:,} rows read; removed: {told}", source))
    fields.append(
        _filled("2d personal data", _personal(prepared), source)
        if prepared.personal_data is not None
        else _owed("2d personal data", "nobody searched for it: set prepare.personal_data")
    )
    return (
        *fields,
        _owed("2d origin and scope", "how and when the rows were collected, and for what"),
        _owed("2d labelling", "who gave the right answers, by which rules"),
    )


def _personal(prepared: PrepareResult) -> str:
    kinds = ", ".join(f"{name} {n:,}" for name, n in (prepared.personal_data or {}).items())
    done = "masked" if prepared.personal_data_masked else "left as they are"
    names = "" if prepared.names_sought else "; names and places were not looked for"
    return f"{prepared.n_personal_data:,} rows with findings, {done}: {kinds or 'none'}{names}"


def _oversight(facts: Facts) -> tuple[DossierField, ...]:
    fields: list[DossierField] = []
    if facts.rule is None:
        fields.append(_owed("2e who approves", "Art. 14: roles, and the people who hold them"))
    else:
        roles = " and ".join(facts.rule.approvals)
        demanded = (
            f"signatures as {roles}, each of another person, none of them the builder"
            if roles
            else f"nobody has to: {facts.rule.because}"
        )
        fields.append(
            _filled(
                "2e who approves",
                f"{facts.model.tier} data: {demanded}",
                "configs/policies/promotion.yaml",
            )
        )
    return (
        *fields,
        _filled(
            "2e means to stop",
            "ending the process of `pipelines.serve` (Ctrl-C or SIGTERM) ends the model server",
            "pipelines/serve.py",
        )
        if facts.result.kind == "own"
        else _owed("2e means to stop", "how the calls to this model are stopped"),
        _filled(
            "2e means to override",
            "promoting another version moves the alias that production reads"
            + (
                "; a version that somebody rejected, or that not everybody approved, is not loaded"
                if facts.rule is not None and facts.rule.approvals
                else ""
            ),
            "pipelines/promote.py",
        ),
        _owed("2e people", "who watches, who may stop it, and how they were trained"),
        _owed("2f predetermined changes", "re-training that is planned, and within which limits"),
    )


def _validation(facts: Facts) -> tuple[DossierField, ...]:
    result, model = facts.result, facts.model
    source = _run("evaluate", model)
    fields = [
        _filled(
            "2g test procedure",
            f"{result.n_total:,} items of eval set {result.eval_sha256[:12]}; "
            f"{result.quality_metric} decides",
            source,
        )
    ]
    fields += [
        _filled(
            f"2g {each.metric}" + (f", {each.part}" if each.part else ""),
            f"{_interval(each.estimate)}, {each.estimate.n_scored:,} items",
            source,
        )
        for each in model.measures
    ]
    worst = result.latency_p95_s
    if worst is not None:
        fields.append(_filled("2g latency", f"95th percentile {worst:.3g} s", source))
    fields.append(
        _owed("2g discriminatory impact", "which groups of people were compared, and how")
    )
    fields.append(
        _filled("2g signed report", "signed; see dossier.sigstore.json", "this run")
        if facts.signed
        else _owed("2g signed report", "date and sign it: --key FILE")
    )
    return tuple(fields)


def _security(facts: Facts) -> tuple[DossierField, ...]:
    demands = facts.rule is not None and facts.rule.signed_model
    return (
        _filled(
            "2h integrity of the model",
            f"adapter SHA-256 {facts.model.adapter_sha256}; "
            + (
                "signed weights are demanded before it is promoted or served"
                if demands
                else "no signature of the weights is demanded for this tier"
            ),
            "bom.cdx.json; configs/policies/promotion.yaml",
        )
        if facts.model.adapter_sha256
        else _owed("2h integrity of the model", "no weights of ours: what the supplier assures"),
        _filled("2h known vulnerabilities", facts.vulnerabilities, "vex.cdx.json")
        if facts.vulnerabilities is not None
        else _owed("2h known vulnerabilities", "no advisories were given: --advisories FOLDER"),
        _filled(
            "2h where data may go",
            f"{facts.model.tier}: {TIERS[facts.model.tier]}",
            "configs/policies/egress.yaml",
        ),
        _trail(facts.log),
        _owed("2h threats", "data poisoning, hostile input and theft of the model: what was done"),
    )


def _trail(log: LogSummary | None) -> DossierField:
    name = "2h integrity of the audit trail"
    if log is None:
        return _owed(name, "there is no audit trail")
    return _filled(name, log.anchors, f"{log.file}; trail-anchor.sigstore.json of promote runs")


def _broken(log: LogSummary) -> str:
    """The warning of a trail that does not hold."""
    first, *others = log.problems
    more = f" (and {len(others)} more)" if others else ""
    other = (
        "; it was cut or changed, or is not the one that the promotions were noted in: ask who "
        "keeps it"
        if log.n_anchors
        else ""
    )
    return f"TRAIL: the audit trail does NOT hold: {first}{more}{other}"


def _monitoring(facts: Facts) -> Point:
    model = facts.model
    fields = [
        _filled("capabilities and limits", each, _run("evaluate", model)) for each in model.limits
    ]
    if not any(each.part for each in model.measures):
        fields.append(
            _owed("accuracy for specific groups", "no slices were measured: workload.slice_by")
        )
    fields += [
        _owed("foreseeable unintended outcomes", "risks to health, safety and fundamental rights"),
        _filled(
            "input and output",
            f"text; at most {facts.study.workload.max_output_tokens:,} tokens of answer",
            "the study",
        ),
    ]
    return Point(number="3", title="Monitoring, functioning and control", fields=tuple(fields))


def _risk(facts: Facts) -> Point:
    tier = facts.model.tier
    return Point(
        number="5",
        title="Risk management",
        fields=(
            _owed("risk management system", "Art. 9: risks, measures, what remains"),
            _filled("tier of the data", f"{tier}: {TIERS[tier]}", "the study"),
        ),
    )


def _changes(facts: Facts) -> Point:
    log = facts.log
    if log is None:
        field = _owed("changes through the lifecycle", "there is no audit trail to list them from")
    else:
        told = "; ".join(log.changes) or "no version was promoted"
        field = _filled("changes through the lifecycle", told, log.file)
    return Point(number="6", title="Changes through the lifecycle", fields=(field,))


def _filled(name: str, value: str, source: str) -> DossierField:
    return DossierField(name=name, value=value, source=source)


def _owed(name: str, what: str) -> DossierField:
    return DossierField(name=name, value=None, source=what)


def _run(stage: str, of: str | Model) -> str:
    run_id: str | None = of if isinstance(of, str) else None
    if isinstance(of, Model):
        run_id = of.finetune_run_id if stage == "finetune" else of.evaluate_run_id
    return f"{stage} run {run_id}"


def _interval(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f} (95 % interval {estimate.low:.3f} to {estimate.high:.3f})"
