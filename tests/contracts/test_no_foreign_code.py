"""Nothing in our source loads what may carry code: no pickle, no remote code, no unpacking."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.core.paths import ROOT

MODULES = frozenset({"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "tarfile"})
"""Their loaders run code, or write where an archive says."""
CALLS = frozenset(
    {"torch.load", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "shutil.unpack_archive",
     "os.system", "os.popen", "pandas.read_pickle", "numpy.load"}
)  # fmt: skip
METHODS = frozenset({"load_model", "extractall", "unpack_archive", "read_pickle"})
"""Of whatever object: `mlflow.pyfunc.load_model` and its kin unpickle."""
FLAGS = frozenset({"trust_remote_code", "allow_pickle", "shell"})
"""Arguments that only an explicit False may be given to."""
EXECUTES = frozenset({"eval", "exec", "__import__"})
IN_THE_SANDBOX = frozenset({"pipelines/sandbox/confine.py", "pipelines/sandbox/inside.py"})
"""Files that run generated code, confined: that is their purpose."""


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def findings(source: str, *, sandboxed: bool = False) -> Iterator[str]:
    """What of the above stands in a file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in MODULES:
                yield str(node.module)
            yield from (each.name for each in node.names if each.name in METHODS)
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            if name in CALLS or name.rpartition(".")[2] in METHODS:
                yield name
            if name in EXECUTES and not sandboxed:
                yield name
            for each in node.keywords:
                off = isinstance(each.value, ast.Constant) and each.value.value is False
                if each.arg in FLAGS and not off:
                    yield str(each.arg)
        elif isinstance(node, ast.Constant) and node.value == "--trust-remote-code":
            yield "--trust-remote-code"


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "import tarfile as t", "from joblib import load", "torch.load(p)",
        "yaml.load(t)", "mlflow.pyfunc.load_model(u)", "from mlflow.pyfunc import load_model",
        "archive.extractall(to)", "AutoModel.from_pretrained(d, trust_remote_code=True)",
        "f(trust_remote_code=ask)", "np.load(p, allow_pickle=True)", "run(c, shell=True)",
        "eval(answer)", "argv = ['--trust-remote-code']",
    ],
)  # fmt: skip
def test_each_way_is_seen(line: str) -> None:
    assert list(findings(line))


def test_our_source_has_none() -> None:
    found = [
        f"{name}: {what}"
        for path in sorted((ROOT / "pipelines").rglob("*.py"))
        for name in [path.relative_to(ROOT).as_posix()]
        for what in findings(path.read_text("utf-8"), sandboxed=name in IN_THE_SANDBOX)
    ]
    assert found == []
    assert all(Path(ROOT, each).is_file() for each in IN_THE_SANDBOX)
