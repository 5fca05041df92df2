"""The AI Act dossier as one HTML page, as Markdown, and in a few lines for a terminal."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipelines.governance.dossier import NOTICE, OWED, Dossier, DossierResult
from pipelines.reports.names import markdown as escaped
from pipelines.reports.names import plain


def render(it: Dossier) -> str:
    """The page: self-contained, without script, everything escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: (
            plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        ),
    )
    return environment.get_template("dossier.html.j2").render(
        dossier=it,
        owed=OWED,
        notice=notice(it),
        records=records(it) if it.log else "",
        written=it.written_at.strftime("%Y-%m-%d %H:%M UTC"),
    )


def markdown(it: Dossier) -> str:
    """The same as Markdown."""
    lines = [
        f"# Technical documentation (Annex IV): {escaped(it.title)}",
        "",
        f"**{escaped(notice(it))}**",
        "",
        *(f"- **{escaped(stamp)}**" for stamp in it.stamps),
        "",
        f"{escaped(it.candidate)}, {it.tier} data, written {it.written_at:%Y-%m-%d %H:%M} UTC "
        f"from decide run {it.decision_run_id}. {escaped(it.act.law)}.",
        "",
        "## Fine-tuner or provider: the compute ratio",
        "",
        escaped(it.compute.words if it.compute else it.compute_reason),
        "",
    ]
    for point in it.points:
        rows = [
            (each.name, f"**{OWED}**" if each.value is None else escaped(each.value), each.source)
            for each in point.fields
        ]
        lines += [f"## {point.number}. {point.title}", ""]
        lines += ["| field | value | source, or what to write |", "| --- | --- | --- |"]
        lines += [f"| {escaped(name)} | {value} | {escaped(why)} |" for name, value, why in rows]
        lines.append("")
    lines += ["## Records (Art. 12)", ""]
    if it.log is None:
        lines += [f"There is no audit trail: **{OWED}**", ""]
    else:
        lines += ["| kind of entry | entries |", "| --- | --- |"]
        lines += [f"| {escaped(kind)} | {n:,} |" for kind, n in it.log.kinds.items()]
        lines += ["", escaped(records(it)), ""]
    lines += [
        "## Dates and duties",
        "",
        f"Checked on {it.act.checked_on} ({escaped(it.act.checked_against)}).",
        "",
        "| from | state | article | duty | done by |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {duty.applies_from} | {state} | {escaped(duty.article)} | {escaped(duty.duty)} "
        f"| {escaped(duty.how or duty.by)} |"
        for duty, state in it.duties()
    ]
    return "\n".join(lines) + "\n"


def notice(it: Dossier) -> str:
    """What stands on top of every form of it."""
    return f"{NOTICE} {it.n_owed} of {len(it.fields)} fields owed by a person."


def records(it: Dossier) -> str:
    """What the audit trail holds, in words."""
    log = it.log
    assert log is not None
    if log.problems:
        state = f"The chain does NOT hold: {'; '.join(log.problems)}"
    else:
        state = (
            f"Each entry carries the digest of the one before, and the chain holds: {log.anchors}"
        )
    return (
        f"Entries: {log.n_entries:,}, of them about {it.workload}: {log.n_of_workload:,}, from "
        f"{log.first_at} to {log.last_at} ({log.file}). {state}. To keep: {it.act.retention}."
    )


def table(result: DossierResult) -> str:
    """The result for a terminal."""
    signed = f"signed with key {result.signed_by[:12]}" if result.signed_by else "not signed"
    ratio = result.compute_ratio
    lines = [
        f"Dossier of {plain(result.candidate)}: {NOTICE}",
        f"{result.n_owed} of {result.n_fields} fields owed by a person; {signed}",
        *(f"  ! {plain(stamp)}" for stamp in result.stamps),
        "compute ratio: "
        + ("none, see the dossier" if ratio is None else f"{ratio:.2g} of the provider limit"),
        f"bill of materials {result.bom_serial}",
        f"run {result.run_id}: {', '.join(result.files)}",
    ]
    return "\n".join(lines)
