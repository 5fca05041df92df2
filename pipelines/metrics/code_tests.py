"""1.0 when the answer's code passes all hidden tests of the example, else 0.0.

The example's metadata holds `tests` (Python statements), and optionally `setup` (run before them)
and `entry_point` (the name under test). Its target is the reference solution.

The answer runs in a sandbox, and its verdict is made outside. `assert f(2) == 4`: only `f(2)` goes
in, its value comes out, and `== 4` happens here, so an answer that knows how it is tested gains
nothing. What is expected is read from the test, or evaluated in another sandbox that never sees the
answer. Weaker is every other statement (`assert f(2)`, `try: ...`) and every expected value of an
own class: these run in the answer's sandbox and report only whether they raised, which code that
attacks its own grader can forge.
"""

from __future__ import annotations

import ast
import hashlib
import re
import textwrap
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any, NamedTuple

from pipelines.core.errors import ScoringError
from pipelines.core.records import Example, Message
from pipelines.sandbox import Unavailable
from pipelines.sandbox.evaluate import Outcome, Step, Undecodable, decode, evaluate

WORKERS = 8
"""Answers that run at a time: a process mostly waits to be started, and for its turn."""
PYTHON = ("python", "python3", "py")
"""What the language of a fence may be called."""
MAX_LONGER = 32
"""How many times longer than the expected value an answer's may be written; a longer one cannot be
equal, and decoding it is work that the answer would choose for us."""
MAX_KEPT = 1 << 16
"""Results that are remembered, so that no other metric runs the same answer again."""


class Limits(NamedTuple):
    """Of one sandbox process."""

    timeout_s: float
    memory_bytes: int


_results: dict[bytes, float] = {}
_keeping = Lock()


@dataclass(frozen=True)
class Check:
    """A step that the answer must pass."""

    step: Step
    expected: Any = None
    """For a value; a statement must only not raise."""
    n_chars: int = 0
    """How long `expected` is when written."""


@dataclass(frozen=True)
class Sides:
    """`assert A == B`, or a longer chain: expressions that must all have the same value."""

    source: str
    in_answer: tuple[ast.expr, ...]
    """Those evaluated in the answer's sandbox."""
    expected: ast.expr
    """The one that says what is expected."""


_PARSING = threading.Lock()


def score(example: Example, text: str, *, timeout_s: float = 10, memory_mib: int = 1024) -> float:
    """Run the tests of `example` on the code in `text`.

    Args:
        example: has `tests` in its metadata.
        text: the answer; its last fenced Python block counts, or all of it where none is fenced.
        timeout_s: CPU seconds for all tests together; the slowest solution of MBPP takes 2.5 s.
        memory_mib: address space of the process.

    Raises:
        ScoringError: there are no tests, they are no Python, what they expect cannot be computed,
            or this machine cannot confine the code.
    """
    tests, setup, entry_point = _metadata(example)
    limits = Limits(timeout_s, memory_mib << 20)
    code, reference = code_in(text, entry_point), code_in(example.target, entry_point)
    what_runs = repr((code, tests, setup, entry_point, reference, limits))
    digest = hashlib.sha256(what_runs.encode()).digest()
    if (known := _results.get(digest)) is not None:
        return known
    try:
        checks = _checks(tests, setup, entry_point, reference, limits)
        value = float(_passes(code, setup, checks, limits))
    except (ValueError, Unavailable) as error:
        raise ScoringError(f"code_tests: example {example.id}: {error}") from error
    with _keeping:
        if len(_results) >= MAX_KEPT:
            del _results[next(iter(_results))]
        _results[digest] = value
    return value


def contract_example() -> Example:
    """An example for the contract tests."""
    return Example(
        id="e1",
        messages=(Message(role="user", content="Write double(x)."),),
        target="def double(x):\n    return 2 * x",
        metadata={"tests": ["assert double(2) == 4"], "entry_point": "double"},
    )


def code_in(text: str, entry_point: str = "") -> str:
    """The last fenced Python block, of those that define `entry_point` where some do.

    A fence without a language counts where none names Python; without any, `text` is the code.
    """
    blocks = re.findall(r"^[ \t]*```([^\n`]*)\n(.*?)(?:^[ \t]*```|\Z)", text, re.DOTALL | re.M)
    named = [code for language, code in blocks if language.strip().lower() in PYTHON]
    candidates = named or [code for language, code in blocks if not language.strip()] or [text]
    defines = re.compile(rf"^\s*(?:async\s+def|def|class)\s+{re.escape(entry_point)}\b", re.M)
    fitting = [code for code in candidates if entry_point and defines.search(code)]
    return textwrap.dedent((fitting or candidates)[-1])


def _metadata(example: Example) -> tuple[tuple[str, ...], str, str]:
    tests = example.metadata.get("tests")
    if not isinstance(tests, list) or not tests:
        raise ScoringError(f"code_tests needs metadata.tests; example {example.id} has none")
    if not all(isinstance(test, str) for test in tests):
        raise ScoringError(f"code_tests: example {example.id}: metadata.tests must be texts")
    setup, entry_point = example.metadata.get("setup"), example.metadata.get("entry_point")
    return tuple(map(str, tests)), str(setup or ""), str(entry_point or "").strip()


def _passes(code: str, setup: str, checks: Sequence[Check], limits: Limits) -> bool:
    steps = [Step("run", code), Step("run", setup), *(check.step for check in checks)]
    outcomes = evaluate(steps, timeout_s=limits.timeout_s, memory_bytes=limits.memory_bytes)
    if len(outcomes) < len(steps) or any(each.status != "done" for each in outcomes[:2]):
        return False
    return all(_holds(check, each) for check, each in zip(checks, outcomes[2:], strict=True))


def _holds(check: Check, outcome: Outcome) -> bool:
    if check.step.kind == "run":
        return outcome.status == "done"
    if outcome.status != "value" or len(outcome.payload) > MAX_LONGER * check.n_chars + 4096:
        return False
    try:
        return bool(decode(outcome.payload) == check.expected)
    except (Undecodable, ArithmeticError, RecursionError):  # such as a signalling NaN
        return False


@lru_cache(maxsize=4096)
def _checks(
    tests: tuple[str, ...],
    setup: str,
    entry_point: str,
    reference: str,
    limits: Limits,
) -> tuple[Check, ...]:
    """What the answer must do; kept, because every candidate answers the same examples.

    Raises:
        ValueError: a test is no Python, or what it expects cannot be computed.
    """
    parts = _parts(tests, setup, entry_point, reference)
    computed = _computed(parts, setup, reference, limits)
    checks: list[Check] = []
    for part, outcome in zip(parts, computed, strict=True):
        if isinstance(part, str) or (outcome is not None and outcome.status == "opaque"):
            source = part if isinstance(part, str) else part.source
            checks.append(Check(Step("run", source)))
            continue
        if outcome is None:
            expected = ast.literal_eval(part.expected)
            n_chars = len(ast.unparse(part.expected))
        else:
            expected, n_chars = decode(outcome.payload), len(outcome.payload)
        for side in part.in_answer:
            checks.append(Check(Step("value", ast.unparse(side)), expected, n_chars))
    if not checks:
        raise ValueError("its tests check nothing")
    return tuple(checks)


def _computed(
    parts: Sequence[str | Sides], setup: str, reference: str, limits: Limits
) -> list[Outcome | None]:
    """For each part what it expects, from a sandbox with the reference; None = needs no sandbox."""
    needed = [isinstance(part, Sides) and not _is_literal(part.expected) for part in parts]
    if not any(needed):
        return [None] * len(parts)
    steps = [Step("run", reference), Step("run", setup)]
    for part, is_needed in zip(parts, needed, strict=True):
        if isinstance(part, str):
            steps.append(Step("run", part))
        else:  # a literal needs no evaluation, but a step each keeps the numbers
            steps.append(Step("value", ast.unparse(part.expected) if is_needed else "None"))
    outcomes = evaluate(steps, timeout_s=limits.timeout_s, memory_bytes=limits.memory_bytes)
    outcomes += [Outcome("ended", "the process ended")] * (len(steps) - len(outcomes))
    for part, outcome, is_needed in zip(parts, outcomes[2:], needed, strict=True):
        if is_needed and outcome.status not in ("value", "opaque"):
            source = part if isinstance(part, str) else part.source
            raise ValueError(f"what `{source}` expects cannot be computed: {outcome.payload}")
    return [
        each if is_needed else None for each, is_needed in zip(outcomes[2:], needed, strict=True)
    ]


def _parts(tests: Sequence[str], setup: str, entry_point: str, reference: str) -> list[str | Sides]:
    """Each statement of each test: its two sides, or as it is."""
    tested = {entry_point} - {""}
    for statement in _statements(reference, strict=False):
        if not isinstance(statement, ast.Import | ast.ImportFrom):
            tested |= _bound(statement)
    for statement in _statements(setup, strict=True):
        tested |= _touched(statement, tested)
    parts: list[str | Sides] = []
    for test in tests:
        for statement in _statements(test, strict=True):
            parts += _split(statement, tested)
            tested |= _touched(statement, tested)
    return parts


def parse(source: str) -> ast.Module:
    """`ast.parse`, one at a time: in several threads CPython 3.11 loses count of its recursion."""
    with _PARSING:
        return ast.parse(source)


def _statements(source: str, *, strict: bool) -> list[ast.stmt]:
    try:
        return parse(textwrap.dedent(source)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if strict:
            raise ValueError(f"`{source.strip()}` is no Python: {error}") from error
        return []  # a reference in prose; its names are unknown, and whatever needs them will say


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a statement at the top level defines."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    names = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
    return {name.id for name in names if isinstance(name.ctx, ast.Store)}


def _touched(statement: ast.stmt, tested: set[str]) -> set[str]:
    """All names of a statement that uses one of `tested`: they may hold what it returned."""
    if isinstance(statement, ast.Assert) or not _names(statement) & tested:
        return set()
    return _names(statement) | _bound(statement)


def _names(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def _split(statement: ast.stmt, tested: set[str]) -> list[str | Sides]:
    """`assert A == B and C == D` gives two parts, any other statement itself."""
    if not isinstance(statement, ast.Assert):
        return [ast.unparse(statement)]
    test = statement.test
    each = test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else [test]
    return [_sides(condition, tested) for condition in each]


def _sides(condition: ast.expr, tested: set[str]) -> str | Sides:
    source = ast.unparse(ast.Assert(condition, None))
    if not isinstance(condition, ast.Compare):
        return source
    if not all(isinstance(operator, ast.Eq) for operator in condition.ops):
        return source
    expressions = (condition.left, *condition.comparators)
    open_ones = [each for each in expressions if not _is_literal(each)]
    known = [each for each in expressions if _is_literal(each)]
    # What does not depend on the answer stays out of its sight; in doubt it goes in.
    answers = [each for each in open_ones if _names(each) & tested] or open_ones
    apart = [each for each in open_ones if each not in answers]
    expected = (known or apart or [expressions[-1]])[0]
    return Sides(source, tuple(answers), expected)


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return False
    return True
