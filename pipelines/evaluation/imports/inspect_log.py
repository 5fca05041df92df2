"""Logs of Inspect AI: `.json`, and `.eval`, which is a zip file with one JSON file per sample.

An answer's item is the sample's id; where the log has several epochs, `ID#0` is the first of them,
as `evaluate.n_samples` names it. Scores C, P and I are 1, 0.5 and 0; N, no answer, is no score.
Tokens and latency of a sample with one turn are those of its call. A sample with several turns has
the tokens of all its calls to the model, graders that use the same model included, and no latency.
Logarithms of probabilities are those of the last turn, which is the answer.
"""

from __future__ import annotations

import copy
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.core.errors import DataError
from pipelines.core.paths import shown
from pipelines.core.records import Usage
from pipelines.evaluation.imports import (
    MAX_DOCUMENT_BYTES,
    MAX_FILE_BYTES,
    Count,
    Foreign,
    ForeignT,
    RecordedAnswer,
    Row,
    Seconds,
    kept_scores,
    parse,
    read_document,
    usage_of,
)
from pipelines.providers.http import OUTCOMES, logprobs_of, mean_logprob

TITLE = "Inspect AI log"
GRADES = {"C": 1.0, "P": 0.5, "I": 0.0}
ZSTANDARD = 93
"""Number of the compression method; Python before 3.14 does not know it."""


class _Usage(Foreign):
    input_tokens: Count = 0
    """Without those in the two cache counts."""
    output_tokens: Count = 0
    input_tokens_cache_read: Count | None = None
    input_tokens_cache_write: Count | None = None
    reasoning_tokens: Count | None = None


class _Logprobs(Foreign):
    content: Any = None


class _Choice(Foreign):
    stop_reason: str = "unknown"
    logprobs: _Logprobs | None = None


class _Output(Foreign):
    model: str = ""
    choices: list[_Choice] = []
    completion: str = ""
    usage: _Usage | None = None
    time: Seconds | None = None
    error: str | None = None


class _Message(Foreign):
    role: str


class _Score(Foreign):
    value: Any = None


class _Error(Foreign):
    message: str


class _Limit(Foreign):
    type: str


class _Sample(Foreign):
    id: int | str
    epoch: Count = 1
    messages: list[_Message] = []
    output: _Output = _Output()
    scores: dict[str, _Score] | None = None
    model_usage: dict[str, _Usage] = {}
    error: _Error | None = None
    limit: _Limit | None = None


class _Config(Foreign):
    epochs: int | None = None


class _Eval(Foreign):
    model: str
    config: _Config = _Config()


class _Header(Foreign):
    eval: _Eval


class _Log(_Header):
    samples: list[_Sample] | None = None


def detects(head: bytes, path: Path) -> bool:
    """A zip file, or JSON whose first keys are `version`, `status` and `eval`."""
    start = rb'\s*\{(?:\s*"(?:version"\s*:\s*\d+|status"\s*:\s*"\w+")\s*,)*\s*"eval"\s*:\s*\{'
    return head.startswith(b"PK") or re.match(start, head) is not None


def read(path: Path) -> Iterator[Row]:
    """The answers in the log.

    Raises:
        DataError: it is broken, or unpacks to too much; names the member.
    """
    if zipfile.is_zipfile(path):
        yield from _packed(path)
        return
    log = read_document(path, _Log)
    for number, sample in enumerate(log.samples or []):
        yield _row(f"sample {number}", sample, log.eval)


def _packed(path: Path) -> Iterator[Row]:
    try:
        with zipfile.ZipFile(path) as archive:
            # A later member replaces an earlier one of the same name.
            members = {info.filename: info for info in archive.infolist()}
            # A log that was not finished has no header.
            header = members.get("header.json") or members.get("_journal/start.json")
            if header is None:
                raise DataError(f"{shown(path)}: no header.json in it: not an {TITLE}")
            samples = [i for name, i in members.items() if re.fullmatch(r"samples/.+\.json", name)]
            n_bytes = sum(info.file_size for info in (header, *samples))
            if n_bytes > MAX_FILE_BYTES:
                raise DataError(
                    f"{shown(path)}: unpacks to {n_bytes} bytes; at most {MAX_FILE_BYTES} are read"
                )
            ran = _parsed(path, archive, header, _Header).eval
            for info in samples:
                sample = _parsed(path, archive, info, _Sample)
                yield _row(f"member {info.filename!r}", sample, ran)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{shown(path)}: recorded answers cannot be read: {error}") from None


def _parsed(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, record_type: type[ForeignT]
) -> ForeignT:
    where = f"{shown(path)}: member {info.filename!r}"
    if info.file_size > MAX_DOCUMENT_BYTES:
        raise DataError(f"{where}: {info.file_size} bytes; at most {MAX_DOCUMENT_BYTES} are read")
    try:
        raw = _unpacked(archive, info)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
        raise DataError(f"{where}: cannot be unpacked: {error}") from None
    return parse(raw, record_type, where)


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The content of a member, never more than it says it has."""
    if info.compress_type != ZSTANDARD:
        with archive.open(info) as stream:
            return stream.read(info.file_size)
    import pyarrow  # not above: 0.2 s, and needed only here

    stored = copy.copy(info)
    stored.compress_type, stored.file_size = zipfile.ZIP_STORED, info.compress_size
    del stored.CRC  # it is that of the content; compared below
    with archive.open(stored) as packed, pyarrow.CompressedInputStream(packed, "zstd") as stream:
        raw = stream.read(info.file_size + 1)
    if zlib.crc32(raw) != info.CRC:
        raise zipfile.BadZipFile("its content is not what was packed")
    return raw


def _row(place: str, sample: _Sample, ran: _Eval) -> Row:
    values = {name: score.value for name, score in (sample.scores or {}).items()}
    scores, n_left_out = kept_scores(
        {k: GRADES.get(v, v) if isinstance(v, str) else v for k, v in values.items()}
    )
    several = (ran.config.epochs or 1) > 1
    id = f"{sample.id}#{sample.epoch - 1}" if several else str(sample.id)
    return Row(place, _answer(id, sample, ran.model, scores), ran.model, n_left_out=n_left_out)


def _answer(id: str, sample: _Sample, model: str, scores: dict[str, float]) -> RecordedAnswer:
    output = sample.output
    stop = output.choices[0].stop_reason if output.choices else None
    one_turn = sum(message.role == "assistant" for message in sample.messages) <= 1
    usage = output.usage if one_turn else sample.model_usage.get(model)
    text, error, outcome = None, None, None
    if sample.error is not None:
        error = sample.error.message
    elif stop is None:
        error = f"stopped at the limit: {sample.limit.type}" if sample.limit else "no output"
    elif stop == "model_length":  # the text is the server's complaint
        error, outcome = output.completion or stop, "context_length"
    else:
        text, outcome = output.completion, OUTCOMES.get(stop, "answered")
    said = output.choices[0].logprobs if output.choices and text is not None else None
    return RecordedAnswer(
        id=id,
        text=text,
        error=error,
        outcome=outcome,
        usage=_usage(usage),
        model=output.model or model,
        finish_reason=stop,
        latency_s=output.time if one_turn and text is not None else None,
        mean_logprob=mean_logprob(logprobs_of(said.content)) if said else None,
        scores=scores,
    )


def _usage(usage: _Usage | None) -> Usage | None:
    if usage is None:
        return None
    cached = usage.input_tokens_cache_read or 0
    written = usage.input_tokens_cache_write or 0
    prompt = usage.input_tokens + cached + written
    return usage_of(prompt, usage.output_tokens, cached, usage.reasoning_tokens, written)
