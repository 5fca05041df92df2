"""Write the EU AI Act dossier and the bills of materials of the decided model.

    python -m pipelines.dossier configs/quickstart.yaml
    python -m pipelines.dossier configs/quickstart.yaml --key ci.pem --out dossier/
    python -m pipelines.dossier configs/quickstart.yaml --advisories osv/ --out dossier/

A draft of the technical documentation of Annex IV, filled from runs, bills of materials and the
audit trail; what only a person knows is printed as owed. Not legal advice. With advisories (a local
OSV export), known vulnerabilities are drafted as a VEX in which each waits for a person's ruling:
`scripts/advisories rule` signs one in the folder of --out, and the same command enters it. While
nothing but the time has changed, the bill there keeps its date, so that rulings go on counting.

Reads:  the newest `decide` run of the workload, the runs that it rests on, rulings in --out
Writes: dossier.html, .md, .json, bom.cdx.json (and -1.7), sbom.cdx.json, perhaps vex.cdx.json, with
        --key their signatures, and result.json in one MLflow run, tag stage=dossier
Next:   a person fills what is owed; scripts/advisories gate FOLDER before a release
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core import command
from pipelines.core.candidate import Baseline
from pipelines.core.command import Options
from pipelines.core.decision import Decision
from pipelines.core.errors import MissingRunError, Refused, UserError
from pipelines.core.records import Example, Record
from pipelines.core.results import (
    CARD_DATA,
    EVAL_FILE,
    EvaluateResult,
    FinetuneResult,
    Plan,
    PlannedStage,
    PrepareResult,
)
from pipelines.core.study import Study

if TYPE_CHECKING:
    from pipelines.governance.bom import BaseModel, Bom, DataPart, Library, Measure, Model
    from pipelines.governance.dossier import LogSummary
    from pipelines.governance.keys import PrivateKey
    from pipelines.governance.seal import Bundle
    from pipelines.governance.vex import Finding

HTML, MARKDOWN, JSON = "dossier.html", "dossier.md", "dossier.json"
BOM, BOM_17, SBOM, VEX = "bom.cdx.json", "bom-1.7.cdx.json", "sbom.cdx.json", "vex.cdx.json"
ADVISORIES = "FREEHOLD_ADVISORIES"
"""Environment variable with the path of an OSV export."""
CONFIG_FILE = "config.json"
OWED = (
    "intended users and uses",
    "ethical considerations",
    "fairness towards groups of people",
    "energy of training and use",
)
"""Parts of a model card that no run can fill."""


def dossier(study: Study, options: Options) -> Record:
    """Gather, fill, validate, sign, log."""
    from pipelines.governance import approval, bom, keys, vex
    from pipelines.governance.annex_iv import Facts, fill
    from pipelines.governance.dossier import DossierResult, read_act
    from pipelines.governance.egress import gate_of
    from pipelines.reports import dossier as report
    from pipelines.tracking import registry, store

    store.connect(options.tracking_uri, gate_of(study.workload))
    workload = study.workload.name
    decide_run = store.find_newest("decide", workload)
    if decide_run is None:
        raise MissingRunError(
            f"no finished decide run for {workload}; make one with\n"
            f"  python -m pipelines.decide {options.study_path}"
        )
    decision = store.load_result(decide_run, Decision)
    name = _candidate(decision, getattr(options.own, "candidate", None))
    if options.dry_run:
        note = f"of {name}, decide run {decide_run}"
        return Plan(stages=(PlannedStage(stage="dossier", state="to do", note=note),))
    source = getattr(options.own, "key", None)
    key = keys.load(source) if source else None
    act = read_act()
    result = store.load_result(decision.candidates[name].evaluate_run_id, EvaluateResult)
    prepared, tuned, settings = _upstream(result)
    model = _model(study, decision, result, prepared, tuned, settings)
    libraries = bom.installed()
    at = datetime.now(UTC).replace(microsecond=0)
    out: Path | None = getattr(options.own, "out", None)
    since = _since(bom.model_bom(model, libraries, at, "1.6"), out, at)
    bills = {
        BOM: bom.model_bom(model, libraries, since, "1.6"),
        BOM_17: bom.model_bom(model, libraries, since, "1.7"),
        SBOM: bom.software_bom(libraries, since, "1.6"),
    }
    rulings = vex.rulings(out) if out else {}
    vulnerabilities, problems = None, ()
    if export := getattr(options.own, "advisories", None) or os.environ.get(ADVISORIES):
        bills[VEX], vulnerabilities, problems = _vex(
            workload, Path(export), bills[BOM], libraries, rulings, at
        )
    for each in bills.values():
        bom.check(each)
    champion = registry.champion(workload)
    found = fill(
        Facts(
            study=study,
            decision=decision,
            result=result,
            prepared=prepared,
            tuned=tuned,
            settings=settings,
            model=model,
            bom_serial=bills[BOM]["serialNumber"],
            n_libraries=len(libraries),
            rule=(
                approval.rules(approval.PATH).of(study.workload.tier)
                if approval.PATH.exists()
                else None
            ),
            version=champion.number if champion else None,
            champion=champion.tags.get("candidate") if champion else None,
            log=_log(workload),
            vulnerabilities=vulnerabilities,
            vulnerability_problems=problems,
            signed=key is not None,
            at=at,
        ),
        act,
    )
    files = {
        HTML: report.render(found),
        MARKDOWN: report.markdown(found),
        JSON: found.model_dump_json(indent=2) + "\n",
        **{name: bom.text(each) for name, each in bills.items()},
        **{
            name: json.dumps(each) + "\n"
            for name, each in rulings.items()
            if not isinstance(each, Refused)
        },
    }
    if key is not None:
        files |= _signatures(files, bills, key)
    stage = store.Stage("dossier", workload, {"decision": decision.sha256, "of": name}, name)
    inputs = {"decide": decide_run, "evaluate": result.run_id, "prepare": prepared.run_id}
    with store.open_run(
        stage,
        data_sha256=decision.eval_sha256,
        inputs={**inputs, "finetune": tuned.run_id} if tuned else inputs,
        description=f"Draft of the technical documentation of {name}.",
    ) as run:
        for file, content in files.items():
            run.log_text(content, file)
        written = DossierResult(
            run_id=run.run_id,
            candidate=name,
            n_fields=len(found.fields),
            n_owed=found.n_owed,
            compute_ratio=found.compute.ratio if found.compute else None,
            bom_serial=bills[BOM]["serialNumber"],
            files=tuple(files),
            stamps=found.stamps,
            signed_by=keys.public_of(key, "signer").key_id if key else None,
        )
        run.log_metrics(
            {
                "fields": written.n_fields,
                "fields_owed": written.n_owed,
                "compute_ratio": written.compute_ratio,
            }
        )
        run.set_tags({"signed": str(key is not None).lower(), "bom": written.bom_serial})
        run.describe(report.markdown(found))
        run.save_result(written)
    _save(files, out)
    return written


def show(record: Record) -> str:
    """What was written and what is owed."""
    from pipelines.governance.dossier import DossierResult
    from pipelines.reports import dossier as report

    assert isinstance(record, DossierResult)
    return report.table(record)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this command."""
    parser.add_argument("--key", metavar="FILE", help="sign with this private key, or env:NAME")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="also write the files there, and read rulings there",
    )
    parser.add_argument(
        "--advisories", metavar="PATH", help=f"OSV export, a folder or a file (or ${ADVISORIES})"
    )
    parser.add_argument(
        "--candidate", metavar="NAME", help="whose dossier (default: who was chosen)"
    )


def _candidate(decision: Decision, wanted: str | None) -> str:
    """Whose dossier it is: the chosen one's, or the incumbent's, who stays where none was."""
    name = wanted or decision.chosen or decision.incumbent
    if name not in decision.candidates:
        raise UserError(
            f"--candidate {name}: decide run {decision.run_id} has only "
            f"{', '.join(decision.candidates)}"
        )
    return name


def _upstream(
    result: EvaluateResult,
) -> tuple[PrepareResult, FinetuneResult | None, Mapping[str, Any]]:
    """The runs that an evaluation rests on, and the settings of its training."""
    from pipelines.tracking import registry, store

    prepare_run = registry.input_of(result.run_id, "prepare")
    if prepare_run is None:
        raise MissingRunError(
            f"evaluate run {result.run_id} does not say which rows it used; evaluate again"
        )
    prepared = store.load_result(prepare_run, PrepareResult)
    finetune_run = registry.input_of(result.run_id, "finetune")
    if finetune_run is None:
        return prepared, None, {}
    config = json.loads(store.artifact(finetune_run, CONFIG_FILE).read_text(encoding="utf-8"))
    return prepared, store.load_result(finetune_run, FinetuneResult), config["finetune"]


def _model(
    study: Study,
    decision: Decision,
    result: EvaluateResult,
    prepared: PrepareResult,
    tuned: FinetuneResult | None,
    settings: Mapping[str, Any],
) -> Model:
    from pipelines.governance import bom
    from pipelines.governance.annex_iv import limits_of
    from pipelines.training.base_identity import identity

    base = _base(study, tuned, settings) if result.kind == "own" else None
    candidate = study.candidates.get(result.candidate)
    fitted = isinstance(candidate, Baseline) and candidate.method == "tfidf_logreg"
    shape = study.finetune.shape
    architecture = None
    same = settings.get("base") in (None, identity(study.finetune.base))
    if base is not None and shape is not None and same:
        architecture = f"decoder, {shape.layers} layers of width {shape.hidden}"
        if tuned is not None:
            rank = tuned.lora_rank or settings.get("lora", {}).get("rank")
            architecture += f", LoRA adapter of rank {rank}"
    return bom.Model(
        name=f"{decision.workload}/{result.candidate}",
        title=result.title,
        kind=result.kind,
        tier=study.workload.tier,
        evaluate_run_id=result.run_id,
        finetune_run_id=tuned.run_id if tuned else None,
        adapter_sha256=result.adapter_sha256,
        base=base,
        architecture=architecture,
        data=_data(study, result, prepared, learned=tuned is not None or fitted),
        measures=_measures(study, result, prepared),
        limits=limits_of(result, decision.candidates[result.candidate].slices),
        owed=OWED,
    )


def _base(study: Study, tuned: FinetuneResult | None, settings: Mapping[str, Any]) -> BaseModel:
    """The base as its training names it; of an untuned model, as the study does."""
    from pipelines.data import licences
    from pipelines.governance.bom import BaseModel
    from pipelines.training.base_identity import identity

    ref = study.finetune.base
    named = str(settings.get("base") or identity(ref))
    origin, _, rest = named.partition(":")
    hub_name, _, revision = rest.rpartition("@")
    on_hub, toy = origin == "hub", named.startswith("toy-")
    known = licences.read(licences.FOLDER)
    if named == identity(ref):
        licence = licences.of_base(ref, known)
    elif toy:
        licence = licences.TOY_LICENCE
    else:
        licence = licences.of_model(hub_name, known)
    return BaseModel(
        name=hub_name if on_hub else named if toy else Path(rest).name,
        on_hub=on_hub,
        revision=revision if on_hub else None,
        weights_sha256=tuned.base_sha256 if tuned else None,
        licence=licence,
        toy=toy,
    )


def _data(
    study: Study, result: EvaluateResult, prepared: PrepareResult, *, learned: bool
) -> tuple[DataPart, ...]:
    """The rows that the model learned from, if it did, and those that it was measured on."""
    from pipelines.data.card import Card
    from pipelines.governance.bom import DataPart
    from pipelines.tracking import store

    card = Card.model_validate_json(
        store.artifact(prepared.run_id, CARD_DATA).read_text(encoding="utf-8")
    )
    sources = ", ".join(Path(each.name).name for each in card.sources)
    own = study.workload.eval_set
    parts = [
        DataPart(
            role="evaluation",
            name=", ".join(Path(each.name).name for each in card.eval_sources) or own.path,
            rows_sha256=prepared.eval_sha256,
            n_rows=prepared.n_eval,
            licences={own.licence: prepared.n_eval} if own.licence else {},
        )
    ]
    if learned:
        searched = prepared.personal_data is not None
        personal = None
        if searched:
            done = "masked" if prepared.personal_data_masked else "not masked"
            personal = f"{prepared.n_personal_data} rows with findings, {done}"
        splits = [("training", prepared.train_sha256, prepared.n_train)]
        if prepared.validation_sha256 is not None:
            splits.append(("validation", prepared.validation_sha256, prepared.n_validation))
        parts = [
            *(
                DataPart(
                    role=role,  # pyright: ignore[reportArgumentType] - one of the two above
                    name=sources or study.prepare.train.path,
                    rows_sha256=digest,
                    n_rows=n,
                    licences=prepared.licences,
                    n_without_licence=prepared.n_without_licence,
                    personal_data=personal,
                )
                for role, digest, n in splits
            ),
            *parts,
        ]
    return tuple(parts)


def _measures(study: Study, result: EvaluateResult, prepared: PrepareResult) -> tuple[Measure, ...]:
    """Every metric on all items, and the quality in every slice."""
    from pipelines.evaluation.asked import repeated
    from pipelines.evaluation.evidence import answered
    from pipelines.evaluation.job import rows_of
    from pipelines.governance.bom import Measure
    from pipelines.statistics.intervals import estimate

    found = [
        Measure(metric=name, part=None, estimate=each)
        for name, each in result.metrics.items()
        if each is not None
    ]
    if not study.workload.slice_by:
        return tuple(found)
    items = repeated(rows_of(prepared.run_id, EVAL_FILE, Example), study.evaluate.n_samples)
    groups = {item.id: item.group for item in items if item.group is not None}
    parts: dict[str, list[str]] = {}
    for key in study.workload.slice_by:
        for item in items:
            if (value := item.metadata.get(key)) is not None:
                words = value if isinstance(value, str) else json.dumps(value)
                parts.setdefault(f"{key}={words}", []).append(item.id)
    values = answered(result).values.get(result.quality_metric, {})
    for part, ids in sorted(parts.items()):
        if each := estimate({id: values.get(id) for id in ids}, groups):
            found.append(Measure(metric=result.quality_metric, part=part, estimate=each))
    return tuple(found)


def _since(of: Bom, folder: Path | None, at: datetime) -> datetime:
    """When the same bill was written to a folder: rulings are signed for its bytes."""
    from pipelines.governance import vex

    if folder is None or not (folder / BOM).exists():
        return at
    earlier = vex.read_json(folder / BOM)
    try:
        same = earlier["serialNumber"] == of["serialNumber"]
        return datetime.fromisoformat(earlier["metadata"]["timestamp"]) if same else at
    except (KeyError, TypeError, ValueError):
        return at


def _vex(
    workload: str,
    export: Path,
    of: Bom,
    libraries: Sequence[Library],
    rulings: Mapping[str, Bundle | Refused],
    at: datetime,
) -> tuple[Bom, str, tuple[str, ...]]:
    """The VEX of one bill, its findings in words, and what of them stands in the way."""
    from pipelines.governance import keys, vex

    advisories = vex.read_osv(export)
    findings = vex.match(advisories, {each.name: each.version for each in libraries})
    seen = vex.evidence(
        {each.advisory.package for each in findings},
        libraries,
        importlib.metadata.packages_distributions(),
    )
    draft = vex.draft(findings, of, seen, at, _first_seen(findings, workload))
    rules, today = vex.policy(), at.date()
    trusted = keys.trusted(keys.TRUSTED_KEYS) if rulings else ()
    found, not_counted = vex.ruled(draft, of, rulings, trusted, rules, today)
    newest = max(each.modified for each in advisories)[:10]
    told = "; ".join(vex.words(each) for each in found["vulnerabilities"])
    words = f"advisories compared: {len(advisories):,}, up to {newest}; {told or 'none applies'}"
    return found, words, (*not_counted, *vex.problems(found, of, rules, today))


def _first_seen(findings: Sequence[Finding], workload: str) -> dict[str, datetime]:
    """Since when findings are known: the audit trail remembers it, whoever writes drafts anew."""
    from pipelines.governance import trail, vex
    from pipelines.tracking import audit

    log = audit.trail()
    noted: dict[str, datetime] = {}
    for entry in trail.read(log.path):
        if entry.kind == vex.FOUND:
            noted.setdefault(str(entry.fields.get("finding")), datetime.fromisoformat(entry.at))
    for ref in (each.ref for each in findings):
        if ref not in noted:
            entry = log.append(vex.FOUND, workload=workload, finding=ref)
            noted[ref] = datetime.fromisoformat(entry.at)
    return noted


def _log(workload: str) -> LogSummary | None:
    """What the audit trail holds, beside the anchors of promotions; None where there is neither."""
    from pipelines.governance import keys, seal, trail
    from pipelines.governance.approval import BUILDER
    from pipelines.governance.dossier import summed_up
    from pipelines.tracking import audit

    path, anchors = audit.trail().path, audit.anchors(workload)
    if not path.exists() and not anchors:
        return None
    # An anchor is about the past: a key that is over counts, one that leaked is listed no more.
    known = keys.trusted(keys.TRUSTED_KEYS) if anchors else ()
    builders = [each for each in known if BUILDER in each.roles]
    counted: list[seal.Bundle] = []
    not_counted: list[str] = []
    for run_id, bundle in anchors.items():
        try:
            if isinstance(bundle, Refused):
                raise bundle
            seal.opened(bundle, builders, trail.ANCHOR)
            counted.append(bundle)
        except Refused as error:
            not_counted.append(f"the anchor of promote run {run_id} does not count: {error}")
    report = trail.verify(path, counted, builders)
    return summed_up(path.name, trail.read(path), report, workload, len(counted), not_counted)


def _signatures(
    files: Mapping[str, str], bills: Mapping[str, dict[str, Any]], key: PrivateKey
) -> dict[str, str]:
    """One bundle on each bill, whose predicate is the bill, and one on all files together."""
    from pipelines.governance import bom, seal
    from pipelines.governance.dossier import PREDICATE_TYPE

    found: dict[str, str] = {}
    for name, bill in bills.items():
        bundle = seal.sign({name: files[name].encode()}, bom.PREDICATE_TYPE, bill, key)
        found[f"{name.removesuffix('.json')}.sigstore.json"] = json.dumps(bundle) + "\n"
    subjects = {name: text.encode() for name, text in files.items()}
    about = json.loads(files[JSON])
    predicate = {each: about[each] for each in ("workload", "candidate", "written_at", "stamps")}
    bundle = seal.sign(subjects, PREDICATE_TYPE, predicate, key)
    return {**found, "dossier.sigstore.json": json.dumps(bundle) + "\n"}


def _save(files: Mapping[str, str], folder: Path | None) -> None:
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written: {error.strerror}") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return command.main(__doc__, dossier, show, argv, add_flags=add_flags)


if __name__ == "__main__":
    sys.exit(main())
