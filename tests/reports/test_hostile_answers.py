"""What a model answered stands on the page as words: it adds no tag, attribute or address."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from pipelines.reports.answers import LONGEST
from tests.reports.made import make

PAYLOADS = (
    "<script>alert(1)</script>",
    "<img src=https://evil.test onerror=alert(2)>",
    '"><svg onload=alert(3)>',
    "' onmouseover='alert(4)",
    "<a href=javascript:alert(5)>x</a>",
    "<iframe srcdoc='<script>alert(6)</script>'></iframe>",
    "</style><style>@import 'https://evil.test'</style>",
    "</title></head><base href=https://evil.test><form action=https://evil.test>",
    "{{ 7 * 191 }}{% for x in y %}",
    "<!-- --><meta http-equiv=refresh content='0;url=https://evil.test'>",
    "&lt;script&gt;\x1b[2J\u202e",
)


class Page(HTMLParser):
    """Tags with their attributes, and the words between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


NAMES = ("frontier-standin", "tiny-lora")


@pytest.fixture(scope="module")
def clean() -> Page:
    return Page(make(names=NAMES, says="order_status").report())


def test_an_answer_adds_nothing_but_words(clean: Page) -> None:
    said = " ".join(PAYLOADS)
    assert len(said) < LONGEST
    page = Page(make(names=NAMES, says=said).report())
    assert page.tags == clean.tags
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in said)
    assert shown in page.words


def test_the_page_lets_nothing_run_or_load_even_so(clean: Page) -> None:
    [policy] = [
        attributes["content"] or ""
        for tag, attributes in clean.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(each.strip().split(" ", 1) for each in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "unsafe" not in rules.get("script-src", "")
    assert not [
        name for _, attributes in clean.tags for name in attributes if name.startswith("on")
    ]
