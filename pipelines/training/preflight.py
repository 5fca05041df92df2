"""Look at settings and training rows before a model is loaded; needs the tokenizer only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pipelines.core.errors import ConfigError, DataError
from pipelines.core.model_shape import TARGETS
from pipelines.core.progress import say
from pipelines.core.records import TrainingRow
from pipelines.core.results import TrainingRows
from pipelines.core.study import VLLM_MAX_RANKS, FinetuneConfig, LoraConfig
from pipelines.training import token_cache
from pipelines.training.chat_rows import IGNORED, quantile, render, template, with_instructions

SERVED_INITS = ("default", "gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Beginnings of an adapter that leave the base as it is; vLLM 0.32 refuses the others."""
N_EXAMPLES = 3
N_COMPARED = 100
"""Rows whose text is compared with the server's where training has a template of its own."""
SHOWN = 160
"""Characters of each run of an example that are printed, half of them from its end."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


def preflight(
    base_dir: Path,
    rows: Sequence[TrainingRow],
    config: FinetuneConfig,
    instructions: str,
    cache: Path | None = None,
) -> TrainingRows:
    """Refuse what would cost a training, show three rows with what is learned, and count tokens.

    Args:
        base_dir: Hugging Face folder of the base; its weights are not read.
        rows: to train on.
        config: of the training.
        instructions: system prompt of the rows; empty = none.
        cache: where the training will look for the tokens; None = they are not kept.

    Raises:
        ConfigError: vLLM would not serve the adapter, or rows may be longer than the base can read.
        DataError: rows are too long, nothing or everything would be learned, the end of a turn
            would not, or the server would render another text.
    """
    from transformers import AutoTokenizer  # 2 s

    check_adapter(config.lora)
    check_context(base_dir, config.max_tokens_per_row)
    tokenizer: Any = AutoTokenizer.from_pretrained(base_dir)
    check_template(tokenizer, rows, config, instructions)
    with TemporaryDirectory() as own:
        sequences = token_cache.tokens(
            rows, base_dir, tokenizer, config, instructions, cache or Path(own)
        )
    check_scored(sequences, tokenizer.eos_token_id)
    for at in sorted({0, len(sequences) // 2, len(sequences) - 1})[:N_EXAMPLES]:
        say(f"finetune: learned is what stands in ⟦⟧: {marked(sequences[at], tokenizer)}")
    return TrainingRows(
        n_rows=len(rows),
        n_sequences=len(sequences),
        n_tokens=int(sequences.lengths.sum()),
        n_scored_tokens=sequences.n_scored_tokens,
        longest=int(sequences.lengths.max()),
        p99_5=quantile(sequences.lengths.tolist(), 0.995),
        template_sha256=hashlib.sha256(tokenizer.chat_template.encode()).hexdigest(),
        tokenizer_sha256=_files_sha256(base_dir),
    )


def gpu_gib() -> float | None:
    """Memory of this machine's first GPU; None = it has none."""
    import torch

    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(0).total_memory / 2**30


def check_adapter(lora: LoraConfig) -> None:
    """Refuse an adapter that vLLM 0.32 would refuse after the training.

    Raises:
        ConfigError: says which setting, and what is served.
    """
    if lora.rank not in VLLM_MAX_RANKS:
        raise ConfigError(f"finetune.lora.rank: {lora.rank}: vLLM serves only {VLLM_MAX_RANKS}")
    if lora.targets != "all-linear" and (other := sorted(set(lora.targets) - set(TARGETS))):
        raise ConfigError(
            f"finetune.lora.targets: {', '.join(other)}: vLLM serves adapters on "
            f"{', '.join(TARGETS)}"
        )
    if lora.init not in SERVED_INITS:
        raise ConfigError(
            f"finetune.lora.init: {lora.init} changes the base's weights, and vLLM refuses such an "
            f"adapter; take one of {', '.join(SERVED_INITS)}"
        )
    if lora.dora:
        say(
            "finetune: lora.dora: vLLM serves such an adapter merged only: give the candidate "
            "`serving: {weights: merged}`"
        )


def check_context(base_dir: Path, max_tokens: int) -> None:
    """Refuse rows that the base cannot read.

    Raises:
        ConfigError: `max_tokens` exceeds what config.json says.
    """
    config = json.loads((base_dir / "config.json").read_text(encoding="utf-8"))
    longest = config.get("max_position_embeddings")
    if isinstance(longest, int) and max_tokens > longest:
        raise ConfigError(
            f"finetune.max_tokens_per_row: {max_tokens}, but the base reads no more than {longest} "
            "tokens (max_position_embeddings in its config.json)"
        )


def check_template(
    tokenizer: Any, rows: Sequence[TrainingRow], config: FinetuneConfig, instructions: str
) -> None:
    """Refuse templates that print another text in training than in serving.

    Raises:
        ConfigError: the base has no chat template.
        DataError: the end token is not what ends a turn, or the texts differ.
    """
    if not tokenizer.chat_template:
        raise ConfigError("finetune.base: its tokenizer has no chat template; take a chat model")
    if tokenizer.eos_token_id is None:
        raise DataError("finetune.base: its tokenizer has no end token: it could never be learned")
    if "strftime_now" in tokenizer.chat_template:
        say(
            "finetune: the base's chat template prints today's date: the server will render "
            "another one than these rows have"
        )
    options, name = config.chat_template_options, config.chat_template
    ours = None if name is None else template(name)
    for row in rows[:: max(1, len(rows) // N_COMPARED)]:
        turns = with_instructions(row.messages, instructions)
        served = render(turns[:-1], tokenizer, options)
        if ours is not None:
            trained = render(turns[:-1], tokenizer, options, chat_template=ours)
            _refuse_other_text(f"finetune.chat_template: {name}", trained, served)
        whole = render(turns, tokenizer, options, prompt=False, chat_template=ours)
        before, _, after = whole.rpartition(turns[-1].content.strip())
        if before and not after.startswith(tokenizer.eos_token):
            raise DataError(
                f"the chat template ends an answer with {after[:40]!r}, but the end token of the "
                f"base's tokenizer is {tokenizer.eos_token!r}: the end would never be learned. Set "
                "eos_token in the base's tokenizer_config.json to what ends a turn"
            )


def check_scored(sequences: Sequence[Mapping[str, Any]], end_token: int) -> None:
    """Refuse a mask with which the training would learn nothing, or too much.

    Raises:
        DataError: sequences without a scored token, with scored tokens only, or whose last answer
            ends without a scored end token; says how many.
    """
    empty = full = endless = 0
    for each in sequences:
        labels = np.asarray(each["labels"])
        scored = labels[labels != IGNORED]
        empty += not len(scored)
        full += len(scored) == len(labels)
        endless += scored[-1:].tolist() != [end_token]
    of = f"of {len(sequences)} training sequences"
    if empty:
        raise DataError(f"{empty} {of} have no token to learn: the mask of the answers is empty")
    if full:
        raise DataError(
            f"{full} {of} would be learned whole, prompt included: the chat template prints "
            "nothing before the answer, or marks everything as one"
        )
    if endless:
        raise DataError(
            f"in {endless} {of} the end of the last answer is not learned: the model would not stop"
        )


def marked(tokens: Mapping[str, Any], tokenizer: Any) -> str:
    """A sequence in one line, what is learned in ⟦⟧; long runs are cut in the middle."""
    parts: list[str] = []
    ids, labels = (np.asarray(tokens[name]).tolist() for name in ("input_ids", "labels"))
    pairs = zip(ids, labels, strict=True)
    for scored, run in groupby(pairs, key=lambda pair: pair[1] != IGNORED):
        text = _printable(tokenizer.decode([token for token, _ in run]))
        if len(text) > SHOWN:
            text = f"{text[: SHOWN // 2]} ... {text[-SHOWN // 2 :]}"
        parts.append(f"⟦{text}⟧" if scored else text)
    return "".join(parts)


def _printable(text: str) -> str:
    """Rows may hold what moves a terminal's cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _refuse_other_text(what: str, trained: str, served: str) -> None:
    if trained == served:
        return
    pairs = enumerate(zip(trained, served, strict=False))
    at = next((n for n, (a, b) in pairs if a != b), min(len(trained), len(served)))
    raise DataError(
        f"{what} prints {trained[at : at + 40]!r} where the base's own template, which the server "
        f"renders, prints {served[at : at + 40]!r} (character {at}); leave chat_template out, or "
        "name the one of this base"
    )


def _files_sha256(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in (folder / name for name in TOKENIZER_FILES):
        if path.exists():
            digest.update(f"{path.name}\n".encode() + path.read_bytes())
    return digest.hexdigest()
