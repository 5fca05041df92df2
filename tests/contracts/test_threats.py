"""The list of threats: all twenty are there, and each names files and tests that exist and run."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from pipelines.core.paths import ROOT

PAGE = ROOT / ".github" / "SECURITY.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
FILE = re.compile(r"`((?:pipelines|scripts|configs|tests)/[\w./-]+)(?:::\w+)?`")
NOT_BY_DEFAULT = frozenset({"slow", "network", "gpu", "skip"})
"""Marks of tests that `scripts/test` leaves out."""


def rows(page: str) -> dict[int, str]:
    """Number of a threat -> its row.

    Raises:
        ValueError: a number stands there twice.
    """
    found: dict[int, str] = {}
    for line in page.splitlines():
        if number := re.match(r"\| (\d+) \|", line):
            if int(number[1]) in found:
                raise ValueError(f"two rows have the number {number[1]}")
            found[int(number[1])] = line
    return found


@cache
def marks_by_test(path: str) -> dict[str, set[str]]:
    """Names of the tests of a file, with their marks; no file has none."""
    file = ROOT / path
    if not file.is_file():
        return {}
    tree = ast.parse(file.read_text(encoding="utf-8"))
    of_file = [
        each.value
        for each in tree.body
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "pytestmark"
    ]
    return {
        each.name: {
            mark
            for node in (*each.decorator_list, *of_file)
            for mark in re.findall(r"pytest\.mark\.(\w+)", ast.unparse(node))
        }
        for each in tree.body
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
        and each.name.startswith("test_")
    }


def problems(page: str) -> list[str]:
    """What is wrong with the page."""
    table = rows(page)
    found = [f"{number} is missing" for number in range(1, 21) if number not in table]
    found += [f"{number} is none of the twenty" for number in table if not 1 <= number <= 20]
    for number, row in table.items():
        _, _, threat, defence, _, _ = (cell.strip() for cell in row.split("|"))
        named = TEST.findall(row)
        if not threat or not FILE.search(defence):
            found.append(f"{number} names no file that stands against it")
        run = [each for each in named if not marks_of(*each) & NOT_BY_DEFAULT]
        if not run:
            found.append(f"{number} names no test that runs by default")
    found += [f"{path}::{name} is no test" for path, name in TEST.findall(page)
              if name not in marks_by_test(path)]  # fmt: skip
    found += [f"{path} is no file" for path in FILE.findall(page) if not (ROOT / path).is_file()]
    return found


def marks_of(path: str, name: str) -> set[str]:
    return marks_by_test(path).get(name, {"skip"})


def test_every_threat_has_tests_that_exist() -> None:
    assert problems(PAGE.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("pattern", "by", "said"),
    [
        (r"\n\| 7 \|[^\n]*", "", "7 is missing"),
        (r"\n\| 20 \|", "\n| 21 |", "21 is none of the twenty"),
        ("::test_floods_end", "::test_floods", "test_sandbox.py::test_floods is no test"),
        ("tests/core/test_json_lines", "tests/core/test_jsonlines", "is no test"),
        ("pipelines/governance/trail.py", "pipelines/governance/log.py", "log.py is no file"),
        (r"`tests/governance/test_trail[^|]*", "none ", "17 names no test that runs by default"),
        (r"\(`pipelines/governance/trail.py`\)", "", "17 names no file that stands against it"),
    ],
)
def test_a_hole_in_the_list_is_found(pattern: str, by: str, said: str) -> None:
    page, n = re.subn(pattern, by, PAGE.read_text(encoding="utf-8"), count=1)
    assert n == 1
    assert any(each.endswith(said) for each in problems(page))


def test_a_test_that_is_left_out_by_default_is_not_enough() -> None:
    marked = "tests/network/test_real.py"
    assert all(marks & NOT_BY_DEFAULT for marks in marks_by_test(marked).values())
    assert marks_by_test(marked)
