"""What a model or a log says is shown on the terminal and never obeyed by it."""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Generator

import pytest

from pipelines.core import command
from pipelines.core.errors import UserError
from pipelines.core.progress import printable
from pipelines.core.records import Record

HOSTILE = {
    "colour": "\x1b[31mred",
    "clear": "\x1b[2J\x1b[H",
    "title": "\x1b]0;owned\x07",
    "link": "\x1b]8;;https://evil.test\x1b\\here\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;Y3VybCBldmlsLnRlc3Q=\x07",
    "C1": "\x9b2J",
    "line": "done\rVerdict: OWN",
    "backspace": "no\x08\x08yes",
    "bidi": "\u202eNWO :tcidreV",
    "isolate": "\u2066x\u2069",
    "invisible": "a\u200bb\u2060c",
    "tags": "\U000e0041",
}


class Said(Record):
    """A result with text of a model in it."""

    text: str


@pytest.fixture(autouse=True)
def _own_signals() -> Generator[None]:
    """Commands catch SIGTERM for their process, which is ours here."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def run(text: str, *flags: str, fails: bool = False) -> int:
    def work(_: argparse.Namespace) -> Record:
        if fails:
            raise UserError(f"the server said {text}")
        return Said(text=text)

    def show(record: Record) -> str:
        assert isinstance(record, Said)
        return f"answer:\n\t{record.text}"

    return command.without_study("doc", lambda _: None, work, show, list(flags))


def obeyed(text: str) -> list[str]:
    return [c for c in text if not c.isprintable() and c not in "\n\t"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_terminal_is_sent_nothing_that_it_obeys(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert obeyed(HOSTILE[name])
    assert run(HOSTILE[name]) == 0
    assert run(HOSTILE[name], fails=True) == 2
    assert run(HOSTILE[name], "--json") == 0
    out, err = capfd.readouterr()
    assert obeyed(out + err) == []
    shown, _, as_json = out.rstrip("\n").rpartition("\n")
    assert shown.startswith("answer:\n\t")
    assert json.loads(as_json) == {"text": HOSTILE[name]}


def test_words_of_every_language_stay() -> None:
    text = "Größe 検索 العربية עברית 😀\n\tsecond line"
    assert printable(text) == text
