"""Hidden tests on answers: honest, wrong, and cheating."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.core.errors import ScoringError
from pipelines.core.records import Example, Message
from pipelines.metrics.code_tests import code_in, score
from pipelines.sandbox import Unavailable, confine, run

DOUBLE = "def f(x):\n    return 2 * x"


@pytest.fixture(autouse=True, scope="module")
def confined() -> None:
    try:
        run("")
    except Unavailable as reason:
        pytest.skip(f"no sandbox on this machine: {reason}")


def example(
    tests: Sequence[str], *, target: str = DOUBLE, setup: str = "", entry_point: str = "f"
) -> Example:
    return Example(
        id="e1",
        messages=(Message(role="user", content="Write f."),),
        target=target,
        metadata={"tests": list(tests), "setup": setup, "entry_point": entry_point},
    )


HIDDEN = example(["assert f(2) == 4", "assert f(5) == 10", "assert f('ab') == 'abab'"])


def returns(expression: str) -> str:
    return f"def f(x):\n    return {expression}"


def test_the_reference_passes_and_a_wrong_answer_does_not() -> None:
    assert score(HIDDEN, DOUBLE) == 1.0
    assert score(HIDDEN, "def f(x):\n    return x + x if x != 5 else 11") == 0.0  # one of three
    assert score(HIDDEN, returns("x + 2")) == 0.0
    assert score(HIDDEN, "def g(x): return 2 * x") == 0.0
    assert score(HIDDEN, "2 * x, of course") == 0.0
    assert score(HIDDEN, "") == 0.0
    assert score(HIDDEN, "def f(x):\x00\ud800") == 0.0


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (f"Here it is:\n```python\n{DOUBLE}\n```\nIt doubles.", 1.0),
        (f"```py\n{DOUBLE}\n```", 1.0),
        (f"```\n{DOUBLE}\n```", 1.0),
        (f"```python\r\n{DOUBLE}\r\n```".replace("\n", "\r\n"), 1.0),
        (f"- so:\n  ```python\n  {DOUBLE.replace(chr(10), chr(10) + '  ')}\n  ```", 1.0),
        (f"```python\n{DOUBLE}", 1.0),  # cut off after the code
        (f"```python\ndef f(x): return 1\n```\nBetter:\n```python\n{DOUBLE}\n```", 1.0),
        (f"```python\n{DOUBLE}\n```\nBetter:\n```python\ndef f(x): return 1\n```", 0.0),
        (f"```python\n{DOUBLE}\n```\nUse it:\n```python\nprint(f(2))\n```", 1.0),
        (f"```python\n{DOUBLE}\n```\n```bash\npip install f\n```\n```\noutput: 4\n```", 1.0),
    ],
)
def test_which_block_is_the_code(answer: str, value: float) -> None:
    assert score(HIDDEN, answer) == value


def test_without_an_entry_point_the_last_block_counts() -> None:
    assert code_in("```python\na = 1\n```\n```python\nb = 2\n```") == "b = 2\n"


CHEATS = {
    "os._exit at once": "import os; os._exit(0)",
    "os._exit in the test": "import os\ndef f(x): os._exit(0)",
    "sys.exit": "import sys\ndef f(x): sys.exit(0)",
    "sys.exit at once": "import sys; sys.exit(0)",
    "equal to all": (
        "class E:\n    def __eq__(self, other): return True\n    __hash__ = None\n"
        "def f(x): return E()"
    ),
    "an int equal to all": (
        "class E(int):\n    def __eq__(self, other): return True\n"
        "    def __repr__(self): return '4'\n    def __index__(self): return 4\n"
        "def f(x): return E()"
    ),
    "says it is an int": "class E:\n    __class__ = int\ndef f(x): return E()",
    "prints results": (
        "def f(x):\n    for k in range(9): print('0', k, 'value', '[\"int\", \"4\"]')\n"
        "    print('PASS'); return 0"
    ),
    "writes results to every file": (
        "import os\n"
        'for fd in range(64):\n    try: os.write(fd, b\'0 2 value ["int", "4"]\\n\')\n'
        "    except OSError: pass\ndef f(x): return 0"
    ),
    "patched json": (
        'import json\njson.dumps = lambda *a, **k: \'["int", "4"]\'\ndef f(x): return 0'
    ),
    "patched builtins": (
        "import builtins\nbuiltins.eval = lambda *a: 4\nbuiltins.type = lambda v: int\n"
        "builtins.issubclass = lambda *a: True\ndef f(x): return 0"
    ),
    "no assertions": "import builtins\nbuiltins.AssertionError = None\ndef f(x): return 0",
    "a patched harness": (
        "import sys\nframe = sys._getframe(1)\n"
        "frame.f_globals['encode'] = lambda v: ['int', '4']\ndef f(x): return 0"
    ),
    "the nonce from the frames": (
        "import sys, os\ndef f(x):\n    up = sys._getframe(2)\n"
        "    while 'nonce' not in up.f_locals: up = up.f_back\n"
        "    here = up.f_locals\n    for k in range(2, 5):\n"
        '        line = f\'{here["nonce"]} {k} value ["int", "4"]\\n\'\n'
        "        os.write(here['channel'], line.encode())\n    os._exit(0)"
    ),
    "everything it can see": (
        "import sys\ndef f(x):\n    up, seen = sys._getframe(), ''\n"
        "    while up: seen += repr(up.f_locals); up = up.f_back\n"
        "    return 4 if '== 4' in seen else None"
    ),
    "threads that end it": (
        "import threading, os, time\n"
        "def end():\n    time.sleep(0.05); os._exit(0)\n"
        "threading.Thread(target=end).start()\ndef f(x):\n    time.sleep(0.1); return 2 * x"
    ),
    "a deep answer": "def f(x):\n    a = []\n    for _ in range(900): a = [a]\n    return a",
    "an endless answer": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "a long answer": "def f(x): return [2**61 - 1 << k for k in range(20000)]",
}


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_gains_nothing(name: str) -> None:
    assert score(HIDDEN, CHEATS[name]) == 0.0


def test_what_is_expected_is_not_in_the_sandbox_of_the_answer() -> None:
    tests = [
        "assert f(1) == 98765432",
        "assert f(2) == sum([98765400, 32])",
        "assert 98765432 == f(3)",
    ]
    target = returns("98765432")
    spy = (  # looks for 98765432 and 98765400 in everything it can reach, its own text apart
        "import sys, gc\ndef f(x):\n    up, seen = sys._getframe(), repr(gc.get_objects())\n"
        "    while up: seen += repr(up.f_locals); up = up.f_back\n"
        "    wanted = int('49382716') * 2\n"
        "    return wanted if str(wanted) in seen or str(wanted - 32) in seen else 0"
    )
    assert score(example(tests, target=target), target) == 1.0
    assert [score(example([test], target=target), spy) for test in tests] == [0.0, 0.0, 0.0]
    weaker = example(["assert f(1) >= 98765432"], target=target)  # runs in there as a whole
    assert score(weaker, spy) == 1.0


@pytest.mark.parametrize(
    ("test", "returned", "value"),
    [
        ("assert f(1) == 0.1 + 0.2", "0.1 + 0.2", 1.0),
        ("assert f(1) == 0.3", "0.1 + 0.2", 0.0),
        ("assert f(1) == 1", "True", 1.0),  # as in Python
        ("assert f(1) == 1", "1.0", 1.0),
        ("assert f(1) == 1", "'1'", 0.0),
        ("assert f(1) == None", "None", 1.0),
        ("assert f(1) == None", "0", 0.0),
        ("assert f(1) == (1, 2)", "(1, 2)", 1.0),
        ("assert f(1) == (1, 2)", "[1, 2]", 0.0),
        ("assert f(1) == {1, 2, 3}", "{3, 2, 1}", 1.0),
        ("assert f(1) == {1, 2, 3}", "frozenset([3, 2, 1])", 1.0),
        ("assert f(1) == {'a': [1, (2, None)], 3: b'x'}", "{3: b'x', 'a': [1, (2, None)]}", 1.0),
        ("assert f(1) == {'a': 1}", "__import__('collections').Counter('a')", 1.0),
        ("assert f(1) == {'a'}", "{'a': 1}.keys()", 1.0),
        ("assert f(1) == float('nan')", "float('nan')", 0.0),
        ("assert f(1) == float('inf')", "float('inf')", 1.0),
        ("assert f(1) == 2 ** 20000", "2 ** 20000", 1.0),
        ("assert f(1) == 1 + 2j", "complex(1, 2)", 1.0),
        ("assert f(1) == 'é\\n\\ud800'", "chr(233) + chr(10) + chr(0xd800)", 1.0),
        ("assert f(1) == range(3)", "range(0, 3)", 1.0),
        ("assert f(1) == range(3)", "[0, 1, 2]", 0.0),
        ("assert f(1) == Decimal('0.5')", "__import__('decimal').Decimal('0.50')", 1.0),
        ("assert f(1) == Decimal(1)", "__import__('decimal').Decimal('sNaN')", 0.0),
        ("assert f(1) == Fraction(1, 2)", "0.5", 1.0),
        ("assert f(1) == date(2026, 2, 3)", "__import__('datetime').date(2026, 2, 3)", 1.0),
        ("assert f(1) == datetime(2026, 2, 3, 4)", "__import__('datetime').date(2026, 2, 3)", 0.0),
        ("assert f(1) == timedelta(days=1)", "__import__('datetime').timedelta(hours=24)", 1.0),
        ("assert f(1) == math.sqrt(2)", "2 ** 0.5", 1.0),
        ("assert 5 == f(1)", "5", 1.0),
        ("assert 5 == f(1)", "4", 0.0),
        ("assert sorted(f(1)) == [1, 2]", "{2, 1}", 1.0),
        ("assert f(1) == 2 and f(2) == 2, 'both'", "2", 1.0),
        ("assert f(1) == 1 and f(2) == 2", "1", 0.0),
        ("x = f(1)\nexpected = 3\nassert expected == x", "3", 1.0),
        ("x = f(1)\nexpected = 3\nassert expected == x", "2", 0.0),
        ("assert f(1) == f(2) == 7", "7", 1.0),
        ("assert f(1)", "[0]", 1.0),
        ("assert f(1)", "[]", 0.0),
        ("assert math.isclose(f(1), 0.3)", "0.1 + 0.2", 1.0),
        ("assert f(1) is None", "0", 0.0),
        ("assert f(1) != 3", "3", 0.0),
    ],
)
def test_values_are_compared_as_python_does(test: str, returned: str, value: float) -> None:
    imports = (
        "import math\nfrom decimal import Decimal\nfrom fractions import Fraction\n"
        "from datetime import date, datetime, timedelta"
    )
    item = example([test], target=returns("None"), setup=imports)
    assert score(item, returns(returned)) == value


def test_errors_that_a_test_expects() -> None:
    test = "try:\n    f(-1)\n    assert False\nexcept ValueError:\n    pass"
    item = example([test, "assert f(1) == 1"])
    right = "def f(x):\n    if x < 0: raise ValueError(x)\n    return x"
    assert score(item, right) == 1.0
    assert score(item, right.replace("ValueError", "KeyError")) == 0.0
    assert score(item, returns("x")) == 0.0


def test_setup_runs_after_the_answer_and_may_use_it() -> None:
    node = "class Node:\n    def __init__(self, v): self.v = v\ndef f(node): return node.v\n"
    item = example(
        ["assert f(root) == 7", "assert f(root) == math.floor(7.5)"],
        target=node,
        setup="import math\r\nroot = Node(7)",
    )
    assert score(item, node) == 1.0
    assert score(item, node.replace("return node.v", "return 8")) == 0.0
    assert score(item, "def f(node): return 7") == 0.0  # no Node: the setup fails


def test_a_constant_of_the_reference_may_be_expected() -> None:
    item = example(["assert f(1) == LIMIT"], target="LIMIT = 3\ndef f(x): return LIMIT")
    assert score(item, "LIMIT = 3\ndef f(x): return 3") == 1.0
    assert score(item, "LIMIT = 4\ndef f(x): return 4") == 0.0  # the reference says 3


def test_own_classes_are_compared_in_the_sandbox() -> None:
    point = "class P:\n    def __init__(self, x): self.x = x\n"
    equal = "    def __eq__(self, other): return self.x == other.x\n"
    item = example(["assert f(1) == P(1)"], target=point + equal + "def f(x): return P(x)")
    assert score(item, item.target) == 1.0
    assert score(item, point + equal + "def f(x): return P(x + 1)") == 0.0
    assert score(item, point + "def f(x): return P(x)") == 0.0  # two objects, no __eq__


def test_an_answer_that_does_not_end_is_wrong() -> None:
    assert score(HIDDEN, "def f(x):\n    while True: pass", timeout_s=1) == 0.0
    assert score(HIDDEN, DOUBLE + "\nimport threading\n"
                 "threading.Thread(target=threading.Event().wait).start()") == 1.0  # fmt: skip


def test_what_an_answer_prints_asks_or_demonstrates_does_not_matter() -> None:
    talkative = DOUBLE + "\nprint('x' * 10_000_000)\nif __name__ == '__main__':\n    f(input())"
    assert score(HIDDEN, talkative) == 1.0


def test_what_cannot_be_scored_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Example(id="e1", messages=(), target=DOUBLE)
    with pytest.raises(ScoringError, match=r"example e1 has none"):
        score(bare, DOUBLE)
    with pytest.raises(ScoringError, match=r"example e1.*must be texts"):
        score(bare.model_copy(update={"metadata": {"tests": [1]}}), DOUBLE)
    with pytest.raises(ScoringError, match=r"example e1.*`assert f\(` is no Python"):
        score(example(["assert f("]), DOUBLE)
    with pytest.raises(ScoringError, match=r"example e1.*f\(1\) == g\(1\).*NameError"):
        score(example(["assert f(1) == g(1)"]), DOUBLE)
    with pytest.raises(ScoringError, match=r"example e1.*check nothing"):
        score(example(["assert 1 == 1"]), DOUBLE)
    monkeypatch.setattr(confine, "landlock_abi", lambda: -1)
    with pytest.raises(ScoringError, match=r"example e1.*Landlock"):
        score(HIDDEN, f"{DOUBLE}  # not seen before")


@pytest.mark.slow
def test_all_974_reference_solutions_of_mbpp_pass_with_eight_at_once() -> None:
    path = Path(os.environ.get("FREEHOLD_DATA") or "", "mbpp", "mbpp.jsonl")
    if not path.is_file():
        pytest.skip("needs the public MBPP set: set FREEHOLD_DATA to the folder above mbpp/")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def one(row: dict[str, str]) -> float:
        item = example(
            row["test_list"], target=row["code"], setup=row["test_setup_code"], entry_point=""
        )
        return score(item, row["code"])

    with ThreadPoolExecutor(8) as pool:
        scores = list(pool.map(one, rows))
    failed = [row["task_id"] for row, value in zip(rows, scores, strict=True) if value != 1.0]
    assert (len(scores), failed) == (974, [])
