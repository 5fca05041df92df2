"""Exit codes and what goes to stdout and stderr."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.core.paths import ROOT

COMMANDS = sorted(path.stem for path in (ROOT / "pipelines").glob("[!_]*.py"))


def command(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *args], capture_output=True, text=True, cwd=ROOT, check=False
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_is_read_and_written_and_imports_nothing_heavy(name: str) -> None:
    code = (
        "import runpy, sys; sys.argv = ['x', '--help']\n"
        "try: runpy.run_module(f'pipelines." + name + "', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'mlflow', 'torch', 'transformers', 'sklearn', 'scipy', 'aiohttp', 'altair'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert "Reads: " in done.stdout
    assert "Writes:" in done.stdout
    assert "HEAVY []" in done.stdout


def test_the_package_lists_its_commands() -> None:
    done = command("pipelines")
    assert done.returncode == 0
    for name in COMMANDS:
        assert f"python -m pipelines.{name}" in done.stdout


def test_a_wrong_study_is_one_message_without_traceback_and_exit_2(tmp_path: Path) -> None:
    done = command("pipelines.prepare", str(tmp_path / "no.yaml"))
    assert done.returncode == 2
    assert "no such file" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_json_is_exactly_one_object_on_stdout(small_study: Path, store_uri: str) -> None:
    done = command("pipelines.run", str(small_study), "--tracking-uri", store_uri, "--json")
    assert done.returncode == 0, done.stderr
    decision = json.loads(done.stdout)
    assert decision["incumbent"] == "frontier"
    assert decision["simulated"] == ["frontier"]


def test_a_dry_run_plans_and_writes_no_run(small_study: Path, store_uri: str) -> None:
    import mlflow

    done = command("pipelines.run", str(small_study), "--tracking-uri", store_uri, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "evaluate tfidf-logreg" in done.stdout
    assert "SIMULATED" in done.stdout
    assert "estimated total" in done.stdout
    assert mlflow.search_runs(search_all_experiments=True, output_format="list") == []
