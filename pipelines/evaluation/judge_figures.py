"""What was found of judges: as records, as tables, and whether they may decide."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from pipelines.core.candidate import Rent
from pipelines.core.records import Record
from pipelines.core.study import Study
from pipelines.core.workload import MetricSpec
from pipelines.judging.families import family
from pipelines.statistics.agreement import Figure


class JudgeFigures(Record):
    """One judge, or one jury, against one set of human labels."""

    judge: str
    metric: str
    """The judged metric, or the part of the public set."""
    labels: str
    """Whose labels: `human`, `construction`, `llmbar` or `evouna`."""
    how: str
    """`asked`, or `recorded` by others, or `string match`."""
    simulated: bool = False
    n_labels: int
    n_verdicts: int
    agreement: Figure
    kappa: Figure | None = None
    """Cohen's; None where pairs are compared."""
    true_positive_rate: Figure | None = None
    false_positive_rate: Figure | None = None
    flips: Figure | None = None
    """Share of pairs whose verdict changes with the order; None where single answers are judged."""
    length_bias: Figure | None = None
    self_preference: Figure | None = None
    usd: Decimal | None = None
    """List price of all that the judge said; None when it is not paid by the token."""


class Calibration(Record):
    """All judges of a study, measured."""

    run_id: str
    figures: tuple[JudgeFigures, ...]


def doubt(study: Study, figures: Sequence[JudgeFigures] | None) -> str | None:
    """Why the judges of the quality metric may not decide; None when they may.

    Labels by construction find a judge that is broken; they do not show that a judge agrees with
    people on real answers, and do not count here.

    Args:
        study: the study.
        figures: of its newest calibration; None when there was none.
    """
    name = study.workload.quality
    spec = study.workload.metrics[name]
    if not spec.judges:
        return None
    jury = jury_name(spec)
    how = "label answers (workload.labels, or in the MLflow UI) and run pipelines.evaluate with "
    how += "--calibrate-judge"
    found = [f for f in figures or () if (f.judge, f.metric) == (jury, name)]
    human = next((f for f in found if f.labels == "human"), None)
    if human is None:
        against = "only against constructed answers" if found else "not at all"
        return f"{jury} was measured {against}, never against human labels of {name}: {how}"
    bar = study.workload.requirements.min_judge_kappa
    kappa = human.kappa
    if kappa is None or kappa.value is None or kappa.low is None:
        reason = kappa.reason if kappa else ""
        return f"the agreement of {jury} with humans on {name} cannot be told: {reason}"
    if kappa.low < bar:
        return (
            f"{jury} agrees too little with humans on {name}: kappa {kappa.value:.2f} "
            f"({kappa.low:.2f} to {kappa.high:.2f}, n = {kappa.n}), the lower end must reach {bar}"
        )
    return None


def jury_name(spec: MetricSpec) -> str:
    """What the judges of a metric are called together."""
    return " + ".join(spec.judges)


def kinship(study: Study) -> tuple[str, ...]:
    """Warnings: judges that are a candidate of the study, or of the family of one."""
    return tuple(
        f"{judge} judges {', '.join(metrics)} of {candidate}, which is of its own family: it may "
        "favour it"
        for judge in study.judges
        for candidate in study.candidates
        if same_family(study, judge, candidate)
        and (metrics := [n for n, spec in study.workload.metrics.items() if judge in spec.judges])
    )


def table(result: Calibration) -> str:
    """The figures for a terminal; each with its 95 % interval."""
    head = (
        f"{'judge':<24} {'metric':<28} {'labels':<24} {'n':>5}  {'agreement':<18} {'kappa':<18} "
        f"{'true pos.':<10} {'false pos.':<10} {'flips':<10} longer answer"
    )
    lines = [head]
    for f in result.figures:
        mark = " (simulated)" if f.simulated else ""
        lines.append(
            f"{f.judge + mark:<24} {f.metric:<28} {f'{f.labels}, {f.how}':<24} {f.n_verdicts:>5}  "
            f"{_span(f.agreement):<18} {_span(f.kappa):<18} {_share(f.true_positive_rate):<10} "
            f"{_share(f.false_positive_rate):<10} {_share(f.flips):<10} "
            f"{_share(f.length_bias, '+')}"
        )
    for f in result.figures:
        if f.n_verdicts < f.n_labels:
            lines.append(f"{f.judge}, {f.metric}: {f.n_labels - f.n_verdicts} without a verdict")
    return "\n".join(lines)


def markdown(result: Calibration) -> str:
    """The same for the UI."""
    return f"```\n{table(result)}\n```"


def numbers(result: Calibration) -> dict[str, float | None]:
    """MLflow metrics of the judges that were asked, by judge and metric; the rest is a table."""
    found: dict[str, float | None] = {}
    for f in result.figures:
        if f.how == "asked":
            name = re.sub(r"[^\w\-. /]", "-", f"{f.judge}/{f.metric}/{f.labels}")
            found[f"agreement/{name}"] = f.agreement.value
            found[f"kappa/{name}"] = f.kappa.value if f.kappa else None
    return found


def _span(figure: Figure | None) -> str:
    if figure is None or figure.value is None:
        return "" if figure is None else "not known"
    return f"{figure.value:.3f} ({figure.low:.2f}-{figure.high:.2f})"


def _share(figure: Figure | None, sign: str = "") -> str:
    if figure is None:
        return ""
    return "not known" if figure.value is None else f"{figure.value:{sign}.3f}"


def same_family(study: Study, judge: str, candidate: str | None) -> bool:
    """True when the answer's author is the judge or of its family."""
    if candidate is None or candidate not in study.candidates:
        return False
    theirs = _model_name(study, study.candidates[candidate])
    ours = _model_name(study, study.judges[judge])
    return ours == theirs or (family(ours) is not None and family(ours) == family(theirs))


def _model_name(study: Study, model: object) -> str:
    if isinstance(model, Rent):
        return model.model
    base = study.finetune.base
    return str(base.hub or base.path or base.build)
