"""Fine-tune the study's open model with LoRA.

    python -m pipelines.finetune configs/quickstart.yaml --set finetune.epochs=3

Reads:  the split of the newest `prepare` run (made now if there is none), the base model
Writes: adapter/ (safetensors), loss curve, result.json in one MLflow run, tag stage=finetune
Next:   python -m pipelines.serve configs/quickstart.yaml
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from pipelines.core import command, machine
from pipelines.core.command import Options
from pipelines.core.config import CONFIGS, read_yaml
from pipelines.core.errors import ConfigError, DataError, DivergedError
from pipelines.core.hardware import END_NAMES, Hardware
from pipelines.core.model_shape import ModelShape
from pipelines.core.paths import ROOT
from pipelines.core.progress import say
from pipelines.core.records import Record, TrainingRow
from pipelines.core.results import (
    ADAPTER,
    TRAIN_FILE,
    VALIDATION_FILE,
    FinetuneResult,
    Plan,
    PlannedStage,
    PrepareResult,
    SearchResult,
    TrainingEstimate,
    TrialResult,
)
from pipelines.core.study import FinetuneConfig, Study
from pipelines.economics import training_cost
from pipelines.prepare import prepare
from pipelines.training import search
from pipelines.training.base_identity import identity

if TYPE_CHECKING:
    from pipelines.tracking.store import StageRun
    from pipelines.training.lora import Trained

SEARCH_FILE, TRAINED_FILE = "search.json", "trained.json"
HOW_STARTED = {"launcher", "n_processes", "n_retries", "shared_dir", "sharding"}
"""Settings that do not change what is learned."""

MICRO_BATCH_TOKENS = LOGIT_TOKENS = 8192
"""What the trainer takes on a GPU where the study says nothing: tokens of a forward pass, and
those whose logits exist at the same time."""


def finetune(study: Study, options: Options, prepared: Record | None = None) -> Record:
    """Fetch the base, train, log; prepares first, unless the caller did."""
    hardware = _hardware(study.finetune)
    prepared = prepared or prepare(study, options)
    _check_cluster(study.finetune)
    if isinstance(prepared, Plan):
        return _plan(study, prepared)
    assert isinstance(prepared, PrepareResult)

    from pipelines.tracking import store

    stage = _stage(study, prepared)
    if done := store.find_finished(stage):
        say(f"finetune: nothing changed, run {done}")
        return store.load_result(done, FinetuneResult)

    from pipelines.governance import approval
    from pipelines.training import base_model, token_cache
    from pipelines.training.preflight import gpu_gib, preflight

    config = study.finetune
    base_dir = base_model.fetch(config.base)
    approval.check_base(base_dir)
    rows = _rows(prepared.run_id, TRAIN_FILE)
    validation = _rows(prepared.run_id, VALIDATION_FILE) if prepared.n_validation else []
    cache = stage.work_dir.parent / token_cache.FOLDER
    seen = preflight(base_dir, rows, config, instructions_of(study), cache)
    config = config.model_copy(update={"lora": config.lora.for_tokens(seen.n_scored_tokens)})
    if hardware is not None and not machine.has(hardware.gpu, machine.here()):
        say(f"finetune: this machine is no {hardware.name}: the estimate is for this machine")
        hardware = None
    shape = _shape(config, base_dir)
    work = _work(config, seen.n_tokens, seen.n_sequences, seen.longest)
    config = training_cost.settled(shape, config, work, hardware, gpu_gib())
    estimate = training_cost.estimate(
        shape,
        config,
        work,
        hardware,
        gpu_gib=gpu_gib(),
        tokens_per_s=_earlier_rate(study, hardware),
    )
    say(f"finetune: {told(estimate)}")
    if config.gradient_checkpointing == "auto":
        least = "none" if gpu_gib() is None else "full"
        config = config.model_copy(
            update={"gradient_checkpointing": estimate.checkpointing or least}
        )
    from pipelines.training import launch  # torch and transformers: 6 s to import

    with store.open_run(
        stage,
        data_sha256=prepared.train_sha256,
        inputs={"prepare": prepared.run_id},
        description=f"LoRA adapter on {config.preset}.",
    ) as run:
        trained: Trained | None = None
        found: SearchResult | None = None
        if config.search is not None:
            if not validation:
                rows, validation = search.hold_out(rows, config.search.validation_share)
            config, trained, found = _search(
                study, config, prepared, run, base_dir, rows, validation
            )
        run.log_params(
            {
                "preset": config.preset,
                "learning_rate": config.learning_rate,
                "epochs": config.epochs,
                "batch_size": config.batch_size,
                "quantization": config.quantization,
                "seed": config.seed,
                **{f"lora_{key}": value for key, value in config.lora.model_dump().items()},
                "loss": config.loss,
                "gradient_checkpointing": config.gradient_checkpointing,
                "sharding": config.sharding,
            }
        )
        run.log_metrics({f"rows/{key}": value for key, value in seen.figures().items()})
        run.log_metrics({f"estimate/{key}": value for key, value in estimate.figures().items()})
        run.set_tags(
            {"template_sha256": seen.template_sha256, "tokenizer_sha256": seen.tokenizer_sha256}
        )
        run.log_dataset(
            study.prepare.train.path, prepared.train_sha256, prepared.n_train, "training"
        )
        trained = trained or launch.train(
            base_dir,
            rows,
            config,
            instructions_of(study),
            stage.work_dir,
            _log_to(run),
            validation,
        )
        if found is None and trained.n_scored_tokens != seen.n_scored_tokens:
            say(
                f"finetune: {trained.n_scored_tokens:,} tokens were learned, but "
                f"{seen.n_scored_tokens:,} were announced (finetune.loss: {config.loss})"
            )
        run.log_folder(trained.adapter_dir, ADAPTER)
        result = FinetuneResult(
            run_id=run.run_id,
            base_name=config.preset,
            base_sha256=base_model.weights_sha256(base_dir),
            base_is_toy=config.base.build == "toy",
            adapter_sha256=trained.adapter_sha256,
            instructions=instructions_of(study),
            n_rows=len(rows),
            n_scored_tokens=trained.n_scored_tokens,
            n_steps=trained.n_steps,
            final_loss=trained.final_loss,
            tokens_per_s=trained.tokens_per_s,
            train_s=found.train_s if found else trained.train_s,
            machine=machine.here(),
            peak_memory_gib=trained.peak_memory_gib,
            lora_rank=config.lora.rank,
            rows=seen,
            estimate=estimate,
            n_validation=len(validation),
            base_validation_loss=trained.base_eval_loss,
            validation_loss=trained.eval_loss,
            best_step=trained.best_step,
            launcher=config.launcher,
            n_processes=config.n_processes,
            search=found,
        )
        run.log_metrics(
            {
                "final_loss": result.final_loss,
                "tokens_per_s": result.tokens_per_s,
                "train_s": result.train_s,
                "peak_memory_gib": result.peak_memory_gib,
                "base_gib": trained.base_gib,
                "validation_loss": result.validation_loss,
                "base_validation_loss": result.base_validation_loss,
            }
        )
        run.set_tags({"base_sha256": result.base_sha256, "adapter_sha256": result.adapter_sha256})
        run.describe(show(result) + (f"\n\n{search.table(found)}" if found else ""))
        run.save_result(result)
    return result


def instructions_of(study: Study) -> str:
    """System prompt of the training rows and of the tuned model."""
    own = study.finetune.instructions
    return study.workload.instructions if own is None else own


def show(result: Record) -> str:
    """The result in words."""
    assert isinstance(result, FinetuneResult)
    toy = " The base is a toy built for trying things out." if result.base_is_toy else ""
    return (
        f"LoRA adapter on {result.base_name}: {result.n_rows} rows, {result.n_steps} steps, "
        f"{result.train_s:.0f} s at {result.tokens_per_s:,.0f} tokens/s, final loss "
        f"{result.final_loss:.3f}, peak memory {result.peak_memory_gib:.1f} GiB.{toy}"
        + _beside(result)
    )


def _beside(result: FinetuneResult) -> str:
    """What was estimated before, beside what it took; empty where nothing was."""
    if (estimate := result.estimate) is None:
        return ""
    parts: list[str] = []
    if (time := estimate.train_s) is not None:
        parts.append(f"{time.likely:.0f} s ({time.low:.0f} to {time.high:.0f})")
    if estimate.total_gib is not None:
        parts.append(f"{estimate.total_gib:.1f} GiB")
    return f" Estimated before: {', '.join(parts)}." if parts else ""


def _search(
    study: Study,
    config: FinetuneConfig,
    prepared: PrepareResult,
    parent: StageRun,
    base_dir: Path,
    rows: Sequence[TrainingRow],
    validation: Sequence[TrainingRow],
) -> tuple[FinetuneConfig, Trained, SearchResult]:
    """Train each setting in a nested run, or find it trained; gives the chosen one's adapter."""
    from pipelines.tracking import store
    from pipelines.training.launch import train
    from pipelines.training.lora import Trained

    trials = search.trials(config)
    tried: list[TrialResult] = []
    for number, trial in enumerate(trials, start=1):
        label = search.label(trial)
        stage = store.Stage("trial", study.workload.name, _inputs(study, trial, prepared), label)
        if done := store.find_finished(stage):
            say(f"finetune: trial {number} of {len(trials)}, {label}: nothing changed, run {done}")
            tried.append(store.load_result(done, TrialResult))
            continue
        say(f"finetune: trial {number} of {len(trials)}, {label}")
        with store.open_run(
            stage,
            data_sha256=prepared.train_sha256,
            inputs={"prepare": prepared.run_id},
            description=f"One of {len(trials)} trainings of a search.",
            parent=parent.run_id,
        ) as run:
            result = search.trial_result(run.run_id, trial)
            try:
                trained = train(
                    base_dir, rows, trial, instructions_of(study), stage.work_dir, _log_to(run),
                    validation,
                )  # fmt: skip
            except DivergedError as error:
                result = result.model_copy(update={"reason": str(error)})
            else:
                run.log_folder(trained.adapter_dir, ADAPTER)
                run.log_text(json.dumps(asdict(trained), default=str), TRAINED_FILE)
                result = result.model_copy(
                    update={
                        "validation_loss": trained.eval_loss,
                        "n_steps": trained.n_steps,
                        "train_s": trained.train_s,
                    }
                )
                run.log_metrics({"validation_loss": trained.eval_loss, "train_s": trained.train_s})
            run.save_result(result)
        shutil.rmtree(stage.work_dir, ignore_errors=True)
        tried.append(result)
    found = search.result(tried, len(rows), len(validation))
    parent.log_text(found.model_dump_json(indent=2), SEARCH_FILE)
    chosen = found.chosen.run_id
    trained = TypeAdapter(Trained).validate_json(store.artifact(chosen, TRAINED_FILE).read_bytes())
    adapter_dir = store.artifact(chosen, ADAPTER)
    return trials[tried.index(found.chosen)], replace(trained, adapter_dir=adapter_dir), found


def told(estimate: TrainingEstimate) -> str:
    """An estimate in words, with what is not known and why."""
    parts: list[str] = []
    if estimate.total_gib is not None:
        each = ", ".join(f"{name} {gib:.1f}" for name, gib in estimate.memory_gib.items())
        policy = f"; checkpointing {estimate.checkpointing}" if estimate.checkpointing else ""
        parts.append(
            f"{estimate.total_gib:.1f} of {estimate.available_gib:.1f} GiB ({each}){policy}"
        )
    if (time := estimate.train_s) is not None:
        unit, seconds = ("h", 3600) if time.likely > 1800 else ("s", 1)
        low, likely, high = (
            f"{time.at(end) / seconds:.{2 if unit == 'h' else 0}f}" for end in END_NAMES
        )
        parts.append(f"{likely} {unit} ({low} to {high})")
    if (usd := estimate.usd) is not None:
        parts.append(
            f"${usd.likely:.2f} ({usd.low:.2f} to {usd.high:.2f}, prices of {usd.checked_on})"
        )
    known = ", ".join(parts) or "nothing"
    return "; ".join(
        [f"estimate for {estimate.hardware or 'this machine'}: {known}", *estimate.reasons]
    )


def _stage(study: Study, prepared: PrepareResult):
    from pipelines.tracking import store

    return store.Stage("finetune", study.workload.name, _inputs(study, study.finetune, prepared))


def _inputs(study: Study, config: FinetuneConfig, prepared: PrepareResult) -> dict[str, object]:
    """What an adapter depends on."""
    settings = config.model_dump(mode="json", exclude={"hardware", "shape", *HOW_STARTED})
    settings["instructions"] = instructions_of(study)
    settings["base"] = identity(config.base)
    held_out = prepared.validation_sha256
    if held_out is None and study.finetune.search is not None:
        held_out = f"share {study.finetune.search.validation_share}"
    return {
        "finetune": settings,
        "train_sha256": prepared.train_sha256,
        **({"validation": held_out} if held_out else {}),
    }


def _log_to(run: StageRun) -> Callable[[Mapping[str, float], int], None]:
    return lambda figures, step: run.log_metrics(figures, step=step)


def _rows(run_id: str, name: str) -> Sequence[TrainingRow]:
    """Rows that `prepare` left; they stay in their file."""
    from pipelines.core.row_file import opened
    from pipelines.tracking import store

    return opened(store.artifact(run_id, name))


def _check_cluster(config: FinetuneConfig) -> None:
    from pipelines.tracking import store

    if config.launcher == "ray" and os.environ.get("RAY_ADDRESS") and store.is_sqlite():
        raise ConfigError(
            "finetune.launcher: ray with $RAY_ADDRESS needs an MLflow server, and the tracking "
            "store is SQLite: runs and adapters would lie in files of the one machine that runs "
            "this command, and SQLite on a shared disk loses writes.\n"
            "  start one with `mlflow server` and give --tracking-uri http://HOST:5000"
        )


def _plan(study: Study, plan: Plan) -> Plan:
    from pipelines.tracking import store

    newest = plan.stages[-1].run_id
    done = None
    if newest is not None:
        done = store.find_finished(_stage(study, store.load_result(newest, PrepareResult)))
    state = "done" if done else "to do" if newest else "depends"
    return Plan(stages=(*plan.stages, _line(study, state, done, newest)))


def _line(study: Study, state: str, done: str | None, prepared: str | None) -> PlannedStage:
    """One line of the dry run; tokens are guessed, the tokenizer may not be here yet."""
    from pipelines.data import sources
    from pipelines.evaluation.forecast import CHARACTERS_PER_TOKEN

    config = study.finetune
    note = f"{config.epochs:g} epochs of LoRA rank {{}} on {config.preset}{_how(config)}"
    if done:
        return PlannedStage.model_validate(
            {
                "stage": "finetune",
                "state": state,
                "run_id": done,
                "note": note.format(_rank(config)),
            }
        )
    if prepared is None:
        rows = sources.load_training(study.prepare.train)
    else:
        rows = _rows(prepared, TRAIN_FILE)
    per_token = float(CHARACTERS_PER_TOKEN[1])
    lengths = [_characters(row, instructions_of(study)) / per_token for row in rows]
    scored = sum(len(row.messages[-1].content) for row in rows) / per_token
    config = config.model_copy(update={"lora": config.lora.for_tokens(round(scored))})
    hardware = _hardware(config)
    longest = min(config.max_tokens_per_row, math.ceil(max(lengths)))
    work = _work(config, round(sum(lengths)), len(rows), longest)
    estimate = training_cost.estimate(
        _shape(config, None if config.base.path is None else ROOT / config.base.path),
        config,
        work,
        hardware,
        tokens_per_s=_earlier_rate(study, hardware),
    )
    usd, time = estimate.usd, estimate.train_s
    said = f"{note.format(_rank(config))}; {told(estimate)}; {per_token:g} characters a token"
    return PlannedStage.model_validate(
        {
            "stage": "finetune",
            "state": state,
            "usd": usd.likely if usd else None,
            "usd_low": usd.low if usd else None,
            "usd_high": usd.high if usd else None,
            "hours": float(time.likely) / 3600 if time else None,
            "estimate": estimate,
            "note": said,
        }
    )


def _how(config: FinetuneConfig) -> str:
    """Processes and trials, where there is more than one."""
    processes, trials = f"{config.n_processes} processes ({config.launcher})", _n_trainings(config)
    return (f", {processes}" if config.launcher != "local" else "") + (
        f", {trials} trials" if config.search is not None else ""
    )


def _rank(config: FinetuneConfig) -> str:
    return "by the rows" if config.lora.auto else str(config.lora.rank)


def _characters(row: TrainingRow, instructions: str) -> int:
    return len(instructions) + sum(len(turn.content) for turn in row.messages)


def _n_trainings(config: FinetuneConfig) -> int:
    """Settings of the search times their seeds; 1 without one."""
    if (search := config.search) is None:
        return 1
    return search.seeds * math.prod(
        len(each) or 1 for each in (search.learning_rate, search.rank, search.epochs)
    )


def _epochs(config: FinetuneConfig) -> float:
    """Of all trainings of a search; their ranks count as the preset's."""
    if (search := config.search) is None:
        return config.epochs
    settings = (len(search.learning_rate) or 1) * (len(search.rank) or 1)
    return search.seeds * settings * sum(search.epochs or (config.epochs,))


def _hardware(config: FinetuneConfig) -> Hardware | None:
    if config.hardware is None:
        return None
    path = CONFIGS / "hardware" / f"{config.hardware}.yaml"
    try:
        return Hardware.model_validate(read_yaml(path))
    except (ConfigError, ValidationError) as error:
        raise ConfigError(f"finetune.hardware: {config.hardware}: {error}") from None


def _shape(config: FinetuneConfig, folder: Path | None) -> ModelShape | None:
    """Sizes of the base: of its config.json where that is here and readable, else the preset's."""
    if folder is not None and (path := folder / "config.json").exists():
        with suppress(DataError):
            return ModelShape.from_config(json.loads(path.read_text(encoding="utf-8")))
    return config.shape


def _work(
    config: FinetuneConfig, n_tokens: int, n_sequences: int, longest: int
) -> training_cost.Work:
    """What there is to train; the micro-batch is the largest that there can be."""
    rows = math.ceil(config.batch_size / config.n_processes)
    most = min(rows, config.micro_batch_size or rows) * longest
    packed = min(config.micro_batch_tokens or MICRO_BATCH_TOKENS, most) if config.packing else 0
    micro_batch = max(longest, packed)
    return training_cost.Work(
        n_tokens=round(n_tokens * _epochs(config)),
        row_tokens=n_tokens / n_sequences,
        micro_batch_tokens=micro_batch,
        logit_tokens=min(LOGIT_TOKENS, micro_batch),
    )


def _earlier_rate(study: Study, hardware: Hardware | None) -> float | None:
    """Tokens per second of this preset's newest training, if that was like this one.

    None where it was on another machine, or in another number of processes.
    """
    from pipelines.tracking import store

    here = machine.here()
    if hardware is not None and not machine.has(hardware.gpu, here):
        return None
    newest = store.find_newest("finetune", study.workload.name)
    if newest is None:
        return None
    old = store.load_result(newest, FinetuneResult)
    config = study.finetune
    same = (old.base_name, old.machine) == (config.preset, here)
    same = same and old.n_processes == config.n_processes
    return old.tokens_per_s or None if same else None


if __name__ == "__main__":
    sys.exit(command.main(__doc__, finetune, show))
