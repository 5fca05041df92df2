"""Which settings of a training are tried, on which rows, and which of them wins."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import product
from statistics import fmean

from pipelines.core.errors import ConfigError, DataError
from pipelines.core.records import TrainingRow
from pipelines.core.results import SearchResult, TrialResult, TriedSetting
from pipelines.core.study import FinetuneConfig

PATIENCE = 2
"""Of a trial, where the study names none: a setting that gets worse is not trained to its end."""


def trials(config: FinetuneConfig) -> list[FinetuneConfig]:
    """What to train, one setting after the other, its seeds together; empty without a search."""
    search = config.search
    if search is None:
        return []
    settings = product(
        search.learning_rate or (config.learning_rate,),
        search.rank or (config.lora.rank,),
        search.epochs or (config.epochs,),
    )
    return [
        config.model_copy(
            update={
                "learning_rate": learning_rate,
                "lora": config.lora.model_copy(
                    update={"rank": rank, "auto": config.lora.auto and not search.rank}
                ),
                "epochs": epochs,
                "seed": config.seed + k,
                "patience": config.patience or PATIENCE,
                "search": None,
            }
        )
        for learning_rate, rank, epochs in settings
        for k in range(search.seeds)
    ]


def label(trial: FinetuneConfig) -> str:
    """Name of a trial's run."""
    return (
        f"lr {trial.learning_rate:g}, rank {trial.lora.rank}, {trial.epochs:g} epochs, "
        f"seed {trial.seed}"
    )


def trial_result(run_id: str, trial: FinetuneConfig) -> TrialResult:
    """The trial before it was trained."""
    return TrialResult(
        run_id=run_id,
        learning_rate=trial.learning_rate,
        rank=trial.lora.rank,
        epochs=trial.epochs,
        seed=trial.seed,
        validation_loss=None,
    )


def hold_out(
    rows: Sequence[TrainingRow], share: float
) -> tuple[Sequence[TrainingRow], Sequence[TrainingRow]]:
    """Rows to learn from and rows to validate on; rows of a group, or question, stay together.

    The digest of the group decides, so that more rows move no other row.

    Raises:
        DataError: one of the two would be empty.
    """
    import numpy as np  # not above: `--help` needs neither

    from pipelines.core.row_file import taken

    learned: list[int] = []
    held_out: list[int] = []
    for number, row in enumerate(rows):
        key = row.group if row.group is not None else _first_question(row)
        digest = hashlib.sha256(key.encode()).digest()
        (held_out if int.from_bytes(digest[:8]) < share * 2**64 else learned).append(number)
    if not learned or not held_out:
        raise DataError(
            f"finetune.search: of {len(rows)} training rows {len(held_out)} would be held out; "
            "give more rows, or another finetune.search.validation_share"
        )
    return taken(rows, np.array(learned)), taken(rows, np.array(held_out))


def result(tried: Iterable[TrialResult], n_rows: int, n_validation: int) -> SearchResult:
    """Compare settings by the mean of their validation losses; the lowest is chosen.

    A setting of which a training diverged is out.

    Args:
        tried: in the order of `trials`.
        n_rows: learned from, in each trial.
        n_validation: rows held out.

    Raises:
        ConfigError: no setting is left.
    """
    groups: dict[tuple[float, int, float], list[TrialResult]] = {}
    for trial in tried:
        groups.setdefault((trial.learning_rate, trial.rank, trial.epochs), []).append(trial)
    settings = [_setting(group) for group in groups.values()]
    left = [each for each in settings if each.mean is not None]
    if not left:
        raise ConfigError(
            f"finetune.search: all {len(settings)} settings diverged; "
            "lower finetune.search.learning_rate"
        )
    best = min(left, key=lambda each: each.mean or 0.0)
    return SearchResult(
        settings=tuple(settings), best=settings.index(best), n_rows=n_rows,
        n_validation=n_validation,
    )  # fmt: skip


def table(search: SearchResult) -> str:
    """The settings as Markdown, the chosen one in bold."""
    lines = [
        f"{len(search.settings)} settings, compared on {search.n_validation} training rows that "
        "were held out; the eval set had no say.",
        "",
        "| learning rate | rank | epochs | validation loss | over seeds | steps | s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for number, each in enumerate(search.settings):
        first = each.trials[0]
        if each.mean is None or each.low is None or each.high is None:
            loss, spread = "diverged", "-"
        else:
            loss = f"**{each.mean:.4f}** (chosen)" if number == search.best else f"{each.mean:.4f}"
            one = len(each.trials) == 1
            spread = "one seed" if one else f"{each.low:.4f} to {each.high:.4f}"
        steps = "-" if first.n_steps is None else f"{first.n_steps}"
        seconds = sum(trial.train_s for trial in each.trials)
        lines.append(
            f"| {first.learning_rate:g} | {first.rank} | {first.epochs:g} | {loss} | {spread} "
            f"| {steps} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def _setting(group: Sequence[TrialResult]) -> TriedSetting:
    losses = [trial.validation_loss for trial in group if trial.validation_loss is not None]
    if len(losses) < len(group):
        return TriedSetting(trials=tuple(group), mean=None, low=None, high=None)
    return TriedSetting(trials=tuple(group), mean=fmean(losses), low=min(losses), high=max(losses))


def _first_question(row: TrainingRow) -> str:
    return next((turn.content for turn in row.messages if turn.role == "user"), "")
