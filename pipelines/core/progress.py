"""Progress on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Tell the progress display that `n` more units are done."""

    def __call__(self, n: int = 1, /, **figures: object) -> None:
        """Add `n` units; `figures` are shown beside the bar."""
        ...


def printable(text: str) -> str:
    """The text without what a terminal obeys or what turns the reading direction; lines stay."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def say(text: str) -> None:
    """One line for the person who waits; stdout stays free for results."""
    sys.stderr.write(f"{printable(text)}\n")
    sys.stderr.flush()


@contextmanager
def progress(label: str, total: int, unit: str) -> Generator[Advance]:
    """Show `label` advancing to `total` units; without a terminal, one line per fifth."""
    if sys.stderr.isatty():
        from tqdm import tqdm  # not above: `--help` has half a second

        with tqdm(total=total, desc=label, unit=unit, leave=False) as bar:

            def advance(n: int = 1, /, **figures: object) -> None:
                if figures:
                    bar.set_postfix_str(
                        ", ".join(f"{k} {v}" for k, v in figures.items()), refresh=False
                    )
                bar.update(n)

            yield advance
        return

    done, said = 0, 0

    def advance_plain(n: int = 1, /, **figures: object) -> None:
        nonlocal done, said
        done += n
        if (fifth := 5 * done // max(total, 1)) > said:
            said = fifth
            beside = "".join(f", {name} {value}" for name, value in figures.items())
            say(f"{label}: {done} of {total} {unit}{beside}")

    yield advance_plain
