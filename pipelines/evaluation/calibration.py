"""How far judges agree with humans: on the workload's own labels, and on public sets."""

from __future__ import annotations

import asyncio
import re
import string
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path

from pipelines.core.errors import ConfigError
from pipelines.core.progress import progress
from pipelines.core.records import Example, Message, Response
from pipelines.core.study import Grading, Study
from pipelines.core.workload import MetricSpec
from pipelines.data.judgements import LabelledAnswer, PairVerdict, load_evouna, load_llmbar
from pipelines.data.labels import CONSTRUCTION, Label
from pipelines.data.sources import resolve
from pipelines.evaluation.job import Work, used
from pipelines.evaluation.judge_figures import JudgeFigures, jury_name, same_family
from pipelines.evaluation.judges import Judge, connected_judge, judge_all
from pipelines.judging import Item, needs_rival, pairwise
from pipelines.statistics.agreement import (
    Agreement,
    PairAgreement,
    agreement,
    length_bias,
    pair_agreement,
    self_preference,
)
from pipelines.tracking.store import Stage

MIDDLE = 0.5
"""Scores and labels from here on count as passed, so that graded ones have a kappa, too."""
PAIR_RUBRIC = """\
The question is an instruction. Judge how well each answer does what the instruction asks, no more
and no less: helpful, true and complete comes first; length, style and confidence count nothing."""
RIGHT_RUBRIC = """\
The reference lists the right answers to the question, one to a line. An answer passes when it says
one of them, in whatever words, and nothing that contradicts it; it fails otherwise."""


def measure(work: Work, stage: Stage, against: str) -> list[JudgeFigures]:
    """Measure the study's judges.

    Args:
        work: the study with its items and labels.
        stage: of the calibration.
        against: `labels`, `llmbar` or `evouna`; the last two are read from $FREEHOLD_DATA.

    Raises:
        ConfigError: there is nothing to measure against.
    """

    async def go() -> list[JudgeFigures]:
        async with AsyncExitStack() as stack:
            judges = {
                name: await stack.enter_async_context(connected_judge(work, stage, name))
                for name in sorted(used(work.study))
            }
            n = work.study.evaluate.calibration_items
            if against == "llmbar":
                return await on_llmbar(load_llmbar(_public(against)), judges, n)
            if against == "evouna":
                return await on_evouna(load_evouna(_public(against)), judges, n)
            items = {item.id: item for item in work.examples}
            return await on_labels(work.study, items, work.labels, judges)

    return asyncio.run(go())


def _public(name: str) -> Path:
    folder = resolve(f"$FREEHOLD_DATA/{name}")
    if folder is None or not folder.is_dir():
        raise ConfigError(
            f"--calibrate-judge={name}: set FREEHOLD_DATA to the folder that holds {name}/"
        )
    return folder


async def on_labels(
    study: Study,
    items: Mapping[str, Example],
    labels: Sequence[Label],
    judges: Mapping[str, Judge],
) -> list[JudgeFigures]:
    """Each jury on the answers that the workload's labels are for.

    Args:
        study: its judged metrics are measured, but those that compare two answers.
        items: the eval set with its passages, by id.
        labels: of these metrics.
        judges: connected, by name.

    Raises:
        ConfigError: there is nothing to measure against.
    """
    found: list[JudgeFigures] = []
    for name, spec in study.workload.metrics.items():
        mine = [label for label in labels if label.metric == name]
        if not spec.judges or needs_rival(spec.metric):
            continue
        for kind in ("human", CONSTRUCTION):
            some = [
                label for label in mine if (label.labelled_by == CONSTRUCTION) == (kind != "human")
            ]
            if some:
                found += await _on_labels(study, name, spec, items, some, kind, judges)
    if not found:
        raise ConfigError(
            "there are no labels to measure the judges against: name a file in workload.labels, "
            "give feedback to traces in the MLflow UI, or use --calibrate-judge=llmbar or =evouna"
        )
    return found


async def _on_labels(
    study: Study,
    name: str,
    spec: MetricSpec,
    items: Mapping[str, Example],
    labels: Sequence[Label],
    kind: str,
    judges: Mapping[str, Judge],
) -> list[JudgeFigures]:
    merged: dict[tuple[str, str], list[Label]] = {}
    for label in labels:
        merged.setdefault((label.id, label.answer.strip()), []).append(label)
    examples, responses = list[Example](), list[Response]()
    human, groups = dict[str, float](), dict[str, str]()
    own: dict[str, set[str]] = {judge: set() for judge in spec.judges}
    for k, ((item_id, answer), several) in enumerate(merged.items()):
        answer_id = f"{item_id}/{k}"
        item = items[item_id]
        examples.append(item.model_copy(update={"id": answer_id}))
        responses.append(_answer(answer_id, answer))
        mean = sum(label.label for label in several) / len(several)
        human[answer_id] = float(mean >= MIDDLE)
        groups[answer_id] = item.group or item.id
        for judge in spec.judges:
            if same_family(study, judge, several[0].candidate):
                own[judge].add(answer_id)
    jury = [judges[judge] for judge in spec.judges]
    with progress(f"calibrate: {name}", len(examples), "answers") as advance:
        scores, verdicts = await judge_all(
            name, spec, examples, responses, None, jury, Grading(), advance
        )
    by_judge = {jury_name(spec): {s.example_id: s.value for s in scores}}
    if len(jury) > 1:
        for judge in spec.judges:
            by_judge[judge] = {v.example_id: v.value for v in verdicts if v.judge == judge}
    found: list[JudgeFigures] = []
    for judge, values in by_judge.items():
        cut = {i: None if v is None else float(v >= MIDDLE) for i, v in values.items()}
        members = [each for each in jury if judge in (each.name, jury_name(spec))]
        paid = [usd for each in members if (usd := each.spent_usd()) is not None]
        theirs = own.get(judge, set())
        found.append(
            _figures(
                agreement(cut, human, groups),
                judge=judge,
                metric=name,
                labels=kind,
                how="asked",
                simulated=any(each.simulated for each in members),
                n_labels=len(human),
                n_verdicts=sum(v is not None for v in values.values()),
                self_preference=self_preference(cut, human, theirs, groups) if theirs else None,
                usd=sum(paid, Decimal(0)) if paid else None,
            )
        )
    return found


async def on_llmbar(
    pairs: Sequence[PairVerdict], judges: Mapping[str, Judge], n: int
) -> list[JudgeFigures]:
    """The judges whose verdicts LLMBar's authors recorded (plain prompt), then the study's own.

    Args:
        pairs: all rows of the set.
        judges: connected, by name; each is asked for `n` pairs of each part, in both orders.
        n: pairs per part.
    """
    found: list[JudgeFigures] = []
    recorded = [pair for pair in pairs if pair.prompt == "Vanilla"]
    parts = sorted(
        {pair.subset for pair in recorded}, key=lambda part: ("Natural" not in part, part)
    )
    for part in parts:
        for judge in sorted({pair.judge for pair in recorded}):
            rows = [p for p in recorded if p.subset == part and p.judge == judge]
            if rows:
                found.append(_pairs(rows, judge, "recorded"))
    for name, judge in judges.items():
        for part in parts:
            asked = {p.pair_id: p for p in recorded if p.subset == part}
            rows = await _ask_pairs(list(asked.values())[:n], name, judge)
            figures = _pairs(rows, name, "asked")
            found.append(
                figures.model_copy(update={"simulated": judge.simulated, "usd": judge.spent_usd()})
            )
    return found


async def _ask_pairs(pairs: Sequence[PairVerdict], name: str, judge: Judge) -> list[PairVerdict]:
    async def one(pair: PairVerdict) -> PairVerdict:
        message = Message(role="user", content=pair.instruction)
        example = Example(id=pair.pair_id, messages=(message,), target="")
        item = Item(example=example, answer=pair.answers[0], rival=pair.answers[1])
        said = await pairwise.judge(
            judge.about(pair.pair_id), item, rubric=PAIR_RUBRIC, reference=False
        )
        orders = said.orders or (said.value, said.value)
        return pair.model_copy(
            update={"judge": name, "first_order": orders[0], "swapped_order": orders[1]}
        )

    return list(await asyncio.gather(*(one(pair) for pair in pairs)))


def _pairs(rows: Sequence[PairVerdict], judge: str, how: str) -> JudgeFigures:
    human = {row.pair_id: row.human for row in rows}
    first = {row.pair_id: row.first_order for row in rows}
    swapped = {row.pair_id: row.swapped_order for row in rows}
    mean = {
        i: None if a is None or (b := swapped[i]) is None else (a + b) / 2 for i, a in first.items()
    }
    cut = {i: v if v in (0.0, 0.5, 1.0) else MIDDLE for i, v in mean.items() if v is not None}
    lengths = {row.pair_id: (float(row.lengths[0]), float(row.lengths[1])) for row in rows}
    return _figures(
        pair_agreement(first, swapped, human),
        judge=judge,
        metric=rows[0].subset,
        labels="llmbar",
        how=how,
        n_labels=len(rows),
        n_verdicts=len(cut),
        length_bias=length_bias(cut, human, lengths),
    )


async def on_evouna(
    answers: Mapping[str, Sequence[LabelledAnswer]], judges: Mapping[str, Judge], n: int
) -> list[JudgeFigures]:
    """String match, the floor for any judge, then the study's judges.

    Rows whose question has no fixed answer, and answers without a label, are left out, as the
    set's authors do.

    Args:
        answers: part of the set -> its rows.
        judges: connected, by name; each is asked about `n` answers of each part.
        n: answers per part.
    """
    found: list[JudgeFigures] = []
    for part, rows in answers.items():
        usable = [row for row in rows if not row.improper and row.right is not None and row.golds]
        human = {row.id: float(bool(row.right)) for row in usable}
        groups = {row.id: row.question_id for row in usable}
        match = {row.id: float(string_match(row.answer or "", row.golds)) for row in usable}
        found.append(
            _figures(
                agreement(match, human, groups),
                judge="gold string in answer", metric=part, labels="evouna", how="string match",
                n_labels=len(human), n_verdicts=len(match),
            )
        )  # fmt: skip
        some = usable[:: max(1, len(usable) // n)][:n]
        spec = MetricSpec(metric="rubric", params={"rubric": RIGHT_RUBRIC})
        examples = [_question(row) for row in some]
        responses = [_answer(row.id, row.answer or "") for row in some]
        for name, judge in judges.items():
            with progress(f"calibrate: {part}", len(some), "answers") as advance:
                scores, _ = await judge_all(
                    part, spec, examples, responses, None, [judge], Grading(), advance
                )
            values = {s.example_id: s.value for s in scores}
            found.append(
                _figures(
                    agreement(values, {row.id: human[row.id] for row in some}, groups),
                    judge=name, metric=part, labels="evouna", how="asked",
                    simulated=judge.simulated, n_labels=len(some),
                    n_verdicts=sum(v is not None for v in values.values()),
                    usd=judge.spent_usd(),
                )
            )  # fmt: skip
    return found


def string_match(answer: str, golds: Sequence[str]) -> bool:
    """Whether one of the golds stands in the answer, word for word, as SQuAD normalises both."""
    text = _squad(answer)
    normal = [re.escape(gold) for gold in map(_squad, golds) if gold]
    return any(re.search(rf"(?<!\w){gold}(?!\w)", text) for gold in normal)


def _squad(text: str) -> str:
    text = re.sub(r"\b(a|an|the)\b", " ", text.lower())
    return " ".join("".join(c for c in text if c not in string.punctuation).split())


def _figures(found: Agreement | PairAgreement, **about: object) -> JudgeFigures:
    figures: dict[str, object] = {"agreement": found.agreement}
    if isinstance(found, Agreement):
        figures |= {
            "kappa": found.kappa,
            "true_positive_rate": found.true_positive_rate,
            "false_positive_rate": found.false_positive_rate,
        }
    else:
        figures["flips"] = found.flips
    return JudgeFigures.model_validate(figures | about)


def _question(row: LabelledAnswer) -> Example:
    message = Message(role="user", content=row.question)
    return Example(id=row.id, messages=(message,), target="\n".join(row.golds))


def _answer(answer_id: str, text: str) -> Response:
    return Response(
        example_id=answer_id,
        request_sha256="",
        text=text,
        model="",
        started_at_s=0.0,
        latency_s=None,
    )
