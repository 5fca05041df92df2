"""What base and adapter say in-process: the measure of the model that is served."""

from __future__ import annotations

import fcntl
import hashlib
import heapq
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from pipelines.core import offline
from pipelines.core.errors import DataError, ServerError
from pipelines.core.paths import ROOT, cache_dir
from pipelines.core.progress import say
from pipelines.core.records import Record, TrainingRow
from pipelines.core.results import ReferenceAnswer
from pipelines.training.chat_rows import render, with_instructions

N_LIKELIEST = 20
"""Tokens noted at each place; the most that vLLM tells of."""
N_TRIED = 50
"""Rows looked at for each prompt wanted; long ones do not fit."""
ANSWERS = TypeAdapter(tuple[ReferenceAnswer, ...])


class Job(Record):
    """What the answers depend on, and where it lies."""

    base_dir: Path
    adapter_dir: Path | None
    """None = render the prompts, and load no model."""
    rows_path: Path
    """The training split, JSON Lines."""
    weights: tuple[str, ...]
    """Digests of what lies in these places; the places themselves do not count."""
    instructions: str
    chat_template_options: dict[str, bool]
    n_prompts: int
    max_prompt_tokens: int
    max_new_tokens: int
    dtype: Literal["float32", "bfloat16"]

    @property
    def digest(self) -> str:
        """Equal digests mean equal answers."""
        plain = self.model_copy(update={"base_dir": Path(), "rows_path": Path()})
        with_adapter = None if self.adapter_dir is None else Path()
        return plain.model_copy(update={"adapter_dir": with_adapter}).sha256


def reference_answers(job: Job) -> tuple[ReferenceAnswer, ...]:
    """Answers of the base with its adapter; computed once per job, then read from the cache.

    Another process computes them: when it has ended, the memory of the GPU is free for the server.
    So this must be called before the server starts. The base is taken as it lies there, also where
    the adapter was trained on one in 4 bits: that is what is served.

    Raises:
        DataError: no training prompt is short enough.
        ServerError: the process failed; with the end of what it wrote.
    """
    path = cache_dir() / f"reference-{job.digest[:16]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            say("parity: asking base and adapter in-process")
            _compute_apart(job, path)
    return ANSWERS.validate_json(path.read_bytes())


def compute(job: Job) -> tuple[ReferenceAnswer, ...]:
    """The same in this process, not cached."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(job.base_dir)
    prompts = list(_prompts(job, tokenizer))
    if not prompts:
        raise DataError(
            f"parity: of {job.n_prompts * N_TRIED} training prompts none has at most "
            f"{job.max_prompt_tokens} tokens; raise serve.max_model_len, or lower "
            "serve.parity.max_new_tokens"
        )
    if job.adapter_dir is None:
        return tuple(prompts)
    model = _load(job)
    ends = _ends(tokenizer, model)
    return tuple(_answer(model, tokenizer, prompt, ends, job.max_new_tokens) for prompt in prompts)


def _prompts(job: Job, tokenizer: Any) -> Iterator[ReferenceAnswer]:
    """The first prompts that fit, in the order of their rows' digests; each one once."""
    seen: set[tuple[int, ...]] = set()
    with job.rows_path.open("rb") as lines:
        chosen = heapq.nsmallest(
            job.n_prompts * N_TRIED, lines, key=lambda line: hashlib.sha256(line).digest()
        )
    for line in chosen:
        row = TrainingRow.model_validate_json(line)
        messages = with_instructions(row.messages[:-1], job.instructions)
        text = render(messages, tokenizer, job.chat_template_options)
        ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        if len(ids) <= job.max_prompt_tokens and ids not in seen:
            seen.add(ids)
            yield ReferenceAnswer(messages=messages, prompt_ids=ids)
        if len(seen) == job.n_prompts:
            return


def _load(job: Job) -> Any:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base: Any = AutoModelForCausalLM.from_pretrained(
        job.base_dir,
        dtype=getattr(torch, job.dtype),
        device_map="auto" if torch.cuda.is_available() else None,
        use_safetensors=True,
    )
    return PeftModel.from_pretrained(base, str(job.adapter_dir)).eval()


def _ends(tokenizer: Any, model: Any) -> set[int]:
    """Tokens that end a turn."""
    also = model.generation_config.eos_token_id if model.generation_config else None
    listed = also if isinstance(also, list) else [also]
    return {token for token in [tokenizer.eos_token_id, *listed] if token is not None}


def _answer(
    model: Any, tokenizer: Any, prompt: ReferenceAnswer, ends: set[int], max_new_tokens: int
) -> ReferenceAnswer:
    import torch

    tokens: list[int] = []
    likeliest: list[dict[int, float]] = []
    past, shown = None, list(prompt.prompt_ids)
    with torch.inference_mode():
        while len(tokens) < max_new_tokens and not (tokens and tokens[-1] in ends):
            ids = torch.tensor([shown], device=model.device)
            out = model(input_ids=ids, past_key_values=past, use_cache=True)
            logprobs = out.logits[0, -1].float().log_softmax(-1)
            top = logprobs.topk(min(N_LIKELIEST, len(logprobs)))
            likeliest.append(dict(zip(top.indices.tolist(), top.values.tolist(), strict=True)))
            tokens.append(int(top.indices[0]))
            past, shown = out.past_key_values, tokens[-1:]
        with model.disable_adapter():
            ids = torch.tensor([[*prompt.prompt_ids, *tokens]], device=model.device)
            before = model(input_ids=ids).logits[0, -len(tokens) - 1 : -1]
        base = before.float().log_softmax(-1)[list(range(len(tokens))), tokens]
    return prompt.model_copy(
        update={
            "token_ids": tuple(tokens),
            "text": tokenizer.decode(tokens),
            "likeliest": tuple(likeliest),
            "base_logprobs": tuple(base.tolist()),
        }
    )


def _compute_apart(job: Job, path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.training.reference_answers", str(path)]
    done = subprocess.run(
        command,
        input=job.model_dump_json(),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **offline.CLOSED},
    )
    if done.returncode == DataError.exit_code:
        raise DataError(done.stderr.strip().splitlines()[-1])
    if done.returncode != 0:
        tail = "\n".join(f"    {line}" for line in done.stderr.strip().splitlines()[-10:])
        raise ServerError(f"parity: base and adapter do not answer in-process:\n{tail}")


def main() -> int:
    """Read a job from stdin, write its answers to the file that is named, whole or not at all."""
    path = Path(sys.argv[1])
    try:
        answers = compute(Job.model_validate_json(sys.stdin.read()))
    except DataError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    partial = path.with_suffix(".partial")
    partial.write_bytes(ANSWERS.dump_json(answers))
    partial.rename(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
