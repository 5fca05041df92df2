"""What the environment runs at each start of Python, and which package brought it.

As a program it ends with 4 when no package brought one of the lines.
"""

from __future__ import annotations

import site
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from pipelines.core.progress import say
from pipelines.core.records import Record


class StartupLine(Record):
    """A line of a `.pth` file that is executed whenever Python starts."""

    file: str
    line: int
    """From 1."""
    code: str
    owner: str | None
    """`name version` of the distribution that installed the file; None = nobody says so."""


def executable_pth(folders: Iterable[Path] | None = None) -> list[StartupLine]:
    """Lines of `.pth` files that are code, in the order in which Python runs them.

    A stealer hides there well: it runs without being imported by anybody. What nobody owns did not
    come with a package; what is owned is worth a look all the same.

    Args:
        folders: where Python looks for them; None = those of this interpreter.
    """
    where = _site_folders() if folders is None else list(folders)
    owners = _owners(where)
    return [
        StartupLine(file=str(path), line=number, code=line, owner=owners.get(path.resolve()))
        for folder in where
        for path in sorted(folder.glob("*.pth"))
        for number, line in enumerate(_lines(path), start=1)
        if line.startswith(("import ", "import\t"))  # as site.py tells code from a path
    ]


def _site_folders() -> list[Path]:
    own = [Path(each) for each in (*site.getsitepackages(), site.getusersitepackages())]
    return [each for each in dict.fromkeys(own) if str(each) in sys.path]


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8-sig", errors="replace").splitlines()


def _owners(folders: Iterable[Path]) -> dict[Path, str]:
    """`.pth` file -> the distribution whose list of files has it."""
    return {
        Path(str(each.locate_file(file))).resolve(): f"{each.name} {each.version}"
        for each in metadata.distributions(path=[str(folder) for folder in folders])
        for file in each.files or ()
        if file.suffix == ".pth"
    }


if __name__ == "__main__":
    planted = [each for each in executable_pth() if each.owner is None]
    for each in planted:
        say(f"{each.file}:{each.line}: runs at each start of Python, and no package owns it")
    sys.exit(4 if planted else 0)
