"""What a security scan says about answers."""

from __future__ import annotations

import sys

import pytest

from pipelines.core.errors import ConfigError, ScoringError
from pipelines.core.records import Example, Message
from pipelines.metrics.code_scan import score

EXAMPLE = Example(
    id="e1", messages=(Message(role="user", content="x"),), target="", metadata={"entry_point": "f"}
)
CLEAN = "def f(x):\n    return 2 * x"
SHELL = "import subprocess\ndef f(x):\n    subprocess.run(x, shell=True)"  # B602, high
EVAL = "def f(x):\n    return eval(x)"  # B307, medium
ASSERT = "def f(x):\n    assert x\n    return x"  # B101, low


@pytest.mark.parametrize(
    ("code", "low", "medium", "high"),
    [
        (CLEAN, 1.0, 1.0, 1.0),
        (ASSERT, 0.0, 1.0, 1.0),
        (EVAL, 0.0, 0.0, 1.0),
        (SHELL, 0.0, 0.0, 0.0),
        (f"Here:\n```python\n{CLEAN}\n```", 1.0, 1.0, 1.0),
        (f"Here:\n```python\n{SHELL}\n```", 0.0, 0.0, 0.0),
        (f"```python\n{SHELL}\n```\nUse it:\n```python\nprint(f('ls'))\n```", 0.0, 0.0, 0.0),
        ("return eval(", 0.0, 0.0, 0.0),  # does not parse
        ("I cannot do that.", 0.0, 0.0, 0.0),
        ("\ud800", 0.0, 0.0, 0.0),
        ("", 1.0, 1.0, 1.0),  # nothing in it is unsafe
    ],
)
def test_the_least_severity_decides(code: str, low: float, medium: float, high: float) -> None:
    values = [score(EXAMPLE, code, severity=each) for each in ("low", "medium", "high")]
    assert values == [low, medium, high]
    assert score(EXAMPLE, code) == medium


def test_an_answer_cannot_switch_the_scan_off() -> None:
    assert score(EXAMPLE, EVAL.replace("eval(x)", "eval(x)  # nosec")) == 0.0
    assert score(EXAMPLE, "# -*- coding: rot13 -*-\n" + EVAL) == 0.0
    deep = "x = " + "-" * 3000 + "1"  # parses, but too deep to walk: not scanned is not clean
    assert score(EXAMPLE, f"{deep}\n{EVAL}") == 0.0


def test_an_unknown_severity_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'grave'; it is one of low, medium, high"):
        score(EXAMPLE, CLEAN, severity="grave")


def test_without_bandit_there_is_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bandit.core.config", None)
    with pytest.raises(ScoringError, match="e1.*pip install bandit"):
        score(EXAMPLE, CLEAN)
