"""A headless Chromium that reads the report; without one these tests are skipped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    """Chromium as installed. Its event loop runs while it is open: other files must not see it."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"needs a Chromium on the PATH: one of {', '.join(NAMES)}")
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Generator[Open]:
    """Opens a report; afterwards nothing may have been asked of a network, nor gone wrong."""
    wrong: list[str] = []
    contexts: list[Any] = []

    def complain(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            wrong.append(message.text)

    def opened(report: str, *, ready: bool = True, **settings: Any) -> Page:
        file = tmp_path / "report.html"
        file.write_text(report, encoding="utf-8")
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda r: None if r.url == file.as_uri() else wrong.append(r.url))
        page.on("console", complain)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.goto(file.as_uri())
        if ready:
            page.wait_for_selector("#live[data-ready]", timeout=30_000)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not wrong, wrong
