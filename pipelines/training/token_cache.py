"""Training rows and their tokens on the disk: tokenised once, read where a step needs them."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, overload

import numpy as np

from pipelines.core import row_file
from pipelines.core.errors import UserError
from pipelines.core.progress import say
from pipelines.core.records import TrainingRow
from pipelines.core.study import FinetuneConfig
from pipelines.training.chat_rows import IGNORED, refuse_lengths, sequences, template

FOLDER = "tokens"
"""Name of the cache, beside the work folders of the trainings."""
FORMAT = 1
"""Part of the digest: what was tokenised or written in another way is made again."""
KEPT = 10
"""Data sets that stay in the cache, those that were used last."""
MANY = 20_000
"""Rows from which one is told what takes so long."""
DATA, SHA256 = "tokens.arrow", "tokens.sha256"
TOKENIZER_SUFFIXES = {".json", ".jinja", ".txt", ".model"}
"""Of all files of a base but its weights."""


class TokenRow(Mapping[str, np.ndarray]):
    """`input_ids` and `labels` of one sequence, read when they are asked for.

    Both are Int32[ndarray, "tokens"].
    """

    __slots__ = ("_number", "_rows")

    def __init__(self, rows: TokenRows, number: int) -> None:
        self._rows, self._number = rows, number

    def __getitem__(self, name: str) -> np.ndarray:
        ids = self._rows.ids[self._number].values.to_numpy()
        if name == "input_ids":
            return ids
        if name != "labels":
            raise KeyError(name)
        scored = self._rows.scored[self._number].values.to_numpy(zero_copy_only=False)
        return np.where(scored, ids, np.int32(IGNORED))

    def __iter__(self) -> Iterator[str]:
        return iter(("input_ids", "labels"))

    def __len__(self) -> int:
        return 2


class TokenRows(Sequence[TokenRow]):
    """Sequences of a memory-mapped Arrow table; only their lengths are held in memory.

    Attributes:
        lengths: tokens of each sequence, Int32[ndarray, "sequences"].
        n_rows: rows that they were made from.
    """

    def __init__(self, table: Any | None = None) -> None:
        """Of a `datasets` table; None = there are no rows."""
        from pyarrow import compute

        self.lengths = np.zeros(0, np.int32)
        self.n_rows = 0
        if table is not None:
            self.ids, self.scored = table.column("input_ids"), table.column("scored")
            self.lengths = compute.call_function("list_value_length", [self.ids]).to_numpy()
            self._first = np.flatnonzero(np.diff(table.column("row").to_numpy(), prepend=-1))
            self.n_rows = len(self._first)

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, at: int) -> TokenRow: ...
    @overload
    def __getitem__(self, at: slice) -> list[TokenRow]: ...
    def __getitem__(self, at: int | slice) -> TokenRow | list[TokenRow]:
        numbers = range(len(self))[at]
        if isinstance(numbers, int):
            return TokenRow(self, numbers)
        return [TokenRow(self, number) for number in numbers]

    @property
    def n_scored_tokens(self) -> int:
        """Tokens that are learned."""
        return sum(chunk.flatten().true_count for chunk in self.scored.chunks) if len(self) else 0

    def refuse_long(self, max_tokens: int) -> None:
        """Raise DataError if sequences of any row are longer than `max_tokens`."""
        if len(self):
            refuse_lengths(np.maximum.reduceat(self.lengths, self._first).tolist(), max_tokens)


def tokens(
    rows: Sequence[TrainingRow],
    base_dir: Path,
    tokenizer: Any,
    config: FinetuneConfig,
    instructions: str,
    folder: Path,
) -> TokenRows:
    """As `chat_rows.encode`, kept in `folder` and found there by whoever asks for the same.

    One process tokenises, others wait for it; without locks (some network file systems) each does,
    and one result stays. A cut build leaves nothing that could be taken for a whole one, and data
    that do not have their digest any more are made again. The data sets that were used last stay,
    `KEPT` of them. Rows are refused for their length, never cut, so that data do not depend on it.

    Args:
        rows: conversations that end with an answer.
        base_dir: folder of the base, of whose files the tokens depend.
        tokenizer: of the base.
        config: says which answers are learned, and with which template.
        instructions: system prompt; empty = none.
        folder: of the cache; made if it is not there.

    Raises:
        DataError: as `chat_rows.encode`.
        ConfigError: there is no such template.
        UserError: the disk is full.
    """
    if not rows:
        return TokenRows()
    place = folder / _digest(rows, base_dir, tokenizer, config, instructions)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (found := _read(place)) is None:
        with place.with_suffix(".lock").open("a") as lock:
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            if (found := _read(place, tell=True)) is None:
                _build(place, rows, tokenizer, config, instructions)
                found = _read(place, tell=True)
    if found is None:
        raise UserError(f"{place} does not hold what was written to it: the disk may be failing")
    with suppress(OSError):
        os.utime(place)
    _forget(folder)
    found.refuse_long(config.max_tokens_per_row)
    return found


def rows_sha256(rows: Sequence[TrainingRow]) -> str:
    """SHA-256 of the rows as JSON Lines: that of the file, where all rows of one are meant."""
    digest = hashlib.sha256()
    for line in row_file.lines(rows):
        digest.update(line)
    return digest.hexdigest()


def _digest(
    rows: Sequence[TrainingRow],
    base_dir: Path,
    tokenizer: Any,
    config: FinetuneConfig,
    instructions: str,
) -> str:
    """Of all that the tokens depend on."""
    files = hashlib.sha256()
    for path in sorted(p for p in base_dir.iterdir() if p.suffix in TOKENIZER_SUFFIXES):
        files.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    own = tokenizer.chat_template
    made_of = {
        "format": FORMAT,
        "rows": rows_sha256(rows),
        "tokenizer": files.hexdigest(),
        "templates": [own, config.chat_template and template(config.chat_template)],
        "options": dict(config.chat_template_options),
        "today": date.today().isoformat() if "strftime_now" in json.dumps(own) else None,
        "instructions": instructions,
        "loss": config.loss,
        "versions": [version(name) for name in ("transformers", "tokenizers")],
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def _read(place: Path, *, tell: bool = False) -> TokenRows | None:
    """The data, mapped; None when there are none, or others than were written."""
    if not place.exists():
        return None
    from datasets import Dataset

    try:
        if (place / SHA256).read_bytes() == _file_sha256(place / DATA):
            return TokenRows(Dataset.from_file(str(place / DATA)).data)
    except FileNotFoundError:
        pass
    if tell:
        say(f"finetune: {place} is damaged: tokenising again")
    return None


def _build(
    place: Path,
    rows: Sequence[TrainingRow],
    tokenizer: Any,
    config: FinetuneConfig,
    instructions: str,
) -> None:
    """Write the data beside their place, then move them there in one step."""
    if len(rows) >= MANY:
        say(f"finetune: tokenising {len(rows):,} rows, once for all trainings on them")
    mine = f"{place.name}.partial-{socket.gethostname()}-"
    for left in place.parent.glob(f"{mine}*"):  # of a build that was cut: its lock is ours
        shutil.rmtree(left, ignore_errors=True)
    partial = place.with_name(f"{mine}{os.getpid()}")
    try:
        partial.mkdir(mode=0o700)
        _write(partial / DATA, rows, tokenizer, config, instructions)
        (partial / SHA256).write_bytes(_file_sha256(partial / DATA))
        shutil.rmtree(place, ignore_errors=True)
        partial.rename(place)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another machine was faster
            free_mib = shutil.disk_usage(place.parent).free / 2**20
            raise UserError(
                f"cannot write to {place.parent} ({free_mib:.0f} MiB free): {error}\n"
                "  make room and run the same command again"
            ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(
    path: Path,
    rows: Sequence[TrainingRow],
    tokenizer: Any,
    config: FinetuneConfig,
    instructions: str,
) -> None:
    from datasets import Features, List, Value
    from datasets.arrow_writer import ArrowWriter

    features = Features(
        {"row": Value("int32"), "input_ids": List(Value("int32")), "scored": List(Value("bool"))}
    )
    made = sequences(
        rows,
        tokenizer,
        instructions=instructions,
        template_options=config.chat_template_options,
        loss=config.loss,
        chat_template=config.chat_template,
    )
    with ArrowWriter(path=str(path), features=features) as writer:
        for number, of_row in enumerate(made):
            for each in of_row:
                scored = [label != IGNORED for label in each["labels"]]
                writer.write({"row": number, "input_ids": each["input_ids"], "scored": scored})
        writer.finalize()


def _file_sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().encode()


def _forget(folder: Path) -> None:
    """Delete all but the data sets that were used last; who reads one still can."""

    def used(path: Path) -> float:
        with suppress(FileNotFoundError):
            return path.stat().st_mtime
        return 0.0

    for old in sorted((p for p in folder.iterdir() if p.is_dir()), key=used)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
