"""LoRA fine-tuning: load the frozen base, train the adapter, save it whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import resource
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from safetensors import SafetensorError
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from pipelines.core.errors import DivergedError, UserError
from pipelines.core.progress import progress, say
from pipelines.core.records import TrainingRow
from pipelines.core.study import FinetuneConfig
from pipelines.training import fused_lora, scored_loss, token_cache
from pipelines.training.packing import Packer, steps
from pipelines.training.step_trainer import EVAL_SECONDS, StepTrainer

N_LOG_POINTS = 50
"""Points of the loss curve in MLflow."""
MICRO_BATCH_TOKENS = {"cuda": 8192, "cpu": 2048}
"""Tokens of a forward pass where the study says nothing; with fewer, a GPU waits."""
RECOMPUTE_EVERY = {"selective": 2, "full": 1, "offload": 1}
"""Of how many layers one is computed again in the backward pass."""
Log = Callable[[Mapping[str, float], int], None]
"""Called with figures and the optimiser step while training runs."""


@dataclass(frozen=True)
class Trained:
    """What one training run produced."""

    adapter_dir: Path
    adapter_sha256: str
    n_scored_tokens: int
    n_steps: int
    final_loss: float
    tokens_per_s: float
    train_s: float
    peak_memory_gib: float
    docs_per_step: float
    """Rows that an optimiser step learned from, on average."""
    base_eval_loss: float | None = None
    """Loss on the validation rows before the first step; None = there were none."""
    eval_loss: float | None = None
    """Loss of the adapter that is kept, the lowest that was measured."""
    best_step: int | None = None
    """Step after which the adapter was as it is kept."""
    base_gib: float | None = None
    """Frozen weights that a process holds while it computes nothing, the most of any process."""


def train(
    base_dir: Path,
    rows: Sequence[TrainingRow],
    config: FinetuneConfig,
    instructions: str,
    work_dir: Path,
    log: Log,
    validation: Sequence[TrainingRow] = (),
) -> Trained:
    """Train an adapter; goes on from the last checkpoint in `work_dir`.

    Under torchrun or Ray each process calls this; the first one alone writes and logs.

    Args:
        base_dir: the model's folder.
        rows: what is learned.
        config: how.
        instructions: system prompt of each row; "" = none.
        work_dir: for checkpoints and the adapter; the tokens of the rows are kept beside it.
        log: called while training runs.
        validation: rows to measure the loss on; the adapter with the lowest is kept.

    Raises:
        DataError: rows are longer than allowed.
        UserError: the disk is full, or training diverged.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    set_seed(config.seed)
    tokenizer: Any = AutoTokenizer.from_pretrained(base_dir)
    cache = work_dir.parent / token_cache.FOLDER
    data, held_out = (
        token_cache.tokens(part, base_dir, tokenizer, config, instructions, cache)
        for part in (rows, validation)
    )
    planned = steps(len(data), config.batch_size, config.epochs, config.seed)
    arguments = _arguments(config, len(planned), work_dir / "checkpoints", bool(held_out))
    first = arguments.process_index == 0
    sharded = config.sharding == "fsdp2"
    longest = int(max(part.lengths.max(initial=0) for part in (data, held_out)))
    load = _load_shard if sharded else _load_whole
    base, packed = load(base_dir, config, arguments, longest)
    base_gib = _base_gib(base, arguments)
    model = _with_adapter(base, config, tell=first)
    if sharded:
        # peft calls `forward`, past the hooks that gather what lies outside of the layers.
        model.base_model.forward = base.__call__
    packer = Packer(
        config.micro_batch_tokens or MICRO_BATCH_TOKENS[arguments.device.type],
        config.micro_batch_size if config.packing and packed else 1,
        arguments.process_index,
        arguments.world_size,
    )
    resume = _last_checkpoint(work_dir / "checkpoints", clean=first)
    if resume and first:
        say(f"finetune: going on from {resume.name}")
    arguments.eval_on_start = bool(held_out) and resume is None
    shown = progress("finetune: training", len(planned), "steps")
    with shown if first else nullcontext(_quietly) as advance:
        watch = _Watch(log, advance, config.patience)
        trainer = StepTrainer(
            model=model,
            args=arguments,
            rows=data,
            planned=planned,
            packer=packer,
            packed=packed,
            validation=held_out,
            sharded=sharded,
            offload=config.gradient_checkpointing == "offload",
            callbacks=[watch],
        )
        trainer.remove_callback(PrinterCallback)
        adapter_dir = work_dir / "adapter"
        try:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
            if first:
                _save(model, adapter_dir, config.preset)
            trainer.accelerator.wait_for_everyone()
        except (OSError, SafetensorError, RuntimeError) as error:
            raise _disk_error(error, work_dir) or error from None
    measured = _measured(trainer.state)
    best_step = min(filter(None, measured), key=measured.__getitem__, default=None)
    n_steps = trainer.state.global_step
    return Trained(
        adapter_dir=adapter_dir,
        adapter_sha256=file_sha256(adapter_dir / "adapter_model.safetensors"),
        n_scored_tokens=data.n_scored_tokens,
        n_steps=n_steps,
        final_loss=watch.loss,
        tokens_per_s=watch.tokens / watch.seconds if watch.seconds else 0.0,
        train_s=watch.seconds,
        peak_memory_gib=_peak_memory_gib(),
        docs_per_step=sum(map(len, planned[:n_steps])) / n_steps,
        base_eval_loss=measured.get(0),
        eval_loss=None if best_step is None else measured[best_step],
        best_step=best_step,
        base_gib=base_gib,
    )


def _arguments(
    config: FinetuneConfig, n_steps: int, checkpoints: Path, evaluated: bool
) -> TrainingArguments:
    """Of one process; also brings up its GPU and the group of processes."""
    every = math.ceil(n_steps / config.checkpoints)
    recompute = RECOMPUTE_EVERY.get(config.gradient_checkpointing)
    return TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=n_steps,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(config.warmup_share * n_steps),
        weight_decay=config.weight_decay,
        label_smoothing_factor=config.label_smoothing,
        max_grad_norm=1.0,
        gradient_checkpointing=recompute is not None,
        gradient_checkpointing_kwargs=(
            None if recompute is None else {"use_reentrant": False, "every_n_layers": recompute}
        ),
        # Fused layers compute in the base's type; peft's own need autocast to do so.
        bf16=_dtype() is torch.bfloat16 and not _is_plain(config),
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="steps" if evaluated else "no",
        eval_steps=every if evaluated else None,
        load_best_model_at_end=evaluated,
        metric_for_best_model="eval_loss" if evaluated else None,
        greater_is_better=False if evaluated else None,
        save_steps=every,
        save_total_limit=2,
        logging_steps=max(1, n_steps // N_LOG_POINTS),
        logging_nan_inf_filter=False,
        seed=config.seed,
        data_seed=config.seed,
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[],
    )


def _quietly(*_: Any, **__: Any) -> None:
    """No progress: another process shows it."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _dtype() -> torch.dtype:
    """bf16 where the GPU has it; fp32 on a CPU, where results then repeat bit for bit."""
    cuda = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if cuda else torch.float32


def _is_plain(config: FinetuneConfig) -> bool:
    """True when the adapter is one that `fused_lora` computes."""
    return config.lora.dropout == 0 and not config.lora.dora


def _load_base(base_dir: Path, config: FinetuneConfig, device: torch.device) -> Any:
    """The frozen model, quantised if asked for, on its device."""
    quantization = {
        "none": None,
        "int8": BitsAndBytesConfig(load_in_8bit=True),
        "nf4": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=_dtype(),
        ),
    }[config.quantization]
    model: Any = AutoModelForCausalLM.from_pretrained(
        base_dir,
        dtype=_dtype(),
        quantization_config=quantization,
        use_safetensors=True,
        device_map={"": device} if device.type == "cuda" else None,
    )
    fused_lora.guard_quantized(model)
    # It says with each layer that it computes in 16 bits.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    model.requires_grad_(False)
    model.config.use_cache = False
    return model


def _load_whole(
    base_dir: Path, config: FinetuneConfig, arguments: TrainingArguments, longest: int
) -> tuple[Any, bool]:
    """The base on this process's device, and whether it reads packs."""
    base = _load_base(base_dir, config, arguments.device)
    return base, _make_fast(base, longest, tell=arguments.process_index == 0)


def _load_shard(
    base_dir: Path, config: FinetuneConfig, arguments: TrainingArguments, longest: int
) -> tuple[Any, bool]:
    """As `_load_whole`, but of every weight this process keeps its part alone.

    The processes of a machine take turns, so that its memory holds the whole base once.
    """
    mesh = init_device_mesh(arguments.device.type, (arguments.world_size,))
    base, packed = None, False
    for turn in range(arguments.world_size):
        if turn == arguments.local_process_index:
            base = _load_base(base_dir, config, torch.device("cpu"))
            packed = _make_fast(base, longest, tell=arguments.process_index == 0)
            _shard(base, mesh)
        torch.distributed.barrier()
    return base, packed


def _shard(base: Any, mesh: DeviceMesh) -> None:
    layers = [m for m in base.modules() if type(m).__name__ in (base._no_split_modules or ())]
    if not layers:
        raise UserError(
            f"finetune.sharding: fsdp2 needs to know the layers of {type(base).__name__}, which "
            "names none; take sharding: none"
        )
    # The model comes last and gets what lies outside of the layers. It gives that back after each
    # pass, too: were it kept after an evaluation, saving would free it in the first process alone.
    for module in (*layers, base):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)


def _base_gib(base: Any, arguments: TrainingArguments) -> float:
    parts = (p.to_local() if isinstance(p, DTensor) else p for p in base.parameters())
    held = torch.tensor(sum(p.nbytes for p in parts) / 2**30, device=arguments.device)
    if arguments.world_size > 1:
        torch.distributed.all_reduce(held, torch.distributed.ReduceOp.MAX)
    return float(held)


def _make_fast(base: Any, longest: int, *, tell: bool) -> bool:
    """Let the model read packs and score answers alone; False, and said so, where that is wrong."""
    if reason := scored_loss.why_not_packed(base, longest):
        if tell:
            say(f"finetune: one row per forward pass, which is slower: {reason}")
        return False
    scored_loss.read_packs(base)
    return True


def _with_adapter(base: Any, config: FinetuneConfig, *, tell: bool) -> Any:
    lora = config.lora
    model = get_peft_model(
        base,
        PeftLoraConfig(
            task_type="CAUSAL_LM",
            r=lora.rank,
            lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]
            lora_dropout=lora.dropout,
            use_rslora=lora.rslora,
            use_dora=lora.dora,
            target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
            init_lora_weights=True if lora.init == "default" else lora.init,  # pyright: ignore[reportArgumentType]
        ),
    )
    if _is_plain(config):
        fused_lora.fuse(model)
    elif tell:
        say("finetune: dropout and DoRA take peft's own layers, which are slower and keep more")
    return model


class _Watch(TrainerCallback):
    """Passes loss, learning rate, speed and memory on while training runs."""

    def __init__(self, log: Log, advance: Callable[..., None], patience: int | None) -> None:
        self.log, self.advance, self.patience = log, advance, patience
        self.loss = math.nan
        self.tokens, self.seconds = 0, 0.0
        self._tokens_before = 0
        self._at = time.perf_counter()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._tokens_before = int(state.num_input_tokens_seen)
        self._at = time.perf_counter()
        self.advance(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        shown = {} if math.isnan(self.loss) else {"loss": f"{self.loss:.3f}"}
        self.advance(1, **shown)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        losses = [loss for step, loss in _measured(state).items() if step]
        if self.patience and losses and len(losses) - losses.index(min(losses)) > self.patience:
            control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if logs and "eval_loss" in logs:
            self._at += logs[EVAL_SECONDS]
            if state.is_world_process_zero:
                self.log({"eval/loss": logs["eval_loss"]}, state.global_step)
        if not logs or "loss" not in logs:
            return
        now, seen = time.perf_counter(), int(state.num_input_tokens_seen)
        tokens, seconds = seen - self._tokens_before, now - self._at
        self._tokens_before, self._at = seen, now
        self.tokens += tokens
        self.seconds += seconds
        self.loss = logs["loss"]
        if not math.isfinite(self.loss):
            raise DivergedError(
                f"training diverged at step {state.global_step}: the loss is {self.loss}. "
                "Lower finetune.learning_rate"
            )
        figures = {
            "train/loss": self.loss,
            "train/learning_rate": logs["learning_rate"],
            "train/grad_norm": float(logs["grad_norm"]),
            "train/tokens_per_s": tokens / seconds,
            "train/peak_memory_gib": _peak_memory_gib(),
        }
        if state.is_world_process_zero:
            self.log(figures, state.global_step)


def _measured(state: TrainerState) -> dict[int, float]:
    """Step -> loss on the validation rows, in the order of the steps."""
    return {
        int(line["step"]): line["eval_loss"] for line in state.log_history if "eval_loss" in line
    }


def _last_checkpoint(folder: Path, *, clean: bool) -> Path | None:
    """Newest complete checkpoint. trainer_state.json is written last: without it, a kill came."""
    complete: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        try:
            step = json.loads((path / "trainer_state.json").read_text())["global_step"]
        except (OSError, ValueError, KeyError):
            if clean:
                shutil.rmtree(path, ignore_errors=True)
            continue
        complete.append((step, path))
    return max(complete)[1] if complete else None


def _save(model: Any, folder: Path, base_name: str) -> Path:
    """Save the adapter beside its place, then move it there in one step."""
    partial = folder.with_name(folder.name + ".partial")
    for old in (partial, folder):
        shutil.rmtree(old, ignore_errors=True)
    try:
        # all-linear leaves the embeddings alone; asking whether they changed needs the hub.
        model.save_pretrained(partial, safe_serialization=True, save_embedding_layers=False)
        (partial / "README.md").unlink(missing_ok=True)  # peft's empty model card template
        config_path = partial / "adapter_config.json"
        config = json.loads(config_path.read_text(encoding="utf-8"))
        # The name of the preset, not a path of this machine.
        config["base_model_name_or_path"] = base_name
        config_path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder


def _disk_error(error: Exception, folder: Path) -> UserError | None:
    """A full disk in words; None when the error is another one."""
    text = str(error)
    signs = ("No space left", "File too large", "Disk quota", "os error 28", "os error 27")
    if not isinstance(error, OSError | SafetensorError) and "PytorchStreamWriter" not in text:
        return None
    if not any(sign in text for sign in signs) and "PytorchStreamWriter" not in text:
        return None
    free_mib = shutil.disk_usage(folder).free / 2**20
    return UserError(
        f"the disk is full: cannot write to {folder} ({free_mib:.0f} MiB free): {text}\n"
        "  make room and run the same command again; it goes on from the last checkpoint"
    )


def _peak_memory_gib() -> float:
    """Highest memory so far: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
