"""Which licences and terms training rows and base weights stand under, and what they ask for.

A licence is one file, `configs/licences/apache-2.0.yaml`; its name is what a row or a study
states. What its `models` match stands under it without being told: the answers of a provider's
models, and open weights.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from pipelines.core.candidate import Own
from pipelines.core.config import CONFIGS, read_yaml
from pipelines.core.errors import ConfigError, Refused
from pipelines.core.paths import shown
from pipelines.core.records import Record, TrainingRow
from pipelines.core.study import Acknowledgement, BaseModelRef, Study

FOLDER = CONFIGS / "licences"
Training = Literal["allowed", "needs acknowledgement", "forbidden for commercial use"]
TOY_LICENCE = "apache-2.0"
"""The toy is built from text that the project ships."""
MAX_NAMED = 3
"""Models named in a refusal; the rest are counted."""
EXAMPLE = '{{licence: {name}, by: "NAME, ROLE", why: "..."}}'


class Licence(Record):
    """What a licence, or a provider's terms, say of training; in our words, no legal advice."""

    title: str
    names: tuple[str, ...] = ()
    """What else a row may call it; case does not count."""
    models: tuple[str, ...] = ()
    """Patterns found in the names, in lower case, of models that stand under it."""
    training: Training
    clause: str
    """Where it says so."""
    summary: str
    source: str
    """URL of the text."""
    version: date | None = None
    """Of the text that the summary is about; None = the text has no date."""
    checked_on: date


class Standing(Record):
    """How many rows stand under one licence, and who answers for it."""

    name: str
    """Of its file, or as it was stated where there is none."""
    n_rows: int
    """0 = only the base model does."""
    models: tuple[str, ...] = ()
    """Models whose answers these rows are, where that is why."""
    base: str | None = None
    """The base model that stands under it."""
    licence: Licence | None
    """None = there is no such file: nobody has looked at what it says."""
    acknowledged_by: str | None = None
    acknowledged_why: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether somebody has to answer for it, and nobody does."""
        return (
            self.licence is not None
            and self.licence.training != "allowed"
            and self.acknowledged_by is None
        )


class Survey(Record):
    """All licences of a study's rows and of its base model."""

    standings: tuple[Standing, ...]
    n_rows: int
    n_without: int
    """Rows with no licence, and answered by nobody whose terms are known."""

    @property
    def counts(self) -> dict[str, int]:
        """Licence -> rows under it; a row may be under two."""
        return {each.name: each.n_rows for each in self.standings if each.n_rows}

    def of_rows(self) -> Survey:
        """The rows' licences alone, without the base model."""
        mine = (each.model_copy(update={"base": None}) for each in self.standings if each.n_rows)
        return self.model_copy(update={"standings": tuple(mine)})


def check(study: Study, rows: Iterable[TrainingRow] = ()) -> Survey:
    """What the rows and the base model stand under.

    Args:
        study: for its base model, if a candidate is made from it, and its acknowledgements.
        rows: the training rows; none = the base model alone is looked at.

    Raises:
        Refused: a licence needs an acknowledgement that the study does not give, or rows have no
            known licence and the study requires one.
        ConfigError: a licence's file is bad, or an acknowledgement names none.
    """
    found = survey(study, rows)
    if problems := refusals(study, found):
        raise Refused("\n".join(problems))
    return found


def survey(study: Study, rows: Iterable[TrainingRow] = ()) -> Survey:
    """As `check`, without refusing."""
    known = read(FOLDER)
    said = _acknowledged(study.prepare.acknowledge, known)
    counts: Counter[str] = Counter()
    models: dict[str, set[str]] = {}
    n_rows = n_without = 0
    for (stated, model), n in Counter((row.licence, row.answered_by) for row in rows).items():
        n_rows += n
        names = {name_of(stated, known)} if stated else set[str]()
        if model and (terms := of_model(model, known)):
            names.add(terms)
            models.setdefault(terms, set()).add(model)
        n_without += 0 if names else n
        counts.update(dict.fromkeys(names, n))
    base, base_licence = None, None
    if any(isinstance(each, Own) for each in study.candidates.values()):
        base, base_licence = base_name(study.finetune.base), of_base(study.finetune.base, known)
    standings = [
        Standing(
            name=name,
            n_rows=counts[name],
            models=tuple(sorted(models.get(name, ()))),
            base=base if name == base_licence else None,
            licence=known.get(name),
            acknowledged_by=said[name].by if name in said else None,
            acknowledged_why=said[name].why if name in said else None,
        )
        for name in sorted(counts.keys() | ({base_licence} if base_licence else set[str]()))
    ]
    return Survey(standings=tuple(standings), n_rows=n_rows, n_without=n_without)


def refusals(study: Study, found: Survey) -> list[str]:
    """Lines that say what stands against the training and what to write; none = nothing does."""
    lines: list[str] = []
    still_open = [each for each in found.standings if each.is_open]
    if still_open:
        lines.append(
            f"{len(still_open)} licence(s) that somebody has to answer for before training:"
        )
        for each in still_open:
            licence = each.licence
            assert licence is not None
            as_of = f", of {licence.version}" if licence.version else ""
            lines += [
                f"  {each.name}: {_who(each, found.n_rows)}: {licence.training}",
                f"    {licence.title}{as_of}, {licence.clause}: {licence.summary}",
                f"    {licence.source}",
            ]
        lines += ["whoever has read them and answers for it writes into the study:"]
        lines += ["  prepare:", "    acknowledge:"]
        lines += ["      - " + EXAMPLE.format(name=each.name) for each in still_open]
        lines.append("otherwise leave these rows out, or take another base model")
    unread = [each for each in found.standings if each.n_rows and each.licence is None]
    if study.prepare.require_licence:
        if found.n_without:
            lines.append(
                f"prepare.require_licence: {found.n_without} of {found.n_rows} training rows have "
                "no licence; state it as `licence` in the rows, or as prepare.train.licence"
            )
        lines += [
            f"prepare.require_licence: {each.n_rows} training rows stand under {each.name!r}, of "
            f"which nothing is known; add {shown(FOLDER)}/NAME.yaml, or correct the rows"
            for each in unread
        ]
    return lines


def read(folder: Path) -> Mapping[str, Licence]:
    """All licences by name.

    Raises:
        ConfigError: lists what is wrong in the files.
    """
    files = tuple((path, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.yaml")))
    return _read(files)


@lru_cache(maxsize=4)
def _read(files: tuple[tuple[Path, int], ...]) -> Mapping[str, Licence]:
    found: dict[str, Licence] = {}
    problems: list[str] = []
    for path, _ in files:
        try:
            found[path.stem] = licence = Licence.model_validate(read_yaml(path))
            for pattern in licence.models:
                re.compile(pattern)
        except ValidationError as error:
            problems += [
                f"{shown(path)}: {'.'.join(map(str, each['loc']))}: {each['msg']}"
                for each in error.errors()
            ]
        except re.error as error:
            problems.append(f"{shown(path)}: models: {error.pattern!r}: {error}")
    if problems:
        raise ConfigError(f"{len(problems)} problem(s)\n  " + "\n  ".join(problems))
    return found


def name_of(stated: str, known: Mapping[str, Licence]) -> str:
    """The name of the file for what a row states; what it states where there is none."""
    wanted = stated.strip().lower()
    for name, licence in known.items():
        if wanted == name or wanted in map(str.lower, licence.names):
            return name
    return stated.strip()


def of_model(model: str, known: Mapping[str, Licence]) -> str | None:
    """Name of the licence or terms that a model's weights or answers stand under."""
    lowered = model.lower()
    return next(
        (
            name
            for name, licence in known.items()
            if any(re.search(pattern, lowered) for pattern in licence.models)
        ),
        None,
    )


def of_base(base: BaseModelRef, known: Mapping[str, Licence]) -> str | None:
    """Name of the licence of the base model's weights; None = not stated and not known."""
    if base.licence:
        return name_of(base.licence, known)
    return TOY_LICENCE if base.build == "toy" else of_model(base_name(base), known)


def base_name(base: BaseModelRef) -> str:
    """What the base model is called: on the hub, or by its folder."""
    return base.hub or (base.path.name if base.path else str(base.build))


def _acknowledged(
    said: Sequence[Acknowledgement], known: Mapping[str, Licence]
) -> dict[str, Acknowledgement]:
    by_name = {name_of(each.licence, known): each for each in said}
    if unknown := [name for name in by_name if name not in known]:
        raise ConfigError(
            f"prepare.acknowledge: no licence {', '.join(map(repr, unknown))}; "
            f"{shown(FOLDER)}/ has: {', '.join(known)}"
        )
    return by_name


def _who(standing: Standing, n_rows: int) -> str:
    """The rows and the base model under a licence, in words."""
    parts: list[str] = []
    if standing.n_rows:
        models = ", ".join(standing.models[:MAX_NAMED])
        more = len(standing.models) - MAX_NAMED
        models += f" and {more} more" if more > 0 else ""
        answered = f", answered by {models}" if models else ""
        parts.append(f"{standing.n_rows} of {n_rows} training rows{answered}")
    if standing.base:
        parts.append(f"the base model {standing.base}")
    return " and ".join(parts)
