"""Find personal data in training rows by its form, and put placeholders in its place."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.core.errors import ConfigError
from pipelines.core.records import TrainingRow
from pipelines.core.row_file import spooled

KINDS = {
    "EMAIL_ADDRESS": "EMAIL",
    "PHONE_NUMBER": "PHONE",
    "CREDIT_CARD": "CARD",
    "IBAN_CODE": "IBAN",
    "IP_ADDRESS": "IP",
    "MAC_ADDRESS": "MAC",
    "URL": "URL",
    "CRYPTO": "WALLET",
    "PERSON": "NAME",
    "LOCATION": "PLACE",
}
"""What the recognisers call it, and its placeholder; everything else is an `ID`."""
NAMES = ("PERSON", "LOCATION")
"""What only a language model finds."""
MIN_SCORE = 0.4
PHONE_WORDS = [
    "phone",
    "telephone",
    "tel",
    "cell",
    "cellphone",
    "mobile",
    "call",
    "fax",
    "whatsapp",
]
GATE = re.compile(
    r"@|://|www\.|::|(?:\d[^\w\n]{0,2}){6}|\d\.\d{1,3}\.\d{1,3}\.\d"
    r"|\b[0-9a-f]{2}[:-][0-9a-f]{2}[:-]|[0-9a-f]{4}\.[0-9a-f]{4}\.|\b(?=\w*\d)\w{16}",
    re.IGNORECASE,
)
"""A text that has none of this holds nothing that the recognisers know, names apart."""
TELEPHONE = re.compile(r"(?<![\w.,/#£$€-])[+(]{0,2}\d[\d \t().\-/]{5,20}\d(?![\w%£$€])")
"""What is worth asking the library about, which takes its time; not the end of something longer."""
DATE = re.compile(
    r"\b(?:\d{1,2}([./-])\d{1,2}\1(?:\d{4}|\d{2})|\d{4}([./-])\d{1,2}\2\d{1,2})\b(?![./-]?\d)"
)


@dataclass(frozen=True)
class PersonalData:
    """What was found in the rows; never the values."""

    rows: Sequence[TrainingRow]
    """As they were, or with placeholders."""
    n_rows: int
    """Rows that hold any."""
    n_values: dict[str, int]
    """Kind -> different values of a row, summed over the rows."""
    masked: bool
    names_sought: bool
    """False = there was no language model, so names and places were not looked for."""


def find(rows: Sequence[TrainingRow], *, mask: bool, model: Path | None = None) -> PersonalData:
    """Look through all turns of all rows.

    Args:
        rows: as read; those that are masked go to a file of their own.
        mask: whether the values give way to placeholders such as `<EMAIL_1>`; a value has the same
            one wherever it stands in its row.
        model: folder of a spaCy pipeline that finds names and places; None = they stay.

    Raises:
        ConfigError: `model` is no folder.
    """
    finder = Finder(model)
    total: Counter[str] = Counter()
    n_rows = 0

    def looked() -> Iterator[TrainingRow]:
        nonlocal n_rows
        for row in rows:
            masked, counts = finder.look(row)
            total.update(counts)
            n_rows += bool(counts)
            yield masked

    if mask:
        rows = spooled(looked())
    else:
        deque(looked(), maxlen=0)
    return PersonalData(
        rows=rows,
        n_rows=n_rows,
        n_values=dict(sorted(total.items())),
        masked=mask,
        names_sought=model is not None,
    )


class Finder:
    """The recognisers, loaded when the first text needs them (some seconds)."""

    def __init__(self, model: Path | None = None) -> None:
        if model is not None and not model.is_dir():
            raise ConfigError(f"{model}: no folder with a spaCy pipeline")
        self._model = model

    def look(self, row: TrainingRow) -> tuple[TrainingRow, Counter[str]]:
        """The row with placeholders, and how many different values of each kind it held."""
        texts = [message.content for message in row.messages]
        spans = [list(self._spans(text)) for text in texts]
        if not any(spans):
            return row, Counter()
        names: dict[str, str] = {}
        counts: Counter[str] = Counter()
        forms: dict[str, str] = {}
        for text, found in zip(texts, spans, strict=True):
            for start, end, kind in found:
                value = text[start:end]
                if (key := _key(value)) not in names:
                    counts[kind] += 1
                    names[key] = f"<{kind}_{counts[kind]}>"
                forms[value] = forms[re.sub(r"[\s().-]", "", value)] = names[key]
        # What was found in one turn is replaced in all, where no word beside it gives it away, too.
        either = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
        pattern = re.compile(rf"(?<!\w)(?:{either})(?!\w)")
        messages = tuple(
            m.model_copy(update={"content": _replaced(m.content, pattern, forms)})
            for m in row.messages
        )
        return row.model_copy(update={"messages": messages}), counts

    def _spans(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Start, end and kind of what was found, without overlaps."""
        if self._model is None and not GATE.search(text):
            return
        taken: list[tuple[int, int]] = []
        results = self._analyzer.analyze(
            text, "en", score_threshold=MIN_SCORE, return_decision_process=True
        )
        for each in sorted(results, key=lambda r: (r.start - r.end, not _context(r), -r.score)):
            free = all(each.end <= start or end <= each.start for start, end in taken)
            if free and _is_plausible(text, each):
                taken.append((each.start, each.end))
                yield each.start, each.end, KINDS.get(each.entity_type, "ID")

    @cached_property
    def _analyzer(self) -> Any:
        import presidio_analyzer as presidio
        import presidio_analyzer.predefined_recognizers as known
        import spacy
        from phonenumbers import PhoneNumberMatcher
        from presidio_analyzer.context_aware_enhancers import LemmaContextAwareEnhancer
        from presidio_analyzer.nlp_engine import NlpArtifacts, SpacyNlpEngine

        logging.getLogger("presidio-analyzer").setLevel(logging.CRITICAL)  # it logs values

        class Email(known.EmailRecognizer):
            def validate_result(self, pattern_text: str) -> Any:
                """No look-up of the domain: that is a download, and misses a company's own."""

        class Words(SpacyNlpEngine):
            """Splits a text into words, and knows nothing else about it."""

            def load(self) -> None:
                self.nlp = {"en": spacy.blank("en")}

            def process_text(self, text: str, language: str) -> NlpArtifacts:
                hits = [*re.finditer(r"\w+", text)]
                words: Any = [hit[0].casefold() for hit in hits]
                return NlpArtifacts([], words, [hit.start() for hit in hits], words, self, language)

            def is_stopword(self, word: str, language: str) -> bool:
                return False

            def is_punct(self, word: str, language: str) -> bool:
                return False

        class Phone(known.PhoneRecognizer):
            def analyze(self, text: str, entities: Any, nlp_artifacts: Any = None) -> list[Any]:
                found: list[Any] = []
                text = DATE.sub(lambda hit: "," * len(hit[0]), text)
                for hit in TELEPHONE.finditer(text):
                    if 7 <= sum(map(str.isdigit, hit[0])) <= 15:
                        found += self._first(hit[0], hit.start())
                return found

            def _first(self, text: str, offset: int) -> list[Any]:
                for region in self.supported_regions:
                    for match in PhoneNumberMatcher(text, region, leniency=1):
                        result = self._get_recognizer_result(match, text, region, None)
                        result.start += offset
                        result.end += offset
                        return [result]
                return []

        url = presidio.Pattern("URL with a scheme", r"(?:https?://|\bwww\.)[^\s<>\"']+[\w/]", 0.6)
        recognizers: list[Any] = [
            Email(),
            Phone(context=PHONE_WORDS),
            known.CreditCardRecognizer(),
            known.IbanRecognizer(),
            known.IpRecognizer(),
            known.MacAddressRecognizer(),
            presidio.PatternRecognizer("URL", patterns=[url]),
            known.CryptoRecognizer(),
            known.UsSsnRecognizer(),
            known.UsItinRecognizer(),
            known.UkNinoRecognizer(),
            known.NhsRecognizer(),
            known.EsNifRecognizer(supported_language="en"),
            known.EsNieRecognizer(supported_language="en"),
            known.ItFiscalCodeRecognizer(supported_language="en"),
            known.PlPeselRecognizer(supported_language="en"),
            known.DeTaxIdRecognizer(supported_language="en"),
            known.InAadhaarRecognizer(),
            known.FiPersonalIdentityCodeRecognizer(supported_language="en"),
        ]
        if self._model is None:
            engine = Words()
        else:
            engine = SpacyNlpEngine([{"lang_code": "en", "model_name": str(self._model)}])
            recognizers.append(known.SpacyRecognizer(supported_entities=[*NAMES]))
        engine.load()
        return presidio.AnalyzerEngine(
            registry=presidio.RecognizerRegistry(recognizers),
            nlp_engine=engine,
            supported_languages=["en"],
            context_aware_enhancer=LemmaContextAwareEnhancer(context_matching_mode="whole_word"),
        )


def _replaced(text: str, pattern: re.Pattern[str], forms: dict[str, str]) -> str:
    """The text with placeholders; JSON stays JSON."""
    replaced = pattern.sub(lambda hit: forms[hit[0]], text)
    if replaced != text and _is_json(text) and not _is_json(replaced):
        number = re.compile(rf"(?<=[:\[,\s])({pattern.pattern})(?=\s*[,}}\]])")
        quoted = number.sub(lambda hit: f'"{forms[hit[0]]}"', text)
        return pattern.sub(lambda hit: forms[hit[0]], quoted)
    return replaced


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_plausible(text: str, result: Any) -> bool:
    """Whether a match is more than a number that could be anything, such as an order's."""
    value = text[result.start : result.end]
    if result.entity_type == "IP_ADDRESS" and "." not in value:
        return re.search(r"[0-9a-fA-F]{3}", value) is not None  # 1::2 is a slice of a list
    return result.entity_type == "CREDIT_CARD" or not value.isdigit() or _context(result)


def _context(result: Any) -> bool:
    """Whether a word beside the match says what it is."""
    return bool(result.analysis_explanation and result.analysis_explanation.supportive_context_word)


def _key(value: str) -> str:
    """Equal for two ways to write the same value."""
    return re.sub(r"[\s().-]", "", value).casefold()
