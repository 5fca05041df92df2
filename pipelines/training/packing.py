"""Which rows make an optimiser step, and how they lie behind one another in its packs."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import torch

from pipelines.training.chat_rows import IGNORED

Row = Mapping[str, Any]
"""`input_ids` and `labels` of one document, lists or arrays, as `chat_rows.encode` and
`token_cache.tokens` give them."""


class Pack(TypedDict):
    """Documents behind one another, without padding: what one forward pass reads."""

    input_ids: torch.Tensor
    """Int[Tensor, "1 tokens"]"""
    position_ids: torch.Tensor
    """Int[Tensor, "1 tokens"]; starts at 0 in each document."""
    document_ends: torch.Tensor
    """Int32[Tensor, "documents+1"]; the first is 0."""
    document_lengths: list[int]
    scored: torch.Tensor
    """Int[Tensor, "scored"]: positions whose next token carries loss."""
    targets: torch.Tensor
    """Int[Tensor, "scored"]: those next tokens."""


class Step(TypedDict):
    """One optimiser step, as one process sees it; the counts are those of all processes."""

    packs: list[Pack]
    n_rows: int
    n_tokens: int
    n_scored: int


def steps(n_rows: int, batch_size: int, epochs: float, seed: int) -> list[list[int]]:
    """Row numbers of each optimiser step, shuffled anew in each epoch.

    An epoch holds every row once; its last step may hold fewer than `batch_size`.
    """
    per_epoch = math.ceil(n_rows / batch_size)
    planned: list[list[int]] = []
    numbers = list(range(n_rows))  # the epochs share them: an int takes four times its reference
    for epoch in range(math.ceil(epochs)):
        order = numbers.copy()
        random.Random(f"{seed} {epoch}").shuffle(order)
        planned += [order[at : at + batch_size] for at in range(0, n_rows, batch_size)]
    return planned[: math.ceil(per_epoch * epochs)]


def divide(
    lengths: Sequence[int], max_tokens: int, max_rows: int | None = None, multiple: int = 1
) -> list[list[int]]:
    """Deal documents out to as few packs as hold them, all of them about equally long.

    Longest first, each into the shortest pack so far. A pack costs what its tokens cost, however
    full it is, so that even packs, which keep processes from waiting for one another, beat full
    ones. The same lengths give the same packs.

    Args:
        lengths: tokens of each document.
        max_tokens: of a pack; raised to the longest document, which needs the room anyway.
        max_rows: documents of a pack at most.
        multiple: the number of packs is a multiple of this; some may be empty.
    """
    longest_first = sorted(range(len(lengths)), key=lambda k: (-lengths[k], k))
    max_tokens = max(max_tokens, *lengths)
    fewest = max(
        math.ceil(sum(lengths) / max_tokens),
        math.ceil(len(lengths) / max_rows) if max_rows else 1,
    )
    n_packs = math.ceil(fewest / multiple) * multiple
    while True:
        packs: list[list[int]] = [[] for _ in range(n_packs)]
        tokens = [0] * n_packs
        for k in longest_first:
            open_packs = [p for p in range(n_packs) if max_rows is None or len(packs[p]) < max_rows]
            shortest = min(open_packs, key=lambda p: (tokens[p], p))
            packs[shortest].append(k)
            tokens[shortest] += lengths[k]
        if max(tokens) <= max_tokens:
            return packs
        n_packs += multiple


def lay(rows: Sequence[Row]) -> Pack:
    """The rows behind one another. A document's first token is no target: nothing precedes it."""
    lengths = [len(row["input_ids"]) for row in rows]
    labels = np.concatenate([row["labels"] for row in rows])
    labels[np.cumsum([0, *lengths[:-1]])] = IGNORED
    scored = np.flatnonzero(labels != IGNORED)
    return {
        "input_ids": _tensor(np.concatenate([row["input_ids"] for row in rows]))[None],
        "position_ids": _tensor(np.concatenate([np.arange(n) for n in lengths]))[None],
        "document_ends": torch.tensor([0, *lengths]).cumsum(0).to(torch.int32),
        "document_lengths": lengths,
        "scored": _tensor(scored - 1),
        "targets": _tensor(labels[scored]),
    }


def n_scored(rows: Sequence[Row]) -> int:
    """Tokens that carry loss."""
    return sum(int(np.count_nonzero(np.asarray(row["labels"][1:]) != IGNORED)) for row in rows)


def _tensor(numbers: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(numbers.astype(np.int64))


class Packer:
    """Collator of one process: all rows of a step in, this process's packs out.

    Args:
        max_tokens: of a pack.
        max_rows: documents of a pack at most; None = as many as fit.
        rank: which process this is.
        n_processes: how many share each step.
    """

    def __init__(
        self, max_tokens: int, max_rows: int | None = None, rank: int = 0, n_processes: int = 1
    ) -> None:
        self.max_tokens, self.max_rows = max_tokens, max_rows
        self.rank, self.n_processes = rank, n_processes

    def __call__(self, rows: list[Any]) -> Step:
        """The step; a process without rows gets one that carries no loss, and so keeps step."""
        lengths = [len(row["input_ids"]) for row in rows]
        packs = divide(lengths, self.max_tokens, self.max_rows, self.n_processes)
        mine = [[rows[k] for k in pack] for pack in packs[self.rank :: self.n_processes] if pack]
        silent: Row = {"input_ids": rows[0]["input_ids"][:1], "labels": [IGNORED]}
        return {
            "packs": [lay(pack) for pack in mine or [[silent]]],
            "n_rows": len(rows),
            "n_tokens": sum(lengths),
            "n_scored": n_scored(rows),
        }
