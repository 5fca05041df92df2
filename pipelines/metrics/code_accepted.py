"""1.0 when the answer's code passes all hidden tests and the security scan, else 0.0."""

from __future__ import annotations

from pipelines.core.records import Example
from pipelines.metrics import code_scan, code_tests

WORKERS = code_tests.WORKERS
contract_example = code_tests.contract_example


def score(
    example: Example,
    text: str,
    *,
    severity: str = "medium",
    timeout_s: float = 10,
    memory_mib: int = 1024,
) -> float:
    """What a developer would take over; the parameters and errors of `code_tests`, `code_scan`."""
    if code_tests.score(example, text, timeout_s=timeout_s, memory_mib=memory_mib) == 0.0:
        return 0.0
    return code_scan.score(example, text, severity=severity)
