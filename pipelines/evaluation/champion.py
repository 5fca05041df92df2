"""The registered champion, checked where it counts: before anything of it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipelines.core.candidate import Own, Serving
from pipelines.core.errors import ConfigError, MissingRunError, Refused
from pipelines.core.results import ApprovalRequest, FinetuneResult
from pipelines.core.study import Study
from pipelines.governance import approval, keys, model_signature
from pipelines.tracking import audit, registry, store
from pipelines.tracking.registry import Version


@dataclass(frozen=True)
class Champion:
    """What may be loaded."""

    version: str
    tuned: FinetuneResult
    adapter_dir: Path
    """A private copy: what was checked is what is loaded."""
    serving: Serving
    """As it was measured."""


def verified(study: Study, into: Path) -> Champion:
    """The version behind the alias, if it may serve this study's data.

    Whoever can edit the registry can move the alias; so the tier's rule is applied here again.

    Args:
        study: whose tier and base count.
        into: private folder for the adapter.

    Raises:
        MissingRunError: nobody was promoted yet, or its files are gone.
        Refused: it is not approved, or not as it was signed; noted in the audit trail.
        ConfigError: the champion is not an adapter, or the study does not know it.
    """
    workload, tier = study.workload.name, study.workload.tier
    with registry.permitted(workload):
        version = registry.champion(workload)
        if version is None:
            raise MissingRunError(
                f"{workload} has no {registry.CHAMPION} yet; python -m pipelines.promote makes one"
            )
        about = {"model": workload, "version": version.number, "tier": tier}
        with audit.refusals("model.refused", **about):
            adapter = registry.download(workload, version.number, into)
            request = _approved(study, version, adapter, into)
            candidate, finetune_run = _origin(version, request)
            if finetune_run is None:
                raise ConfigError(
                    f"{workload}@{registry.CHAMPION} is {candidate}, which has no adapter of ours: "
                    "there is nothing to serve"
                )
            model_signature.check_files(adapter)
            tuned = store.load_result(finetune_run, FinetuneResult)
            model = study.candidates.get(candidate)
            if not isinstance(model, Own):
                raise ConfigError(
                    f"{workload}@{registry.CHAMPION} is {candidate}, and the study has no such "
                    "candidate; add it, so that it is served as it was measured"
                )
            if request is not None:
                _check_same(study, request, tuned, model.serving)
        audit.note(
            "model.loaded", **about, adapter_sha256=request.adapter_sha256 if request else None
        )
    return Champion(version.number, tuned, adapter, model.serving)


def _approved(study: Study, version: Version, adapter: Path, into: Path) -> ApprovalRequest | None:
    """The request that everybody signed; None where the tier demands no signature."""
    tier = study.workload.tier
    rule = approval.rules(approval.PATH).of(tier)
    if not rule.demands:
        return None
    run_id = version.tags.get(registry.APPROVAL_RUN)
    if not run_id:
        raise Refused(
            f"{version.workload}@{registry.CHAMPION} is version {version.number}, which was never "
            f"put forward for approval, and {tier} data demands it: the alias was moved by hand. "
            "Move it back, or promote the version: python -m pipelines.promote STUDY"
        )
    today, trusted = datetime.now(UTC).date(), keys.trusted(keys.TRUSTED_KEYS)
    case = approval.open_case(registry.folder_of(run_id, "approval", into), trusted, today)
    approval.check_promoted(
        case,
        None if case.request.adapter_sha256 is None and not any(adapter.iterdir()) else adapter,
        model=version.workload,
        version=version.number,
        tier=tier,
        rule=rule,
        trusted=trusted,
        on=today,
    )
    return case.request


def _origin(version: Version, request: ApprovalRequest | None) -> tuple[str, str | None]:
    """Candidate, and the run that trained it; the tags count only where nothing is signed."""
    if request is not None:
        return request.candidate, request.finetune_run_id
    return version.tags.get("candidate", ""), version.tags.get("finetune_run_id") or None


def _check_same(
    study: Study, request: ApprovalRequest, tuned: FinetuneResult, serving: Serving
) -> None:
    """Whether base and serving are those that were measured and approved."""
    from pipelines.training import base_model

    if serving.model_dump() != request.serving:
        raise Refused(
            f"version {request.version} was approved as served with {request.serving}, and the "
            f"study says {serving.model_dump()}; correct the study, or measure and promote anew"
        )
    found = base_model.weights_sha256(base_model.fetch(study.finetune.base))
    if not found == tuned.base_sha256 == request.base_sha256:
        raise Refused(
            f"version {request.version} was approved on base {str(request.base_sha256)[:12]}, and "
            f"the study's base is {found[:12]}; give the one that it was trained on"
        )
