"""How public data sets lie on disk. To add one, add one file here.

`formats/clinc150.py` with `SPLITS`, the names of its splits, and `rows(path, split)` makes
`format: clinc150` valid in a source. `rows` yields pairs of place and row: the place says where a
bad row stands, the row has the keys of an `Example` (`context`, if any, holds the passages that
answer it), or is a text that says what is wrong with it. `passages(path)`, pairs of place and
`Passage` in the same way, makes the format valid in `retrieval`, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from pipelines.core.errors import DataError
from pipelines.core.paths import shown
from pipelines.core.plugins import Folder

FOLDER = Folder(__name__, "format")
names = FOLDER.names
Rows = Iterator[tuple[str, dict[str, Any] | str]]
"""Place, and the row or what is wrong with it."""
MAX_LINE_BYTES = 16 * 1024**2
"""Of a row; a longer one is no conversation, and reading it would fill the memory."""
T = TypeVar("T")


class Format(Protocol):
    """What a file of this package looks like."""

    SPLITS: Collection[str]

    def rows(self, path: Path, split: str) -> Rows:
        """Rows of one split.

        Raises:
            DataError: a file is absent, cannot be read, or has another structure.
        """
        ...


class HasPassages(Protocol):
    """What a format has whose passages can be searched."""

    def passages(self, path: Path) -> Rows:
        """Passages of all splits, each once, in the shape of `Passage`."""
        ...


def load(name: str) -> Format:
    """Import `pipelines.data.formats.<name>`.

    Raises:
        ConfigError: there is no such file.
    """
    return cast(Format, FOLDER.load(name))


def converted(raw_rows: Iterable[tuple[str, Any]], row_of: Callable[[Any], dict[str, Any]]) -> Rows:
    """Each raw row as `row_of` makes it, or what `row_of` missed in it."""
    for place, raw in raw_rows:
        try:
            yield place, raw if isinstance(raw, str) else row_of(raw)
        except KeyError as error:
            yield place, f"has no {error}"
        except (TypeError, ValueError, AttributeError, IndexError, SyntaxError) as error:
            yield place, f"is not as this format has it: {error}"


def read_text(path: Path) -> str:
    """Text of a file.

    Raises:
        DataError: it is absent, or no UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{shown(path)}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{shown(path)}: cannot be read as UTF-8 text: {error}") from None


def read_json(path: Path, kind: type[T]) -> T:
    """The one value of a JSON file.

    Raises:
        DataError: the file is absent, not JSON, or its value is not of `kind`.
    """
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{shown(path)}: line {error.lineno}: not valid JSON: {error.msg}"
        ) from None
    except RecursionError:
        raise DataError(f"{shown(path)}: not valid JSON: nested too deeply") from None
    if not isinstance(value, kind):
        raise DataError(
            f"{shown(path)}: expected a JSON {kind.__name__}, got {type(value).__name__}"
        )
    return value


def text_lines(path: Path) -> Iterator[str]:
    """Lines of a file, only one of them in memory; an end of another kind becomes a newline.

    Raises:
        DataError: the file is absent, or no UTF-8 text, or a line is longer than `MAX_LINE_BYTES`.
    """
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if 4 * len(line) > MAX_LINE_BYTES and len(line.encode()) > MAX_LINE_BYTES:
                    raise DataError(
                        f"{shown(path)}: line {number}: longer than {MAX_LINE_BYTES:,} bytes; "
                        "leave it out"
                    )
                yield line
    except FileNotFoundError:
        raise DataError(f"{shown(path)}: no such file") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{shown(path)}: cannot be read as UTF-8 text after line {number}: {error.reason}"
        ) from None
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read: {error}") from None


def json_lines(path: Path) -> Rows:
    """Objects of a JSON Lines file, each with its line; blank lines are left out.

    Raises:
        DataError: as `text_lines`.
    """
    for number, line in enumerate(text_lines(path), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line.removesuffix("\n"))
        except json.JSONDecodeError as error:
            value = f"not valid JSON: {error.msg} at column {error.colno}"
        except RecursionError:
            value = "not valid JSON: nested too deeply"
        except ValueError as error:  # a number of thousands of digits
            value = f"not valid JSON: {error}"
        else:
            value = value if isinstance(value, dict) else "expected a JSON object"
        yield f"line {number}", value
