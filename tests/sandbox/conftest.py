"""Every test here needs a kernel that can confine."""

from __future__ import annotations

import pytest

from pipelines.sandbox import Unavailable, process, run


@pytest.fixture(autouse=True, scope="module")
def confined() -> None:
    try:
        run("")
    except Unavailable as reason:
        pytest.skip(f"no sandbox on this machine: {reason}")


@pytest.fixture(params=[99, 1], ids=["landlock-newest", "landlock-1"])
def landlock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds with what this kernel has and with what Linux 5.13 had."""
    monkeypatch.setattr(process, "NEWEST_LANDLOCK", request.param)
