"""LoRA fine-tuning: load the frozen base, train the adapter, save it whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import resource
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model, prepare_model_for_kbit_training
from safetensors import SafetensorError
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from pipelines.core.errors import UserError
from pipelines.core.progress import progress, say
from pipelines.core.records import TrainingRow
from pipelines.core.study import FinetuneConfig
from pipelines.training.chat_rows import IGNORED, encode

N_LOG_POINTS = 50
"""Points of the loss curve in MLflow."""
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


def train(
    base_dir: Path,
    rows: Sequence[TrainingRow],
    config: FinetuneConfig,
    instructions: str,
    work_dir: Path,
    log: Log,
) -> Trained:
    """Train an adapter on all linear layers; goes on from the last checkpoint in `work_dir`.

    Raises:
        DataError: rows are longer than allowed.
        UserError: the disk is full.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    set_seed(config.seed)
    tokenizer: Any = AutoTokenizer.from_pretrained(base_dir)
    data = encode(
        rows,
        tokenizer,
        instructions=instructions,
        max_tokens=config.max_tokens_per_row,
        template_options=config.chat_template_options,
    )
    model = _with_adapter(_load_base(base_dir, config), config)
    micro_batch = config.micro_batch_size or config.batch_size
    accumulation = max(1, round(config.batch_size / micro_batch))
    n_steps = math.ceil(math.ceil(len(data) / (micro_batch * accumulation)) * config.epochs)
    checkpoints = work_dir / "checkpoints"
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=n_steps,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(config.warmup_share * n_steps),
        weight_decay=config.weight_decay,
        label_smoothing_factor=config.label_smoothing,
        max_grad_norm=1.0,
        gradient_checkpointing=config.gradient_checkpointing,
        bf16=_dtype() is torch.bfloat16,
        use_cpu=not torch.cuda.is_available(),
        # Batches of similar length: half of a randomly filled batch is padding.
        train_sampling_strategy="group_by_length",
        include_num_input_tokens_seen="non_padding",
        save_steps=math.ceil(n_steps / config.checkpoints),
        save_total_limit=2,
        logging_steps=max(1, n_steps // N_LOG_POINTS),
        logging_nan_inf_filter=False,
        seed=config.seed,
        data_seed=config.seed,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[],
    )
    resume = _last_checkpoint(checkpoints)
    if resume:
        say(f"finetune: going on from {resume.name}")
    with progress("finetune: training", n_steps, "steps") as advance:
        watch = _Watch(log, advance)
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=data,  # pyright: ignore[reportArgumentType]
            data_collator=_Collator(tokenizer.pad_token_id or tokenizer.eos_token_id),
            callbacks=[watch],
        )
        trainer.remove_callback(_printer(trainer))
        try:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
            adapter_dir = _save(model, work_dir / "adapter", config.preset)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise _disk_error(error, work_dir) or error from None
    return Trained(
        adapter_dir=adapter_dir,
        adapter_sha256=file_sha256(adapter_dir / "adapter_model.safetensors"),
        n_scored_tokens=sum(sum(label != IGNORED for label in row["labels"]) for row in data),
        n_steps=n_steps,
        final_loss=watch.loss,
        tokens_per_s=watch.tokens / watch.seconds if watch.seconds else 0.0,
        train_s=watch.seconds,
        peak_memory_gib=_peak_memory_gib(),
    )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _dtype() -> torch.dtype:
    """bf16 where the GPU has it; fp32 on a CPU, where results then repeat bit for bit."""
    cuda = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if cuda else torch.float32


def _load_base(base_dir: Path, config: FinetuneConfig) -> Any:
    quantization = None
    if config.quantization == "nf4":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    model: Any = AutoModelForCausalLM.from_pretrained(
        base_dir, dtype=_dtype(), quantization_config=quantization, use_safetensors=True
    )
    if quantization is not None:
        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=config.gradient_checkpointing
        )
        for module in model.modules():
            if type(module).__name__ == "Linear4bit":
                # With it, gradients after an eval pass are 95 % wrong on AVX512_BF16 processors.
                module.support_avx512bf16_for_cpu = False
    return model


def _with_adapter(base: Any, config: FinetuneConfig) -> Any:
    base.config.use_cache = False
    return get_peft_model(
        base,
        PeftLoraConfig(
            task_type="CAUSAL_LM",
            r=config.lora.rank,
            lora_alpha=config.lora.alpha,  # pyright: ignore[reportArgumentType]
            lora_dropout=config.lora.dropout,
            use_rslora=config.lora.rslora,
            target_modules="all-linear",
        ),
    )


class _Collator:
    """Pad a batch on the right."""

    def __init__(self, pad_id: int) -> None:
        self.fill = {"input_ids": pad_id, "attention_mask": 0, "labels": IGNORED}

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Int[Tensor, "batch longest_row"] for each key."""
        return {
            key: pad_sequence([torch.tensor(row[key]) for row in rows], True, fill)
            for key, fill in self.fill.items()
        }


class _Watch(TrainerCallback):
    """Passes loss, learning rate, speed and memory on while training runs."""

    def __init__(self, log: Log, advance: Callable[..., None]) -> None:
        self.log, self.advance = log, advance
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

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        now, seen = time.perf_counter(), int(state.num_input_tokens_seen)
        tokens, seconds = seen - self._tokens_before, now - self._at
        self._tokens_before, self._at = seen, now
        self.tokens += tokens
        self.seconds += seconds
        self.loss = logs["loss"]
        if not math.isfinite(self.loss):
            raise UserError(
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
        self.log(figures, state.global_step)


def _printer(trainer: Trainer) -> type[TrainerCallback]:
    """The callback that prints dictionaries to stdout."""
    found = [type(c) for c in trainer.callback_handler.callbacks if "Printer" in type(c).__name__]
    return found[0] if found else TrainerCallback


def _last_checkpoint(folder: Path) -> Path | None:
    """Newest complete checkpoint. trainer_state.json is written last: without it, a kill came."""
    complete: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        try:
            step = json.loads((path / "trainer_state.json").read_text())["global_step"]
        except (OSError, ValueError, KeyError):
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
