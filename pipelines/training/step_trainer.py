"""transformers' Trainer with steps made of packs: it keeps the schedule, checkpoints and DDP."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer

from pipelines.training.packing import Packer, Row, Step
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
        **given: Any,
    ) -> None:
        self.rows, self.planned, self.packer, self.packed = rows, planned, packer, packed
        self.validation = validation
        super().__init__(
            train_dataset=rows,  # pyright: ignore[reportArgumentType]
            eval_dataset=validation or None,  # pyright: ignore[reportArgumentType]
            data_collator=packer,  # pyright: ignore[reportArgumentType]
            **given,
        )

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
        for number, pack in enumerate(step["packs"], start=1):
            last = number == len(step["packs"])
            with nullcontext() if last else self.accelerator.no_sync(model):
                loss = scale * loss_of_pack(
                    model, pack, self.args.label_smoothing_factor, self.packed
                )
                self.accelerator.backward(loss)
            total += loss.detach()
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
            for pack in step["packs"]:
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

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        built = super()._build_accelerator_args(**kwargs)
        for handler in built["kwargs_handlers"]:
            if hasattr(handler, "gradient_as_bucket_view"):
                handler.gradient_as_bucket_view = True
        return built
