"""The shell that every command shares: flags, errors, exit codes."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from pipelines.core import offline
from pipelines.core.config import load_study
from pipelines.core.errors import FreeholdError
from pipelines.core.progress import printable, say
from pipelines.core.records import Record
from pipelines.core.results import Plan, PromoteResult
from pipelines.core.study import Study

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect it."""
WAITING = 5
"""Exit code when all is done but what people have to do: nothing failed, nothing is finished."""


@dataclass(frozen=True)
class Options:
    """The flags that all commands share."""

    study_path: Path
    tracking_uri: str | None
    dry_run: bool
    json: bool
    own: argparse.Namespace = field(default_factory=argparse.Namespace)
    """The command's own flags."""


@dataclass(frozen=True)
class Mode:
    """Another thing that a command can do, chosen by a flag of its own."""

    flag: str
    choices: tuple[str, ...]
    """Values of the flag; the first one is meant where it stands alone."""
    help: str
    stage: Callable[[Study, Options, str], Record]
    """Called with the flag's value."""
    show: Callable[[Record], str]


def main(
    doc: str | None,
    stage: Callable[[Study, Options], Record],
    show: Callable[[Record], str],
    argv: Sequence[str] | None = None,
    mode: Mode | None = None,
    add_flags: Callable[[argparse.ArgumentParser], None] | None = None,
) -> int:
    """Run one command.

    Args:
        doc: the command file's docstring; its first line is the summary.
        stage: does the work; the heavy imports happen inside it, so that `--help` is instant.
        show: turns the stage's record into the text for a person.
        argv: None = the process's own.
        mode: what a flag of its own makes the command do instead.
        add_flags: adds the command's own flags, which `stage` finds in `options.own`.

    Returns:
        0 done; 2 something for the user to fix; 4 refused; 5 waiting for people; 130 interrupted.
        Our own bugs raise.
    """
    parser, name = _parser(doc, argv)
    parser.add_argument("study", type=Path, help="YAML file, such as configs/quickstart.yaml")
    parser.add_argument(
        "--set", action="append", default=[], metavar="section.key=value", dest="overrides",
        help="override one value of the study; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true",
        help="print the plan, the dollars and the hours it will take, and spend nothing",
    )  # fmt: skip
    _shared_flags(parser)
    if mode is not None:
        parser.add_argument(
            f"--{mode.flag}", dest="mode", nargs="?", const=mode.choices[0], choices=mode.choices,
            help=mode.help,
        )  # fmt: skip
    if add_flags is not None:
        add_flags(parser)
    args = parser.parse_args(argv)
    offline.apply(args.offline)
    options = Options(args.study, args.tracking_uri, args.dry_run, args.json, args)

    def work() -> tuple[Record, Callable[[Record], str]]:
        study = load_study(args.study, args.overrides)
        if mode is not None and args.mode is not None:
            return mode.stage(study, options, args.mode), mode.show
        return stage(study, options), show

    return _run(name, work, args.json)


def without_study(
    doc: str | None,
    add_flags: Callable[[argparse.ArgumentParser], None],
    work: Callable[[argparse.Namespace], Record],
    show: Callable[[Record], str],
    argv: Sequence[str] | None = None,
) -> int:
    """Run a command that is not about a study: same `--json`, errors and exit codes as `main`.

    Args:
        doc: the command file's docstring.
        add_flags: adds the command's own arguments; `--json` and `--tracking-uri` are there.
        work: does the work, given the parsed arguments; the heavy imports happen inside it.
        show: turns its record into the text for a person.
        argv: None = the process's own.

    Returns:
        As `main`.
    """
    parser, name = _parser(doc, argv)
    add_flags(parser)
    _shared_flags(parser)
    args = parser.parse_args(argv)
    offline.apply(args.offline)
    return _run(name, lambda: (work(args), show), args.json)


def _parser(doc: str | None, argv: Sequence[str] | None) -> tuple[argparse.ArgumentParser, str]:
    name = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(
        prog=f"python -m pipelines.{name}" if argv is None else name,
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser, name


def _shared_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print exactly one JSON object")
    parser.add_argument(
        "--tracking-uri", metavar="URI",
        help="MLflow store or server (default: $MLFLOW_TRACKING_URI, else mlruns/mlflow.db)",
    )  # fmt: skip
    parser.add_argument(
        "--offline", action="store_true",
        help=f"no call leaves for the internet, whatever the study says (as {offline.SWITCH}=1)",
    )  # fmt: skip


def _run(
    name: str, work: Callable[[], tuple[Record, Callable[[Record], str]]], as_json: bool
) -> int:
    """Do the work, print its record, turn errors into a message and an exit code."""
    # SIGTERM unwinds like Ctrl-C, so that a vLLM process never outlives its command.
    signal.signal(signal.SIGTERM, _interrupt)
    # Libraries print to stdout (vLLM, transformers); with --json it carries one object only.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout.flush()
    os.dup2(2, 1)
    try:
        record, show = work()
        if as_json:
            text = json.dumps(record.model_dump(mode="json"))
        else:
            text = plan_table(record) if isinstance(record, Plan) else show(record)
        out.write(printable(text).rstrip("\n") + "\n")
        out.flush()
        waiting = isinstance(record, PromoteResult) and record.state == "waiting"
        return WAITING if waiting else 0
    except FreeholdError as error:
        say(f"{name}: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say(f"{name}: interrupted; the same command goes on where it stopped")
        return INTERRUPTED
    finally:
        sys.stdout.flush()
        os.dup2(out.fileno(), 1)
        out.close()


def plan_table(plan: Plan) -> str:
    """A dry run as a table; every line is an estimate."""
    wide = max([len(each.stage) for each in plan.stages] + [len("estimated total")])
    figures = f"{'calls':>6} {'tokens':>10} {'dollars':>24} {'hours':>7}"
    lines = [f"{'stage':<{wide}} {'state':<8} {figures}  note"]
    total = [Decimal(0)] * 3
    for each in plan.stages:
        usd, hours = "", "" if each.hours is None else f"{each.hours:.2f}"
        tokens = "" if each.tokens is None else f"{each.tokens:,}"
        if each.usd is not None:
            found = [each.usd if x is None else x for x in (each.usd_low, each.usd, each.usd_high)]
            total = [a + b for a, b in zip(total, found, strict=True)]
            usd = _range(found)
        lines.append(
            f"{each.stage:<{wide}} {each.state:<8} {each.calls or '':>6} {tokens:>10} {usd:>24} "
            f"{hours:>7}  {each.note}{f' (run {each.run_id})' if each.run_id else ''}"
        )
    hours = sum(each.hours for each in plan.stages if each.hours is not None)
    lines.append(
        f"{'estimated total':<{wide}} {'':<8} {'':>6} {'':>10} {_range(total):>24} {hours:>7.2f}  "
        "dollars: likely (low - high)"
    )
    return "\n".join(lines)


def _range(usd: Sequence[Decimal]) -> str:
    low, likely, high = usd
    return f"{likely:.2f} ({low:.2f} - {high:.2f})"


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
