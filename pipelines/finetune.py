"""Fine-tune the study's open model with LoRA.

    python -m pipelines.finetune configs/quickstart.yaml --set finetune.epochs=3

Reads:  the split of the newest `prepare` run (made now if there is none), the base model
Writes: adapter/ (safetensors), loss curve, result.json in one MLflow run, tag stage=finetune
Next:   python -m pipelines.serve configs/quickstart.yaml
"""

from __future__ import annotations

import sys

from pipelines.core import command, machine
from pipelines.core.command import Options
from pipelines.core.progress import say
from pipelines.core.records import Record, TrainingRow
from pipelines.core.results import (
    ADAPTER,
    TRAIN_FILE,
    FinetuneResult,
    Plan,
    PlannedStage,
    PrepareResult,
)
from pipelines.core.study import Study
from pipelines.prepare import prepare
from pipelines.training.base_identity import identity


def finetune(study: Study, options: Options, prepared: Record | None = None) -> Record:
    """Fetch the base, train, log; prepares first, unless the caller did."""
    prepared = prepared or prepare(study, options)
    if isinstance(prepared, Plan):
        return _plan(study, prepared)
    assert isinstance(prepared, PrepareResult)

    from pipelines.tracking import store

    stage = _stage(study, prepared.train_sha256)
    if done := store.find_finished(stage):
        say(f"finetune: nothing changed, run {done}")
        return store.load_result(done, FinetuneResult)

    from pipelines.training import base_model, lora  # torch and transformers: 6 s to import

    config = study.finetune
    base_dir = base_model.fetch(config.base)
    text = store.artifact(prepared.run_id, TRAIN_FILE).read_text(encoding="utf-8")
    rows = [TrainingRow.model_validate_json(line) for line in text.splitlines()]
    with store.open_run(
        stage,
        data_sha256=prepared.train_sha256,
        inputs={"prepare": prepared.run_id},
        description=f"LoRA adapter on {config.preset}.",
    ) as run:
        run.log_params(
            {
                "preset": config.preset,
                "learning_rate": config.learning_rate,
                "epochs": config.epochs,
                "batch_size": config.batch_size,
                "quantization": config.quantization,
                "seed": config.seed,
                **{f"lora_{key}": value for key, value in config.lora.model_dump().items()},
            }
        )
        run.log_dataset(
            study.prepare.train.path, prepared.train_sha256, prepared.n_train, "training"
        )
        trained = lora.train(
            base_dir,
            rows,
            config,
            instructions_of(study),
            stage.work_dir,
            lambda figures, step: run.log_metrics(figures, step=step),
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
            train_s=trained.train_s,
            machine=machine.here(),
            peak_memory_gib=trained.peak_memory_gib,
        )
        run.log_metrics(
            {
                "final_loss": result.final_loss,
                "tokens_per_s": result.tokens_per_s,
                "train_s": result.train_s,
                "peak_memory_gib": result.peak_memory_gib,
            }
        )
        run.set_tags({"base_sha256": result.base_sha256, "adapter_sha256": result.adapter_sha256})
        run.describe(show(result))
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
    )


def _stage(study: Study, train_sha256: str):
    from pipelines.tracking import store

    config = study.finetune.model_dump(mode="json")
    config["instructions"] = instructions_of(study)
    config["base"] = identity(study.finetune.base)
    return store.Stage(
        "finetune", study.workload.name, {"finetune": config, "train_sha256": train_sha256}
    )


def _plan(study: Study, plan: Plan) -> Plan:
    from pipelines.tracking import store

    newest = plan.stages[-1].run_id
    done = None
    if newest is not None:
        train_sha256 = store.load_result(newest, PrepareResult).train_sha256
        done = store.find_finished(_stage(study, train_sha256))
    state = "done" if done else "to do" if newest else "depends"
    config = study.finetune
    note = f"{config.epochs:g} epochs of LoRA rank {config.lora.rank} on {config.preset}"
    line = PlannedStage(stage="finetune", state=state, run_id=done, note=note)
    return Plan(stages=(*plan.stages, line))


if __name__ == "__main__":
    sys.exit(command.main(__doc__, finetune, show))
