"""MBPP (Austin et al. 2021), `mbpp.jsonl`: write a Python function from one sentence."""

from __future__ import annotations

import ast
import re
import warnings
from pathlib import Path
from typing import Any

from pipelines.data.formats import Rows, converted, json_lines

SPLITS = {"test": range(11, 511), "val": range(511, 601), "train": range(601, 975)}
"""Task ids, as published; 1 to 10 are prompts."""


def rows(path: Path, split: str) -> Rows:
    """Tasks; target = the reference solution, its tests are in the metadata and not shown."""
    for place, row in converted(json_lines(path), _row):
        if isinstance(row, str) or int(row["id"]) in SPLITS[split]:
            yield place, row


def _row(raw: dict[str, Any]) -> dict[str, Any]:
    code = raw["code"].replace("\r\n", "\n").strip()
    tests, setup = raw["test_list"], raw["test_setup_code"]
    used = set(re.findall(r"\w+", "\n".join([*tests, setup])))
    given, entry_point = "", ""
    with warnings.catch_warnings(action="ignore"):  # of escapes such as "\d"
        tree = ast.parse(code)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in used:
            given += f"{ast.unparse(node)}\n\n"  # the tests make such objects
        elif isinstance(node, ast.FunctionDef) and node.name in used:
            entry_point = node.name
            given += f"def {node.name}({ast.unparse(node.args)}):\n    ...\n"
    if not entry_point:
        raise ValueError("its tests call no function of its code")
    task = f"{raw['text'].strip()}\n\n```python\n{given.rstrip()}\n```"
    return {
        "id": str(int(raw["task_id"])),
        "messages": [{"role": "user", "content": task}],
        "target": f"```python\n{code}\n```",
        "metadata": {"tests": tests, "setup": setup, "entry_point": entry_point},
    }
