"""Promote the candidate that the newest decision names: `champion` in the MLflow registry.

    python -m pipelines.promote configs/quickstart.yaml
    python -m pipelines.promote configs/quickstart.yaml --approve --role risk --key alice.pem

configs/policies/promotion.yaml says which tiers of data need people's consent. There, the first
form signs the adapter with the builder's key and asks for approval: exit code 5, and the alias
stays where it is. Each approver then gives the second form (or --reject), and the first one, given
again, moves the alias. What `serve --champion` loads is checked against the same signatures.

Reads:  the newest `decide` run of the workload
Writes: a version of the workload's registered model, its alias `champion`, a line of the audit
        trail, and one MLflow run, tag stage=promote; with approvals, one more, stage=approval
Next:   python -m pipelines.serve configs/quickstart.yaml --champion
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.core import command
from pipelines.core.candidate import Own
from pipelines.core.command import Options
from pipelines.core.decision import Decision
from pipelines.core.errors import MissingRunError, Refused, UserError
from pipelines.core.records import Record
from pipelines.core.results import (
    TRAIN_FILE,
    ApprovalRequest,
    EvaluateResult,
    FinetuneResult,
    Plan,
    PlannedStage,
    PromoteResult,
)
from pipelines.core.study import Study

if TYPE_CHECKING:
    from pipelines.governance.approval import Standing, TierRule
    from pipelines.governance.keys import PrivateKey, TrustedKey

BUILDER_KEY = "FREEHOLD_BUILDER_KEY"
"""Environment variable with the path of the builder's key."""
CASE = "approval"
"""Stage of the run that holds a request with its signatures, and their folder in it."""
ANCHOR = "trail-anchor.sigstore.json"
WEIGHTS = "adapter_model.safetensors"


def promote(study: Study, options: Options) -> Record:
    """Check the decision, register, have it approved where the tier demands it, move the alias."""
    from pipelines.governance.egress import gate_of
    from pipelines.tracking import audit, registry, store

    store.connect(options.tracking_uri, gate_of(study.workload))
    workload = study.workload
    with (
        audit.refusals("promotion.refused", model=workload.name, tier=workload.tier),
        registry.permitted(workload.name),
    ):
        if getattr(options.own, "ruling", None) is not None:
            return _sign(study, options)
        return _promote(study, options)


def gate(decision: Decision, *, verified: bool = False) -> str:
    """The candidate that may be promoted.

    Args:
        decision: the newest.
        verified: whether the judges of its quality must be fit to decide.

    Raises:
        Refused: the decision names none, or rests on simulated answers or on unfit judges.
    """
    if decision.chosen is None:
        raise Refused(
            f"decision {decision.run_id} names no candidate ({decision.verdict}): "
            f"{decision.headline}"
        )
    if decision.simulated:
        raise Refused(
            f"decision {decision.run_id} rests on simulated answers of "
            f"{', '.join(decision.simulated)}; give the real candidate its API key, or leave it "
            "out of the study, and decide again"
        )
    if verified and decision.unverified is not None:
        raise Refused(
            f"decision {decision.run_id} is unverified, and people are asked to approve only what "
            f"was verified: {decision.unverified}"
        )
    return decision.chosen


def _promote(study: Study, options: Options) -> Record:
    from pipelines.governance import approval
    from pipelines.tracking import audit, registry, store

    workload, tier = study.workload.name, study.workload.tier
    decide_run = store.find_newest("decide", workload)
    if decide_run is None:
        raise MissingRunError(
            f"no finished decide run for {workload}; make one with\n"
            f"  python -m pipelines.decide {options.study_path}"
        )
    decision = store.load_result(decide_run, Decision)
    rule = approval.rules(approval.PATH).of(tier)
    chosen = gate(decision, verified=rule.demands)
    row = decision.candidates[chosen]
    champion = registry.champion(workload)
    if options.dry_run:
        roles = f" once approved as {', '.join(rule.approvals)}" if rule.approvals else ""
        note = f"{chosen} becomes {workload}@{registry.CHAMPION}{roles}"
        return Plan(stages=(PlannedStage(stage="promote", state="to do", note=note),))
    key = _builder_key(options, needed=rule.demands)
    finetune_run = registry.input_of(row.evaluate_run_id, "finetune")
    if row.kind == "own":
        _check_licences(study, finetune_run)
    version = registry.register(
        workload,
        row.model_id,
        {
            "decision_run_id": decide_run,
            "evaluate_run_id": row.evaluate_run_id,
            "finetune_run_id": finetune_run or "",
            "candidate": chosen,
            "kind": row.kind or "",
            "verdict": decision.verdict,
            "toy": str(row.toy).lower(),
        },
        decision.headline,
    )
    result = PromoteResult(
        run_id="",
        registered_model=workload,
        version=version,
        alias=registry.CHAMPION,
        candidate=chosen,
        decision_run_id=decide_run,
    )
    if rule.demands:
        assert key is not None
        result = _approved(study, result, decision, finetune_run, rule, key)
        if result.state == "waiting":
            return result
    inputs = {"decide": decide_run, f"evaluate.{chosen}": row.evaluate_run_id}
    if result.approval_run_id is not None:
        inputs[CASE] = result.approval_run_id
    stage = store.Stage(
        "promote",
        workload,
        {"decision": decision.sha256, "champion": champion.number if champion else None},
    )
    with store.open_run(
        stage,
        data_sha256=decision.eval_sha256,
        inputs=inputs,
        description=f"{chosen} becomes champion.",
    ) as run:
        audit.note(
            "promotion",
            model=workload,
            version=version,
            tier=tier,
            candidate=chosen,
            decision_sha256=decision.sha256,
            adapter_sha256=result.request.adapter_sha256 if result.request else None,
            approved_by=dict(result.approved_by),
            promote_run=run.run_id,
        )
        registry.crown(workload, version)
        result = result.model_copy(update={"run_id": run.run_id})
        if key is not None:
            run.log_text(json.dumps(audit.trail().anchor(key)) + "\n", ANCHOR)
            result = result.model_copy(update={"anchor": ANCHOR})
        run.set_tags({"candidate": chosen, "model_version": version})
        run.save_result(result)
    return result


def _check_licences(study: Study, finetune_run: str | None) -> None:
    """Ask the licences of the base and of the rows that it was tuned on.

    Raises:
        Refused: one needs an acknowledgement that the study does not give, or gives no longer.
    """
    from pipelines.core.row_file import opened
    from pipelines.data import licences
    from pipelines.tracking import registry, store

    prepare_run = registry.input_of(finetune_run, "prepare") if finetune_run else None
    rows = opened(store.artifact(prepare_run, TRAIN_FILE)) if prepare_run is not None else ()
    licences.check(study, rows)


def _approved(
    study: Study,
    result: PromoteResult,
    decision: Decision,
    finetune_run: str | None,
    rule: TierRule,
    key: PrivateKey,
) -> PromoteResult:
    """`result` with what people have said so far; makes the request if there is none.

    Raises:
        Refused: somebody rejected it, or what is on file does not hold.
    """
    from pipelines.governance import approval
    from pipelines.tracking import audit, registry, store

    workload, tier, version = study.workload.name, study.workload.tier, result.version
    today = datetime.now(UTC).date()
    trusted = _trusted()
    builder = approval.builder_of(key, trusted, today)
    row = decision.candidates[result.candidate]
    candidate = study.candidates.get(result.candidate)
    request = ApprovalRequest(
        model=workload,
        version=version,
        candidate=result.candidate,
        kind=row.kind,
        tier=tier,
        roles=rule.approvals,
        decision_run_id=decision.run_id,
        decision_sha256=decision.sha256,
        verdict=decision.verdict,
        headline=decision.headline,
        evaluate_run_id=row.evaluate_run_id,
        finetune_run_id=finetune_run,
        adapter_sha256=None,
        base_sha256=(
            store.load_result(finetune_run, FinetuneResult).base_sha256 if finetune_run else None
        ),
        serving=candidate.serving.model_dump() if isinstance(candidate, Own) else {},
        builder=builder.name,
        builder_key_id=builder.key_id,
    )
    with tempfile.TemporaryDirectory(prefix="freehold-promote-") as name:
        scratch = Path(name)
        adapter = None
        if finetune_run is not None:
            adapter = registry.download(workload, version, scratch)
            _check_evaluated(adapter, row.evaluate_run_id)
        stage = store.Stage(CASE, workload, {"request": request.model_dump(mode="json")})
        run_id = found = store.find_finished(stage)
        if run_id is None:
            with store.open_run(
                stage,
                data_sha256=decision.eval_sha256,
                inputs={"decide": decision.run_id},
                description=f"{result.candidate} waits for approval as {workload} {version}.",
            ) as run:
                made = scratch / "made"
                made.mkdir()
                approval.write_case(request, adapter, key, made)
                run.log_folder(made, CASE)
                run_id = run.run_id
        registry.tag(workload, version, {registry.APPROVAL_RUN: run_id})
        folder = registry.folder_of(run_id, CASE, scratch)
        case = approval.open_case(folder, trusted, today)
        approval.check_case(case, model=workload, version=version, tier=tier, rule=rule)
        if adapter is not None:
            case.check_adapter(adapter)
    if found is None:
        audit.note("promotion.requested", **case.digests, roles=list(rule.approvals))
    standing = case.standing(rule, trusted, today)
    if standing.rejected:
        raise Refused(f"version {version} of {workload}: {standing.why_not()}")
    return _with(result, case.request, run_id, standing)


def _with(
    result: PromoteResult, request: ApprovalRequest, run_id: str, standing: Standing
) -> PromoteResult:
    waits = bool(standing.missing)
    return result.model_copy(
        update={
            "run_id": run_id if waits else result.run_id,
            "alias": None if waits else result.alias,
            "state": "waiting" if waits else result.state,
            "approval_run_id": run_id,
            "request": request,
            "approved_by": {role: each.name for role, each in standing.approved.items()},
            "missing": standing.missing,
            "not_counted": standing.not_counted,
        }
    )


def _sign(study: Study, options: Options) -> Record:
    """Put one person's approval or rejection on file."""
    from pipelines.core.progress import say
    from pipelines.governance import approval, keys, seal
    from pipelines.tracking import audit, registry, store

    workload, tier, own = study.workload.name, study.workload.tier, options.own
    if own.role is None or own.key is None:
        raise UserError("--approve and --reject need --role ROLE and --key FILE: whose word is it?")
    rule = approval.rules(approval.PATH).of(tier)
    if not rule.demands:
        raise Refused(f"{tier} data demands no approval ({rule.because}); there is nothing to sign")
    run_id = store.find_newest(CASE, workload)
    if run_id is None:
        raise MissingRunError(
            f"nobody has asked for approval of {workload} yet; the builder does with\n"
            f"  python -m pipelines.promote {options.study_path} --key BUILDER.pem"
        )
    now, trusted = datetime.now(UTC), _trusted()
    with tempfile.TemporaryDirectory(prefix="freehold-promote-") as name:
        scratch = Path(name)
        folder = registry.folder_of(run_id, CASE, scratch)
        case = approval.open_case(folder, trusted, now.date())
        request = case.request
        approval.check_case(case, model=workload, version=request.version, tier=tier, rule=rule)
        if request.adapter_sha256 is not None:
            case.check_adapter(registry.download(workload, request.version, scratch))
    decision = store.load_result(request.decision_run_id, Decision)
    if decision.sha256 != request.decision_sha256:
        raise Refused(
            f"decision {request.decision_run_id} is not the one that the request is for: it was "
            "changed in the store; promote anew"
        )
    gate(decision, verified=True)
    approved = own.ruling == "approve"
    file, bundle = case.sign(
        own.role, approved, own.comment, keys.load(Path(own.key)), trusted, now
    )  # fmt: skip
    say(f"promote: {own.ruling}: {_described(request)}")
    if options.dry_run:
        note = f"{own.ruling} as {own.role}"
        return Plan(stages=(PlannedStage(stage=CASE, state="to do", note=note),))
    signature = seal.opened(bundle, trusted, approval.APPROVAL)
    word = "approved" if approved else "rejected"
    audit.note(
        f"promotion.{word}",
        **case.digests,
        role=own.role,
        name=signature.signer.name,
        key_id=signature.signer.key_id,
    )
    with tempfile.TemporaryDirectory() as name:
        seal.write(bundle, Path(name, file))
        registry.add_file(run_id, CASE, file, Path(name, file).read_text(encoding="utf-8"))
    said = f"{signature.signer.name} {now:%Y-%m-%d}"
    registry.tag(workload, request.version, {f"{word}.{own.role}": said})
    case = approval.Case(
        request, case.content, case.builder, case.model_bundle, {**case.approvals, file: bundle}
    )
    standing = case.standing(rule, trusted, now.date())
    return PromoteResult(
        run_id=run_id,
        registered_model=workload,
        version=request.version,
        alias=None,
        candidate=request.candidate,
        decision_run_id=request.decision_run_id,
        state=word,
        approval_run_id=run_id,
        request=request,
        approved_by={role: each.name for role, each in standing.approved.items()},
        missing=standing.missing,
        not_counted=standing.not_counted,
    )


def _check_evaluated(adapter: Path, evaluate_run: str) -> None:
    """No builder signs weights that nobody measured."""
    from pipelines.governance import seal
    from pipelines.tracking import store

    measured = store.load_result(evaluate_run, EvaluateResult).adapter_sha256
    if measured != seal.sha256_of(adapter / WEIGHTS):
        raise Refused(
            f"the adapter in the store is not the one that run {evaluate_run} evaluated: its "
            "weights were changed since; find out who did, then evaluate and decide again"
        )


def _builder_key(options: Options, *, needed: bool) -> PrivateKey | None:
    """The builder's key; where it is not needed, only what was set."""
    from pipelines.governance import keys

    source = getattr(options.own, "key", None) or os.environ.get(BUILDER_KEY)
    if source:
        return keys.load(Path(source))
    if needed:
        raise UserError(
            "models for this tier are signed by their builder: give the key with --key FILE or "
            f"${BUILDER_KEY} (scripts/keys ci --role builder makes one)"
        )
    return None


def _trusted() -> tuple[TrustedKey, ...]:
    from pipelines.governance import keys

    return keys.trusted(keys.TRUSTED_KEYS)


def _described(request: ApprovalRequest) -> str:
    """What is approved, for the person who does."""
    adapter = request.adapter_sha256 or "none: nothing of ours is loaded"
    return (
        f"version {request.version} of {request.model} ({request.tier} data)\n"
        f"  candidate  {request.candidate} ({request.kind})\n"
        f"  verdict    {request.verdict}: {request.headline}\n"
        f"  decision   run {request.decision_run_id}, sha256 {request.decision_sha256}\n"
        f"  adapter    {adapter}\n"
        f"  builder    {request.builder} (key {request.builder_key_id[:12]})\n"
        f"  asked of   {', '.join(request.roles) or 'nobody'}"
    )


def show(record: Record) -> str:
    """The result in words."""
    assert isinstance(record, PromoteResult)
    version = f"version {record.version} of {record.registered_model}"
    signed = ", ".join(f"{name} as {role}" for role, name in record.approved_by.items())
    if record.state == "promoted":
        by = f", approved by {signed}" if signed else ""
        return (
            f"{record.candidate} is {version}, alias {record.alias} "
            f"(decision {record.decision_run_id}{by})"
        )
    lines: list[str] = []
    if record.state == "waiting":
        assert record.request is not None
        lines.append(f"WAITING for approval: {_described(record.request)}")
        lines.append(f"request: artifact {CASE}/request.json of run {record.approval_run_id}")
    else:
        lines.append(f"{record.state}: {version}, on file in run {record.approval_run_id}")
    if signed:
        lines.append(f"approved so far: {signed}")
    lines += [f"does not count: {why}" for why in record.not_counted]
    if record.state == "rejected":
        lines.append("it cannot be promoted any more; train or decide anew")
    elif record.missing:
        lines.append("each of these needs the signature of another person:")
        lines += [
            f"  python -m pipelines.promote STUDY --approve --role {role} --key YOUR_KEY.pem"
            for role in record.missing
        ]
        lines.append("(--reject instead of --approve refuses it; --comment TEXT says why)")
    if record.state != "rejected":
        lines.append("when all have signed, the builder moves the alias:")
        lines.append("  python -m pipelines.promote STUDY")
    return "\n".join(lines)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of those who sign."""
    add = parser.add_argument
    ruling = parser.add_mutually_exclusive_group()
    for word, about in (("approve", "sign that it may serve"), ("reject", "sign that it may not")):
        ruling.add_argument(
            f"--{word}", dest="ruling", action="store_const", const=word,
            help=f"{about}; needs --role and --key",
        )  # fmt: skip
    add("--role", help="in which you sign, such as risk; see configs/policies/promotion.yaml")
    add("--key", metavar="FILE", help=f"your private key; the builder's may be in ${BUILDER_KEY}")
    add("--comment", default="", metavar="TEXT", help="for the file, with --approve or --reject")


def main(argv: Sequence[str] | None = None) -> int:
    """Promote, approve or reject."""
    return command.main(__doc__, promote, show, argv, add_flags=add_flags)


if __name__ == "__main__":
    sys.exit(main())
