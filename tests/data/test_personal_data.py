"""Personal data gives way to placeholders; numbers that only look like it stay."""

from __future__ import annotations

import json
import logging
import re
import socket
from pathlib import Path

import pytest

from pipelines.core.errors import ConfigError
from pipelines.core.records import Message, TrainingRow
from pipelines.data import personal_data

PLANTED = [
    "My address is {EMAIL:jane.doe@example.com}, please use it.",
    "Write to {EMAIL:o'neil+orders@mail.example.co.uk} instead",
    "our ERP mails from {EMAIL:robot@files.internal}.",
    "call me on {PHONE:07700 900123} after five",
    "Reach us at {PHONE:+44 20 7946 0958} or by post",
    "phone {PHONE:(415) 555-2671}, any time",
    "my mobile {PHONE:4155552671} is off",
    "Tel. {PHONE:+49 30 901820}",
    "mon numéro : {PHONE:06 12 34 56 78}",
    "charged twice on {CARD:4111 1111 1111 1111}, exp 12/27",
    "my amex {CARD:378282246310005} was declined",
    "pay back to {IBAN:DE89 3704 0044 0532 0130 00} please",
    "IBAN {IBAN:NL91ABNA0417164300}.",
    "logged in from {IP:203.0.113.42} at night",
    "the router has {IP:2001:db8::ff00:42:8329} now",
    "device {MAC:00:1B:44:11:3A:B7} is unknown",
    "see {URL:https://example.org/profile?user=jane} for it",
    "my shop is {URL:www.janes-pots.example/about}",
    "my ssn is {ID:536-90-4399}",
    "social security {ID:536904399} on file",
    "National Insurance {ID:AB 12 34 56 C}",
    "NHS {ID:943 476 5919}",
    "mi NIF es {ID:12345678Z}",
    "codice fiscale {ID:RSSMRA85T10A562S}",
]
LOOK_ALIKES = [
    "order 4155552671 has not come",
    "cancelled order 4155552671, see the app",
    "FW-29014 and FW-29015",
    "invoice 20243650 of 28.04.2024",
    "due on 2026-11-22 10:15:00, not 05/06/2026",
    "open 10:30-12:45 and 14.00-18.30",
    "total £1,234.56, two at 617.28",
    "2 x 1.500,00 EUR",
    "tracking 9400 1000 0000 0000 0000 00",
    "parcel 1Z999AA10123456784",
    "order 4111111111111112 was paid",
    "SKU 1234-5678-9012",
    "version 1.2.3 of the app",
    "thanks.My order is late.Please help",
    "sizes 10-12-14-16",
    "rows[0::4] and rows[1::2]",
    "3 of 14 plates, 260 mm, 198233 g",
    "ratio 16:9, score 3:2",
    "section 2.3.4 says 100 000 km",
    "the years 2021 2022 2023 2024",
]


def row(*turns: str) -> TrainingRow:
    roles = ("user", "assistant")
    return TrainingRow(
        messages=tuple(Message(role=roles[k % 2], content=t) for k, t in enumerate(turns))
    )


@pytest.fixture(scope="module")
def finder() -> personal_data.Finder:
    """Loading the recognisers takes seconds."""
    return personal_data.Finder()


def test_planted_values_are_masked_and_look_alikes_are_not(finder: personal_data.Finder) -> None:
    hits = wanted = masked = 0
    for text in PLANTED:
        plain = re.sub(r"\{\w+:(.*?)\}", r"\1", text)
        expected = re.sub(r"\{(\w+):.*?\}", r"<\1_1>", text)
        found = finder.look(row(plain, "ok"))[0].messages[0].content
        hits += found == expected
        wanted += 1
    for text in LOOK_ALIKES:
        masked += finder.look(row(text, "ok"))[0].messages[0].content != text
    recall, precision = hits / wanted, hits / (hits + masked)
    assert recall == 1, "these texts were at hand when the rules were written"
    assert precision == 1


def test_a_value_has_one_placeholder_in_the_whole_row(finder: personal_data.Finder) -> None:
    masked, counts = finder.look(
        row(
            "Mail jane@example.com or joe@example.com, IBAN DE89 3704 0044 0532 0130 00, "
            "call 4155552671",
            '{"mail":"JOE@example.com","iban":"DE89370400440532013000","phone":4155552671}',
        )
    )
    assert masked.messages[0].content == (
        "Mail <EMAIL_1> or <EMAIL_2>, IBAN <IBAN_1>, call <PHONE_1>"
    )
    assert json.loads(masked.messages[1].content) == {
        "mail": "<EMAIL_2>", "iban": "<IBAN_1>", "phone": "<PHONE_1>",
    }  # fmt: skip
    assert counts == {"EMAIL": 2, "IBAN": 1, "PHONE": 1}


def test_rows_are_counted_and_changed_only_when_asked() -> None:
    rows = [row("mail a@example.com, b@example.com", "ok"), row("no data here", "ok")]
    reported = personal_data.find(rows, mask=False)
    assert reported.rows is rows
    masked = personal_data.find(rows, mask=True)
    assert masked.rows[0].messages[0].content == "mail <EMAIL_1>, <EMAIL_2>"
    assert masked.rows[1] == rows[1]
    for each in (reported, masked):
        assert (each.n_rows, each.n_values, each.names_sought) == (1, {"EMAIL": 2}, False)


def test_nothing_is_fetched_and_no_value_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    with caplog.at_level(logging.DEBUG):
        found = personal_data.find(
            [row("jane@example.com pays from GB33BUKB20201555555555", "ok")], mask=True
        )
    assert found.n_values == {"EMAIL": 1, "IBAN": 1}
    assert "jane" not in caplog.text
    assert "BUKB" not in caplog.text


def test_a_language_model_finds_names(tmp_path: Path) -> None:
    import spacy

    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": "Jane Doe"}])  # type: ignore[attr-defined]
    pipeline.to_disk(tmp_path / "names")
    found = personal_data.find(
        [row("I am Jane Doe", "Hello Jane Doe")], mask=True, model=tmp_path / "names"
    )
    assert found.names_sought
    assert [m.content for m in found.rows[0].messages] == ["I am <NAME_1>", "Hello <NAME_1>"]
    with pytest.raises(ConfigError, match="absent"):
        personal_data.find([], mask=True, model=tmp_path / "absent")
