"""transformers' Trainer with steps made of packs: it keeps the schedule, checkpoints and DDP."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch.autograd.graph import save_on_cpu
from torch.utils.data import DataLoader
from transformers import Trainer

from pipelines.training.chat_rows import IGNORED
from pipelines.training.packing import Pack, Packer, Row, Step, lay
from pipelines.training.scored_loss import loss_of_pack

EVAL_SECONDS = "eval_s"
"""Key beside `eval_loss` in what is logged."""


class StepTrainer(Trainer):
    """One batch of its loader is one optimiser step of all processes, however many packs it takes.

    Args:
        rows: the training data.
        planned: row numbers of each step, over all epochs.
        packer: of this process.
        packed: whether the model reads packs of several documents.
        validation: rows that are only evaluated; may be empty.
        sharded: whether the base is divided among the processes; the adapter is whole in each.
        offload: whether what the forward pass keeps waits in the machine's memory.
        given: the arguments of Trainer itself.
    """

    def __init__(
        self,
        *,
        rows: Sequence[Row],
        planned: list[list[int]],
        packer: Packer,
        packed: bool,
        validation: Sequence[Row] = (),
        sharded: bool = False,
        offload: bool = False,
        **given: Any,
    ) -> None:
        self.rows, self.planned, self.packer, self.packed = rows, planned, packer, packed
        self.validation, self.sharded, self.offload = validation, sharded, offload
        super().__init__(
            train_dataset=rows,  # pyright: ignore[reportArgumentType]
            eval_dataset=validation or None,  # pyright: ignore[reportArgumentType]
            data_collator=packer,  # pyright: ignore[reportArgumentType]
            **given,
        )
        # A sharded base refuses DDP and must not be moved. Set late: it would refuse checkpoints,
        # too, which hold the adapter alone.
        self.is_distributed_loading_by_transformers = sharded

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The planned steps, in order; each process takes its packs out of them."""
        return DataLoader(
            self.rows,  # pyright: ignore[reportArgumentType]
            batch_sampler=self.planned,
            collate_fn=self.packer,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def training_step(
        self, model: torch.nn.Module, inputs: Any, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Gradients of the step's mean loss per scored token; returns that mean over all processes.

        Processes exchange gradients once, after the last pack.
        """
        model.train()
        step: Step = self._prepare_inputs(inputs)  # pyright: ignore[reportAssignmentType]
        # DDP takes the mean over processes: what counts is the sum.
        scale = self.packer.n_processes / step["n_scored"]
        total = torch.zeros((), device=self.args.device)
        packs = self._in_step(step["packs"])
        for number, pack in enumerate(packs, start=1):
            last = number == len(packs)
            with nullcontext() if last else self.accelerator.no_sync(model):
                with save_on_cpu(pin_memory=True) if self.offload else nullcontext():
                    loss = scale * loss_of_pack(
                        model, pack, self.args.label_smoothing_factor, self.packed
                    )
                self.accelerator.backward(loss)
            total += loss.detach()
        if self.sharded:
            _mean_over_processes([p.grad for p in model.parameters() if p.grad is not None])
        self.state.num_input_tokens_seen += step["n_tokens"]
        return total

    @torch.no_grad()
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Mean loss per scored token of the validation rows, without label smoothing, in nats."""
        started = time.perf_counter()
        assert self.model is not None
        self.model.eval()
        total = torch.zeros((), dtype=torch.float64, device=self.args.device)
        n_scored = 0
        # Rows of similar length together: packs are then even without a search over all rows.
        rows = sorted(self.validation, key=lambda row: len(row["input_ids"]))
        per_step = self.args.per_device_eval_batch_size
        for at in range(0, len(rows), per_step):
            step: Step = self._prepare_inputs(self.packer(list(rows[at : at + per_step])))  # pyright: ignore[reportAssignmentType, reportArgumentType]
            n_scored += step["n_scored"]
            for pack in self._in_step(step["packs"]):
                total += loss_of_pack(self.model, pack, 0.0, self.packed)
        if self.packer.n_processes > 1:
            torch.distributed.all_reduce(total)
        metrics = {
            "eval_loss": float(total) / n_scored,
            EVAL_SECONDS: time.perf_counter() - started,
        }
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _move_model_to_device(self, model: torch.nn.Module, device: torch.device) -> None:
        if not self.sharded:
            super()._move_model_to_device(model, device)

    def _in_step(self, packs: list[Pack]) -> list[Pack]:
        """As many packs as the process with the most: of a sharded base, all gather each layer."""
        if not self.sharded:
            return packs
        most = torch.tensor(len(packs), device=self.args.device)
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
        first_token = packs[0]["input_ids"][0, :1].tolist()
        silent: Any = self._prepare_inputs(
            dict(lay([{"input_ids": first_token, "labels": [IGNORED]}]))
        )
        return packs + [silent] * (int(most) - len(packs))

    def _sync_replicated_trainable_parameters(self, model: torch.nn.Module) -> None:
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.distributed.broadcast(parameter.data, src=0)

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        built = super()._build_accelerator_args(**kwargs)
        for handler in built["kwargs_handlers"]:
            if hasattr(handler, "gradient_as_bucket_view"):
                handler.gradient_as_bucket_view = True
        return built


def _mean_over_processes(gradients: list[torch.Tensor]) -> None:
    """What DDP does, in one exchange after the last pack; in place."""
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    flat /= torch.distributed.get_world_size()
    torch.distributed.all_reduce(flat)
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
