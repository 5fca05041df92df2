"""Code that runs at each start of Python is listed with the package that brought it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pipelines.governance.installed import executable_pth


def install(folder: Path, name: str, pth: str, text: str) -> None:
    """A distribution whose list of files has a `.pth` file."""
    (folder / pth).write_text(text, encoding="utf-8")
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "RECORD").write_text(f"{pth},,\n{about.name}/METADATA,,\n{about.name}/RECORD,,\n")


def test_a_planted_file_has_no_owner(tmp_path: Path) -> None:
    install(tmp_path, "honest", "honest.pth", "# a path and a comment\n/srv/code\n")
    install(tmp_path, "shim", "shim.pth", "/srv/code\nimport os; os.getcwd()\n")
    marker = tmp_path / "ran"
    code = f"import pathlib; pathlib.Path({str(marker)!r}).touch()"
    (tmp_path / "litellm_init.pth").write_text(f"{code}\n")
    found = [(Path(each.file).name, each.line, each.owner) for each in executable_pth([tmp_path])]
    assert found == [("litellm_init.pth", 1, None), ("shim.pth", 2, "shim 1.0")]
    assert not marker.exists(), "looking must not run it"
    # The same lines are those that Python runs.
    run = f"import site; site.addsitedir({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-S", "-c", run], check=True)
    assert marker.exists()


def test_nobody_planted_anything_here() -> None:
    assert [each for each in executable_pth() if each.owner is None] == []
