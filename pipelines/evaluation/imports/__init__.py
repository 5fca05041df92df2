"""How answers that were given elsewhere are read. To add a format, add one file here.

`imports/acme.py` with `TITLE`, `detects(head, path) -> bool` and `read(path) -> Iterator[Row]`
makes files of that format valid in a candidate's `recorded`. The file name is the registration;
exactly one format may say that a file is its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, NamedTuple, Protocol, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipelines.core.errors import DataError
from pipelines.core.json_lines import first_problem
from pipelines.core.paths import shown
from pipelines.core.plugins import Folder
from pipelines.core.records import Outcome, Record, Usage

FOLDER = Folder(__name__, "format of recorded answers")
names = FOLDER.names
MAX_FILE_BYTES = 2 * 1024**3
"""Of a file, and of all that is packed in it."""
MAX_DOCUMENT_BYTES = 512 * 1024**2
"""Of one JSON document, which is held in memory as a whole."""
HEAD_BYTES = 65536
"""What a format sees of a file to know it by."""

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class RecordedAnswer(Record):
    """One answer; what is not known is left out, and stays unknown."""

    id: str
    """Of the item; with `evaluate.n_samples`, `ID#0`, `ID#1` and so on."""
    text: str | None = None
    error: str | None = None
    """Why there is no text."""
    outcome: Outcome | None = None
    """None = `answered` with a text, `failed` without."""
    usage: Usage | None = None
    """Without it the candidate has no cost, and cannot be chosen."""
    model: str | None = None
    finish_reason: str | None = None
    latency_s: Seconds | None = None
    """Without it the candidate has no latency, and cannot be chosen."""
    ttft_s: Seconds | None = None
    mean_logprob: Annotated[float, Field(le=0, allow_inf_nan=False)] | None = None
    """Natural logarithm of the probability of a token, mean over the answer's tokens."""
    scores: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    """What the other harness scored, for the metric `recorded_score`."""

    @model_validator(mode="after")
    def _text_or_error(self) -> Self:
        if (self.text is None) == (self.error is None):
            raise ValueError("needs either text or error")
        return self


class Row(NamedTuple):
    """One answer and what the file says around it."""

    place: str
    """Where it stands, such as `line 7`."""
    answer: RecordedAnswer
    variant: str = ""
    """Whose it is, where a file may hold several answers to one item: model, prompt or filter."""
    other_id: str | None = None
    """Another id of the item, for eval sets in which no `answer.id` is found."""
    n_left_out: int = 0
    """Scores that are no numbers in [0, 1]."""


class Foreign(BaseModel):
    """What another program wrote: keys that we do not use are passed over."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", allow_inf_nan=False, protected_namespaces=(),
        use_attribute_docstrings=True, defer_build=True,
    )  # fmt: skip


class Format(Protocol):
    """What a file in this package looks like."""

    TITLE: str
    """For the progress line."""

    def detects(self, head: bytes, path: Path) -> bool:
        """True when a file that begins with `head` is of this format."""
        ...

    def read(self, path: Path) -> Iterator[Row]:
        """The answers in the file.

        Raises:
            DataError: it is broken; says the line or the member.
        """
        ...


ForeignT = TypeVar("ForeignT", bound=Foreign)


def load(name: str) -> Format:
    """Import `pipelines.evaluation.imports.<name>`."""
    return cast(Format, FOLDER.load(name))


def detect(path: Path) -> Format:
    """The format of a file, by its first bytes.

    Raises:
        DataError: the file cannot be read, is too large, or is of no known format.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        n_bytes = path.stat().st_size
    except OSError as error:
        raise DataError(f"{shown(path)}: recorded answers cannot be read: {error}") from None
    if n_bytes > MAX_FILE_BYTES:
        raise DataError(f"{shown(path)}: {n_bytes} bytes; at most {MAX_FILE_BYTES} are read")
    formats = [load(name) for name in names()]
    for each in formats:
        if each.detects(head, path):
            return each
    raise DataError(
        f"{shown(path)}: recorded answers in no known format; known are "
        + ", ".join(each.TITLE for each in formats)
    )


def parse(raw: bytes, record_type: type[ForeignT], where: str) -> ForeignT:
    """One JSON document.

    Raises:
        DataError: it is broken; `where` names it.
    """
    try:
        return record_type.model_validate_json(raw)
    except ValidationError as error:
        raise DataError(f"{where}: {first_problem(error)}") from None


def read_document(path: Path, record_type: type[ForeignT]) -> ForeignT:
    """A file that is one JSON document.

    Raises:
        DataError: it cannot be read, is too large, or is broken.
    """
    try:
        if (n_bytes := path.stat().st_size) > MAX_DOCUMENT_BYTES:
            raise DataError(
                f"{shown(path)}: {n_bytes} bytes; at most {MAX_DOCUMENT_BYTES} are read as one"
            )
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{shown(path)}: recorded answers cannot be read: {error}") from None
    return parse(raw, record_type, shown(path))


def usage_of(
    input_tokens: int | None,
    output_tokens: int | None,
    cached: int | None,
    reasoning: int | None,
    written: int | None = None,
    written_1h: int | None = None,
) -> Usage | None:
    """Tokens of a call; None unless both counts were stated, and the parts fit into them.

    Args:
        input_tokens: all of the prompt, cached and written ones included; never zero.
        output_tokens: all that was generated, reasoning included.
        cached: part of the prompt.
        reasoning: part of what was generated.
        written: part of the prompt, to a cache.
        written_1h: part of `written`, to a cache that lives for an hour.
    """
    if not input_tokens or output_tokens is None:
        return None
    try:
        return Usage(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cached_input_tokens=cached or 0,
            cache_write_5m_tokens=(written or 0) - (written_1h or 0),
            cache_write_1h_tokens=written_1h or 0,
            reasoning_tokens=reasoning or 0,
        )
    except ValidationError:
        return None


def kept_scores(values: Mapping[str, object]) -> tuple[dict[str, float], int]:
    """The values that are numbers in [0, 1] or true or false, and how many are not."""
    kept = {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and 0 <= value <= 1
    }
    return kept, len(values) - len(kept)
