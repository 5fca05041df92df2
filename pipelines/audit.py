"""Audit what closed APIs cost: usage logs -> dollars per workload, and what is worth a study.

    python -m pipelines.audit logs/ costs.json --invoice openai=1234.56 --html audit.html
    python -m pipelines.audit mlflow:my-experiment --focus focus.csv
    python -m pipelines.audit logs/ --write-study claims

Reads:  usage exports, cost reports and request logs (files, folders, patterns), MLflow traces
Writes: audit.json, audit.html and focus.csv in one MLflow run of the experiment `audit`
Next:   python -m pipelines.run configs/NAME.yaml, with the study that --write-study began
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from pipelines.core import command
from pipelines.core.audit import AuditResult
from pipelines.core.errors import ConfigError, DataError
from pipelines.core.paths import ROOT, shown
from pipelines.core.progress import say
from pipelines.core.records import Record
from pipelines.core.usage_log import BadRow, GroupedBy, UsageLog

if TYPE_CHECKING:
    from pipelines.economics.charge import Charge
    from pipelines.tracking.store import StageRun

EXPERIMENT = "audit"
MLFLOW = "mlflow:"
EVAL_SETS = ROOT / "eval_sets"
SAMPLE = "sampled.jsonl"
N_PROMPTS = 200
"""Calls that --show-prompts copies out of the log."""
N_PARAMS = 20
"""Workloads that become parameters of the MLflow run."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command alone."""
    parser.add_argument(
        "logs", nargs="+", metavar="LOGS",
        help="files, folders or patterns; mlflow:EXPERIMENT reads traces of the tracking server",
    )  # fmt: skip
    parser.add_argument(
        "--invoice", action="append", default=[], metavar="[PROVIDER=]DOLLARS",
        help="what was billed for the logs' period, in all or by one provider; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--by", choices=get_args(GroupedBy),
        help="what names a workload (default: the first of these that a call has)",
    )  # fmt: skip
    parser.add_argument(
        "--as-of", type=_date, metavar="DATE",
        help="use the prices of this day for every call (default: of the call's own day)",
    )  # fmt: skip
    parser.add_argument(
        "--terms", type=Path, metavar="FILE.yaml",
        help="what you pay instead of list prices: discounts and regional uplifts by provider",
    )  # fmt: skip
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the page there, too")
    parser.add_argument(
        "--focus", type=Path, metavar="FILE.csv", help="write cost rows in the format FOCUS 1.2"
    )
    parser.add_argument(
        "--write-study", metavar="WORKLOAD", help="begin a study of this workload from its log"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE.yaml",
        help="where --write-study writes (default: configs/WORKLOAD.yaml)",
    )  # fmt: skip
    parser.add_argument(
        "--show-prompts", action="store_true",
        help="let words of the logged prompts appear: as names of workloads, and as a sample in "
        "eval_sets/ with --write-study",
    )  # fmt: skip


def audit(args: argparse.Namespace) -> Record:
    """Read, price, compare, rank, report."""
    invoices = _invoices(args.invoice)
    study_path = _study_path(args)
    for path in (args.html, args.focus, study_path):
        if path is not None and not path.absolute().parent.is_dir():
            raise ConfigError(f"{shown(path.absolute().parent)}: no such folder; make it first")

    from pipelines.economics import agreed, audited
    from pipelines.tracking import store

    terms = () if args.terms is None else agreed.read(args.terms)
    store.connect(args.tracking_uri)
    with _paths(args.logs) as paths:
        log = _read(paths, args)
        charges = audited.priced(log.groups, args.as_of, terms)
        _check_providers(invoices, charges)
        result = audited.result(
            log, charges, invoices, sources=args.logs, as_of=args.as_of, terms=terms
        )
        study = None if study_path is None else _study(result, charges, args.write_study)
        digest = audited.digest(log)
        stage = store.Stage(
            "audit",
            EXPERIMENT,
            {
                "logs": args.logs,
                "invoices": invoices,
                "by": args.by,
                "as_of": args.as_of,
                "terms": [each.model_dump(mode="json") for each in terms],
                "calls_sha256": digest,
            },
        )
        with store.open_run(stage, data_sha256=digest, inputs={}, description="LLM spend.") as run:
            result = result.model_copy(update={"run_id": run.run_id})
            _report(run, result, charges, args)
        if study_path is not None and study is not None:
            _write(study_path, study)
            say(f"audit: wrote {shown(study_path)}; reading it names what is to be filled in")
            if args.show_prompts:
                _write_prompts(args.write_study, list(paths), args.by)
    return result


def show(record: Record) -> str:
    """The total, the differences and the ranked workloads."""
    from pipelines.reports import audit as report

    assert isinstance(record, AuditResult)
    return report.table(record)


def _invoices(given: Sequence[str]) -> dict[str, Decimal]:
    found: dict[str, Decimal] = {}
    for each in given:
        provider, equals, amount = each.rpartition("=")
        # 1,234.56 is read; 1234,56 could mean either and is refused.
        if not re.fullmatch(r"(\d+|\d{1,3}(,\d{3})+)(\.\d+)?", amount) or (equals and not provider):
            raise ConfigError(
                f"--invoice {each}: expected dollars, such as 1234.56 or openai=1234.56"
            )
        if provider in found:
            raise ConfigError(f"--invoice {each}: given twice for {provider or 'all providers'}")
        found[provider] = Decimal(amount.replace(",", ""))
    return found


def _check_providers(invoices: Iterable[str], charges: Iterable[Charge]) -> None:
    from pipelines.reports.names import short

    known = {short(each.provider) for each in charges}
    for provider in invoices:
        if provider and provider not in known:
            raise ConfigError(
                f"--invoice {provider}=...: the logs hold no call to it; they hold calls to "
                f"{', '.join(sorted(known - {''})) or 'providers that they do not name'}"
            )


def _study_path(args: argparse.Namespace) -> Path | None:
    """Where --write-study writes; nobody's study is overwritten."""
    if args.write_study is None:
        if args.out is not None:
            raise ConfigError("--out says where --write-study writes; add --write-study WORKLOAD")
        return None
    from pipelines.reports import study_file

    name = study_file.slug(args.write_study)
    path = args.out or ROOT / "configs" / f"{name}.yaml"
    if path.exists():
        raise ConfigError(f"{shown(path)} is there already; name another file with --out")
    if args.show_prompts and (sample := EVAL_SETS / name / SAMPLE).exists():
        raise ConfigError(f"{shown(sample)} is there already; move it away")
    return path


@contextmanager
def _paths(logs: Sequence[str]) -> Generator[dict[Path, str]]:
    """The logs as files, each with the name the user gave it.

    Experiments are fetched into a folder that is removed at the end.
    """
    with tempfile.TemporaryDirectory(prefix="freehold-audit-") as folder:
        paths: dict[Path, str] = {}
        for each in logs:
            if each.startswith(MLFLOW):
                from pipelines.tracking import usage

                paths[usage.export(each.removeprefix(MLFLOW), Path(folder))] = each
            else:
                paths[Path(each)] = each
        yield paths


def _read(paths: Mapping[Path, str], args: argparse.Namespace) -> UsageLog:
    from pipelines.economics.charge import thresholds
    from pipelines.usage_logs.read import read

    log = read(
        list(paths), thresholds=thresholds(), group_by=args.by, show_prompts=args.show_prompts
    )
    if not log.groups:
        why = "; ".join(f"{reason} ({n:,} rows)" for reason, n in log.n_bad.items())
        raise DataError(
            f"{', '.join(args.logs)}: no call could be counted"
            f"{f': {why}' if why else ''}. Give the logs of requests or the usage export; cost "
            "reports and invoices are only compared with them"
        )
    fetched = {shown(path): name for path, name in paths.items() if name.startswith(MLFLOW)}

    def named(text: str) -> str:
        for path, name in fetched.items():
            text = text.replace(path, name)
        return text

    def placed(rows: Iterable[BadRow]) -> tuple[BadRow, ...]:
        return tuple(
            BadRow(file=named(row.file), line=row.line, reason=named(row.reason)) for row in rows
        )

    return replace(
        log,
        files=tuple(each.model_copy(update={"file": named(each.file)}) for each in log.files),
        bad_rows=placed(log.bad_rows),
        repeated=placed(log.repeated),
    )


def _report(
    run: StageRun, result: AuditResult, charges: Sequence[Charge], args: argparse.Namespace
) -> None:
    """The page and the cost rows, into the run and where the user wants them."""
    from pipelines.economics import audited
    from pipelines.reports import audit as report
    from pipelines.reports import focus
    from pipelines.reports.amounts import usd
    from pipelines.reports.names import short

    page = report.render(result)
    with tempfile.TemporaryDirectory(prefix="freehold-audit-") as folder:
        path = Path(folder, "focus.csv")
        focus.write(path, charges, result.comparisons)
        run.log_text(path.read_text(encoding="utf-8"), "focus.csv")
        if args.focus is not None:
            _write(args.focus, path.read_text(encoding="utf-8"))
    if args.html is not None:
        _write(args.html, page)
    run.log_text(page, "audit.html")
    run.log_text(result.model_dump_json(indent=2), "audit.json")
    run.log_metrics(audited.figures(result))
    run.log_params(
        {
            f"workload_{k:02}": f"{usd(each.usd_per_month)} a month: {short(each.workload)}"
            for k, each in enumerate(result.workloads[:N_PARAMS], start=1)
        }
    )
    run.describe(report.markdown(result))


def _study(result: AuditResult, charges: Sequence[Charge], workload: str) -> str:
    """The beginning of a study of one workload."""
    from pipelines.reports import study_file
    from pipelines.reports.names import short

    found = next((each for each in result.workloads if each.workload == workload), None)
    if found is None:
        known = ", ".join(short(each.workload) for each in result.workloads[:20])
        raise ConfigError(f"--write-study {workload}: no such workload; there are {known}")
    label = next(iter(found.by_model))
    own = (each for each in charges if each.group.workload == workload and each.label == label)
    return study_file.text(study_file.slug(workload), found, next(own), result)


def _write_prompts(workload: str, logs: Sequence[Path], by: GroupedBy | None) -> None:
    """Sampled calls, to be labelled: what a model once answered is no right answer."""
    import json

    from pipelines.reports import study_file
    from pipelines.usage_logs.prompts import prompts

    name = study_file.slug(workload)
    found = prompts(logs, workload, N_PROMPTS, group_by=by)
    rows = [
        {
            "id": f"{name}-{k}",
            "messages": [message.model_dump() for message in messages],
            "answered": answer,
        }
        for k, (messages, answer) in enumerate(found, start=1)
    ]
    if not rows:
        say(f"audit: the log holds no prompts of {workload!r}")
        return
    path = EVAL_SETS / name / SAMPLE
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    say(f"audit: wrote {shown(path)}: give each row its `target` and save it as eval.jsonl")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{shown(path)}: cannot be written: {error}") from None


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date such as 2026-11-30") from None


if __name__ == "__main__":
    sys.exit(command.without_study(__doc__, add_flags, audit, show))
