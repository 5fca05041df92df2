"""LoRA on a CPU: our steps against transformers' Trainer and TRL, the same rows in one process."""

from __future__ import annotations

import copy
import gc
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluate import figure

SEED = 7
ROUNDS = 6
MAX_LOSS_GAP = 1e-3
MIN_COSINE = 0.999
LAYER_TOKENS = 64
LAYER = {
    "vocab_size": 128, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 1,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
}  # fmt: skip
"""One layer of Llama 3.1 8B."""


@dataclass(frozen=True)
class Work:
    """What every arm does: one pass over the rows, forward and backward."""

    shape: dict[str, Any]
    rows: list[dict[str, list[int]]]
    batch_rows: int
    """Of the padded arms."""
    max_tokens: int
    """Of the packed arms' batches."""
    device: str = "cpu"
    checkpointing: bool = False
    """Of the peers: layers are computed again in the backward pass."""
    folder: str = field(default_factory=tempfile.mkdtemp)

    @property
    def n_tokens(self) -> int:
        """Real ones: padding is none."""
        return sum(len(row["input_ids"]) for row in self.rows)

    @property
    def n_scored(self) -> int:
        """Tokens with loss."""
        return sum(label >= 0 for row in self.rows for label in row["labels"][1:])


def lognormal_rows(n: int, vocabulary: int, longest: int) -> list[dict[str, list[int]]]:
    """Random tokens; lengths as instruction data has them, the first third is the prompt."""
    rng = random.Random(SEED)
    made: list[dict[str, list[int]]] = []
    for _ in range(n):
        length = max(8, min(longest, round(rng.lognormvariate(4.4, 0.8))))
        ids = [rng.randrange(5, vocabulary) for _ in range(length)]
        made.append({"input_ids": ids, "labels": [-100] * (length // 3) + ids[length // 3 :]})
    return made


def run() -> list[dict[str, Any]]:
    """All figures; a row with a `limit` is a bar."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.path.insert(0, str(Path(__file__).parents[2]))
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # CPU seconds of one thread hardly depend on who else computes
    try:
        shape = {
            "vocab_size": 4096, "hidden_size": 512, "intermediate_size": 1792,
            "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
        }  # fmt: skip
        work = Work(shape, lognormal_rows(96, 4096, 1000), batch_rows=8, max_tokens=1024)
        found = compare(work, arms(work), time.process_time)
        return [
            *(figure(f"{name}: tokens/CPU-s", work.n_tokens / each.seconds, spread=[
                work.n_tokens / s for s in each.times
            ]) for name, each in found.items()),
            ratio("C1 ours / Trainer padded", found, "Trainer padded", 2.2),
            ratio("C2 ours / TRL bfd", found, "TRL bfd", 1.7),
            ratio("C3 ours / TRL padded", found, "TRL padded", 3.0),
            *parity(found),
            _kept_bytes(),
        ]  # fmt: skip
    finally:
        torch.set_num_threads(before)


@dataclass
class Found:
    """What one arm took and computed."""

    times: list[float]
    loss: float
    gradient: Any
    """Float[Tensor, "adapter"] of the first pass."""

    @property
    def seconds(self) -> float:
        """Of the fastest pass: what else runs on the machine can only add to it."""
        return min(self.times)


def compare(
    work: Work,
    arms: dict[str, tuple[Any, Callable[[], float]]],
    clock: Callable[[], float],
    rounds: int = ROUNDS,
) -> dict[str, Found]:
    """Let the arms take turns; loss and gradient are those of the first round."""
    import torch

    found: dict[str, Found] = {}
    for number in range(rounds):
        for name, (model, one_pass) in arms.items():
            model.zero_grad()
            gc.collect()
            started = clock()
            loss = one_pass()
            seconds = clock() - started
            if number:
                found[name].times.append(seconds)
                continue
            grads = [p.grad.float().flatten().cpu() for p in model.parameters() if p.requires_grad]
            found[name] = Found([seconds], loss, torch.cat(grads))
    return found


def ratio(name: str, found: dict[str, Found], peer: str, at_least: float) -> dict[str, Any]:
    """How many times faster ours is; the spread is that of the rounds."""
    ours, theirs = found["ours"], found[peer]
    spread = [b / a for a, b in zip(ours.times, theirs.times, strict=True)]
    return figure(name, theirs.seconds / ours.seconds, at_least=at_least, spread=spread)


def parity(found: dict[str, Found], reference: str = "Trainer padded") -> list[dict[str, Any]]:
    """Bars on loss and gradient of all arms: a speed counts only when the work was the same."""
    from torch.nn.functional import cosine_similarity

    exact = found[reference]
    gaps = [abs(each.loss - exact.loss) / exact.loss for each in found.values()]
    cosines = [
        float(cosine_similarity(each.gradient.double(), exact.gradient.double(), 0))
        for each in found.values()
    ]
    norms = [float(each.gradient.norm()) for each in found.values()]
    # A norm that is not a number must not hold.
    positive = sum(norm > 0 and math.isfinite(norm) for norm in norms)
    return [
        figure("largest relative gap between the losses", max(gaps), limit=MAX_LOSS_GAP),
        figure("lowest cosine of the gradients", min(cosines), at_least=MIN_COSINE),
        figure("arms whose gradient is not 0", positive, at_least=len(found)),
    ]


def arms(work: Work) -> dict[str, tuple[Any, Callable[[], float]]]:
    """Name -> the model and a pass over the rows that gives the mean loss per scored token."""
    base = random_base(work)
    return {
        "Trainer padded": trainer_padded(work, twin(base)),
        "TRL padded": trl(work, twin(base), packing=False),
        "TRL bfd": trl(work, twin(base), packing=True),
        "ours": ours(work, twin(base)),
    }


def random_base(work: Work) -> Any:
    """A random Llama in bf16; weights are random, since zeros multiply faster."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    with torch.device(work.device):
        return LlamaForCausalLM(LlamaConfig(**work.shape)).to(torch.bfloat16)


def twin(base: Any) -> Any:
    """A second model with the very weights of the first."""
    import torch

    with torch.device("meta"):
        second = type(base)(copy.deepcopy(base.config))
    second.load_state_dict(base.state_dict(), assign=True)
    for mine, theirs in zip(second.modules(), base.modules(), strict=True):
        mine._buffers = dict(theirs._buffers)
    return second


def adapted(base: Any) -> Any:
    """An adapter of rank 16 on all linear layers; B is random, so that A has a gradient."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    model: Any = get_peft_model(
        base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model.train()


def ours(work: Work, base: Any) -> tuple[Any, Callable[[], float]]:
    """As `pipelines.training.lora` trains."""
    from transformers import TrainingArguments

    from pipelines.training import fused_lora, scored_loss
    from pipelines.training.packing import Packer
    from pipelines.training.step_trainer import StepTrainer

    model = adapted(base)
    scored_loss.read_packs(model.get_base_model())
    fused_lora.fuse(model)
    packer = Packer(work.max_tokens)
    trainer = StepTrainer(
        model=model, args=TrainingArguments(**_common(work), bf16=False), rows=work.rows,
        planned=[list(range(len(work.rows)))], packer=packer, packed=True,
    )  # fmt: skip
    if work.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    prepared = trainer.accelerator.prepare_model(model)
    batches = list(trainer.get_train_dataloader())
    return model, lambda: sum(float(trainer.training_step(prepared, batch)) for batch in batches)


def trainer_padded(work: Work, base: Any) -> tuple[Any, Callable[[], float]]:
    """transformers.Trainer with peft, batches filled up to their longest row."""
    from torch import tensor
    from torch.nn.utils.rnn import pad_sequence
    from transformers import Trainer, TrainingArguments

    def collate(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
        ids, labels = ([tensor(row[key]) for row in rows] for key in ("input_ids", "labels"))
        return {
            "input_ids": pad_sequence(ids, True, 0),
            "attention_mask": pad_sequence([each.new_ones(len(each)) for each in ids], True, 0),
            "labels": pad_sequence(labels, True, -100),
        }

    arguments = TrainingArguments(
        **_common(work), per_device_train_batch_size=work.batch_rows, bf16=True,
        gradient_checkpointing=work.checkpointing, remove_unused_columns=False,
    )  # fmt: skip
    return _passes(
        work,
        Trainer(adapted(base), arguments, train_dataset=work.rows, data_collator=collate),  # pyright: ignore[reportArgumentType]
    )


def trl(work: Work, base: Any, packing: bool) -> tuple[Any, Callable[[], float]]:
    """TRL's SFTTrainer with peft: its own packing, collator and output layer."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    rows = [
        {"input_ids": row["input_ids"], "completion_mask": [int(x >= 0) for x in row["labels"]]}
        for row in work.rows
    ]
    words = {f"w{k}": k for k in range(work.shape["vocab_size"])}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, "w0")), eos_token="w1", pad_token="w0"
    )
    arguments = SFTConfig(
        **_common(work), per_device_train_batch_size=1 if packing else work.batch_rows, bf16=True,
        packing=packing, max_length=work.max_tokens, completion_only_loss=True,
        gradient_checkpointing=work.checkpointing,
    )  # fmt: skip
    return _passes(
        work,
        SFTTrainer(
            model=adapted(base), args=arguments, train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        ),
    )  # fmt: skip


def _passes(work: Work, trainer: Any) -> tuple[Any, Callable[[], float]]:
    """A Trainer's own training steps over all its batches, as parts of one optimiser step."""
    from torch import tensor

    if work.checkpointing:
        trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
    prepared = trainer.accelerator.prepare_model(trainer.model)
    batches = list(trainer.get_train_dataloader())
    scored = tensor(work.n_scored, device=work.device)
    return trainer.model, lambda: sum(
        float(trainer.training_step(prepared, dict(batch), num_items_in_batch=scored))
        for batch in batches
    )


def _common(work: Work) -> dict[str, Any]:
    return {
        "output_dir": work.folder,
        "use_cpu": work.device == "cpu",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def _kept_bytes() -> dict[str, Any]:
    """C6: what a layer of 8B keeps for the backward pass, per token; weights do not count."""
    import torch

    from pipelines.training import fused_lora

    base = random_base(Work(LAYER, [], 1, 1))
    kept: dict[str, float] = {}
    for name in ("peft", "ours"):
        model = adapted(twin(base))
        if name == "ours":
            fused_lora.fuse(model)
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        storages: dict[int, int] = {}

        def keep(
            tensor: Any, weights: set[int] = weights, storages: dict[int, int] = storages
        ) -> Any:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        hidden = torch.randn(1, LAYER_TOKENS, 4096).to(torch.bfloat16).requires_grad_()
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=name == "peft"),
        ):
            out = model.get_base_model().model(inputs_embeds=hidden, use_cache=False)
        kept[name] = sum(storages.values()) / LAYER_TOKENS / 1024
        del out
    return figure("C6 KiB kept per token, ours / peft", kept["ours"] / kept["peft"], limit=0.75)
