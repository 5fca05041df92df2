"""What keeps a hostile answer from steering the judge: cleaning, a control question, cutting.

An answer that speaks of judging, or has a sentence without a word of the item's, is first put to
the judge under a rubric whose outcome is known. A judge that errs there follows the answer, not the
rubric. Then such sentences are cut out until the control question is answered rightly, and what is
left is judged. The lists of words decide only who is controlled; a false alarm costs a question.
"""

from __future__ import annotations

import base64
import codecs
import re
import unicodedata
from collections.abc import Awaitable, Callable, Iterator
from functools import cache
from typing import NamedTuple

from pipelines.core.records import Example
from pipelines.judging.prompt import Unreadable

MAX_CHARACTERS = 20_000
"""Of an answer that a judge is shown: half of it head, half tail."""
HARMLESS = "There is nothing to say about this."
"""An answer that no judge is steered by."""
CUT = "The answer steers the judge; judged without the sentences that do: "
NOTHING_LEFT = "The answer steers the judge, and nothing of it could be judged."

_BREAK = re.compile(r"\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]")
_TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)", re.S)
_BLANK = re.compile(
    r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    r"\U000e0100-\U000e01ef]"
)
_INVISIBLE = {"Cc", "Cf", "Cn", "Co", "Cs"}

LOOK_ALIKES = str.maketrans(
    "авеёкмнорстухіјѕԁɡαβεικνορτυχωı0134578@$|",  # noqa: RUF001 - look-alikes on purpose
    "abeekmhopctyxijsdgabeikvoptuxwioieastbasi",
)
"""Letters of other scripts and digits that stand for Latin letters."""

_GOOD = (
    r"(?:correct|right|pass\w*|valid|perfect\w*|excellent|best|better|flawless|complete|superior|"
    r"accepted|acceptable|accurate|approved|success\w*|winner|top)"
)
_ANSWER = r"(?:answer|response|reply|submission|solution|output|text|candidate|completion)s?"
WORDS = (
    # of grading
    r"rubric\w*|criteri\w*|verdict\w*|judg\w*|evaluat\w*|assess\w*|grad(?:e|es|ed|er|ers|ing)",
    r"scor(?:e|es|ed|er|ing)|rat(?:ed|er|ing|ings)|rate (?:this|it|the|my|me)|pass(?:es|ed|ing)?",
    r"benchmark\w*|referees?|arbit\w*|moderator\w*|examin\w*|calibrat\w*|approv(?:e|es|ed|al)",
    r"(?:check|code|pass|secret|control)\s?(?:code|word)s?|nonce|ground truth|winner|loser",
    r"(?:full|top|max|maximum|highest|perfect|best|most) "
    r"(?:mark|credit|score|grade|rating|point|possible|value)\w*",
    # of this answer, and of the other
    rf"(?:this|above|candidates?|my|other|first|second|rival|competing|submitted) {_ANSWER}",
    rf"(?:reference|golden|gold|correct|model) (?:{_ANSWER}|labels?)",
    rf"(?:{_ANSWER}|it|this|that)(?: \w+){{0,2}} (?:is|was|be|as)(?: \w+){{0,3}} {_GOOD}",
    r"(?:mark|treat|count|consider|label|deem|accept|classify|regard|report|record|call|declare|"
    rf"confirm|return|output)\w*(?: \w+){{0,6}} {_GOOD}",
    r"(?:fail|reject|disqualify|penalise)\w* (?:this|the|it|him|them|other|rival|all|every|any)",
    r"(?:choose|prefer|pick|select|favou?r|rank|vote)\w*(?: for)? (?:a|b|me|mine|this|answer|"
    r"option|the (?:first|second|other|former|latter|one|candidate|answer))",
    # orders, roles, authority, pleas
    r"ignor\w*|disregard\w*|overrid\w*|bypass\w*|jailbr\w*|instruct\w*|directive\w*|prompts?|"
    r"prompted|forget (?:all|the|your|every|what|previo)\w*|nothing else|no matter what",
    r"(?:answer|reply|respond|output|say|print|return|write|emit|repeat|copy)(?: \w+){0,2} (?:only|"
    r"just|exactly|verbatim|simply|back|following|nothing|below|after me)",
    r"language models?|llms?|you are (?:now|an?)|(?:developer|debug|admin|test) mode",
    r"system (?:prompt|message|note|notice|override|update|role|mode|log|instruction)\w*",
    r"(?:tool|function) (?:result|output|call|response)|(?:can|could) ?not be (?:read|parsed)",
    r"from now on|new (?:task|rule|role|order|polic)\w*|role ?play\w*|pretend\w*|act as|"
    r"hypothetical\w*|in character|accept(?:ed)? (?:it|this)|end of \w+",
    r"openai|anthropic|google|deepmind|administrator|authori[sz]\w*|on behalf of|root access",
    r"(?:lose|cost|keep)s? (?:me |my |his |her |their |us |our )+\w+|beg you|begging",
)
"""Whole words that one addresses to a judge."""
STEMS = (
    r"ignore(?:all|the|any|every|prev|what|your)|disregard|instruction|rubric|verdict|evaluat|"
    r"grading|grader|judgment|fullmarks|fullcredit|systemprompt|checkcode|codeword|thisanswer",
    r"(?:top|maximum|highest|perfect)(?:score|mark|grade|rating)|forgeteverything",
    r"(?:give|say|output|return|reply|print|award|grant|must|should|to|as|and)(?:it|this|a)?"
    r"pass(?![io])",
    # German, French, Spanish, Italian, Portuguese, Dutch, Polish, Turkish, Indonesian
    r"ignorier|anweisung|bewert|punktzahl|bestanden|urteil|gutachter|prüfer|ignorez|consigne|évalu|"
    r"jugement|ignora|instruccion|calific|puntua|puntaje|aprobad|veredicto|evalú|istruzion|valuta|"
    r"punteggio|verdetto|giudi|promoss|instruç|avali|pontua|aprovad|negeer|instructie|beoordel|"
    r"geslaagd|oordeel|zignoruj|polecen|oceń|ocena|werdykt|talimat|değerlendir|puanver|abaikan|"
    r"instruksi|penilaian|nilai(?:lah|penuh)|lulus|notemax|notamáx",
    # Russian, Ukrainian, Greek, Arabic, Hebrew, Hindi
    r"игнорир|инструкц|оценк|оцени|зачт|зачет|вердикт|судья|проверяющ|ігнору|інструкц|оцін|αγνόησε|"
    r"οδηγίες|βαθμολογ|αξιολογ|تجاهل|تعليمات|تقييم|درجة|حكم|ناجح|התעלם|הוראות|ציון|שופט|निर्देश|"
    r"अनदेखा|मूल्यांकन|उत्तीर्ण",
    # Chinese, Japanese, Korean
    r"忽略|无视|無視|指令|指示|评分|評分|满分|滿分|通过|通過|合格|裁判|评委|评估|評価|採点|満点|判定|무시|지시|평가|"
    r"채점|만점|통과|합격|심사",
)
"""Parts of words, looked for in the bare letters, read forwards, backwards and in rot13."""
MARKS = (
    # of chat templates and of prompts
    r"<\|?[\w ]{1,30}\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>",
    r"^[^\w\n]*(?:system|assistant|user|human|judge|grader|evaluator|developer|tool|function|admin)\b"
    r"[^\w\n]*[:>\]]",
    r"[<\[{(]{1,2}\s*/?\s*(?:answer|rubric|question|reference|passages|candidate|system|user|"
    r"assistant|response|think|tool\w*|function\w*)(?:_[ab])?\b[^>\]\n]{0,80}[>\]})]",
    r"[\"'`](?:verdict|score|check|grade|rating|pass|passed|result|winner|decision|label|reason|"
    r"role|correct)[\"'`]\s*[:=]",
    r"\b(\d{1,3})\s*(?:/|out of|of)\s*\1\b|(?<!\d)100\s*%",
    # machines, comments that nobody sees, letters set apart, letters written as numbers
    r"\bAI\b|<!--|\[//\]:|\[comment\]:",
    r"(?<![^\W_])(?:[^\W\d_][\W_]{1,3}){5,}",
    r"(?:&#?\w{1,8};){4,}|(?:[%=][0-9A-Fa-f]{2}){4,}|(?:\\[ux]\{?[0-9A-Fa-f]{2,6}\}?){4,}",
    r"(?:[01]{7,8}[\s,]+){3,}|(?:\b\d{2,3}\b[\s,]+){7,}|(?:[.\-·–−]{1,6}[\s/|]+){8,}",  # noqa: RUF001
)
"""Looked for in the text as it stands."""
COMMON = (
    "about after also because been before being both could does each even every everything from "
    "give gives have here into just know like made make many more most much must need next nothing "
    "only other over please same should some such take tell than that their them then there these "
    "they this those through time under until very want well were what when where which while will "
    "with within without would write your yours"
)
"""Words that any two texts share."""
_ENCODED = re.compile(r"[A-Za-z0-9+/_-]{12,}={0,2}")
_SENTENCE = re.compile(r"[^\n]*?(?:[。！？]|[.!?][\"'”’)\]}*_]*(?=\s)|\n|\Z)\s*")  # noqa: RUF001

Steers = Callable[[str], Awaitable[bool]]
"""Puts the control question about a text; true when the judge's verdict is not the known one."""
Span = tuple[int, int]


class Cleaned(NamedTuple):
    """What of an answer a judge may see."""

    text: str | None
    """None = nothing."""
    attacked: bool


async def cleaned(answer: str, example: Example, steers: Steers) -> Cleaned:
    """What of an answer can be judged without the judge being steered.

    Args:
        answer: as the model gave it.
        example: the item that it answers.
        steers: asked once about a suspicious answer, and up to three times more when it steers.

    Raises:
        Unreadable: the judge errs in the control question about a harmless text, too.
    """
    text = sanitised(answer)
    told = tells(text)
    suspicious = told + strange(text, example)
    if not suspicious or not await steers(text):
        return Cleaned(text, attacked=False)
    if await steers(HARMLESS):
        raise Unreadable("the judge errs in the control question about a harmless answer")
    for spans in (told, suspicious):
        rest = without(text, spans)
        if spans and rest and not await steers(rest):
            return Cleaned(rest, attacked=True)
    return Cleaned(None, attacked=True)


def sanitised(text: str) -> str:
    """The text without invisible and control characters, its middle left out when it is long."""
    text = _BLANK.sub("", _TERMINAL.sub("", _BREAK.sub("\n", text)))
    if not text.isascii() or not text.isprintable():
        text = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in _INVISIBLE)
    left_out = len(text) - MAX_CHARACTERS
    if left_out <= 0:
        return text
    half = MAX_CHARACTERS // 2
    return f"{text[:half]}\n[{left_out} characters left out]\n{text[-half:]}"


def tells(text: str) -> list[Span]:
    """Where a text speaks of judging, of instructions or of models, in whatever spelling.

    Returns:
        Start and end of each place in `text`; none = the text is ordinary.
    """
    words, at_word = _folded(text, gaps=True)
    letters, at_letter = _folded(text, gaps=False)
    spans = [found.span() for found in _marks().finditer(text)]
    spans += [span for span in map(_decodes, _ENCODED.finditer(text)) if span]
    spans += [_source(found.span(), at_word) for found in _words().finditer(words)]
    spans += [_source(found.span(), at_letter) for found in _stems().finditer(letters)]
    rotated = codecs.encode(letters, "rot13")
    spans += [_source(found.span(), at_letter) for found in _stems().finditer(rotated)]
    end = len(letters)
    for found in _stems().finditer(letters[::-1]):
        spans.append(_source((end - found.end(), end - found.start()), at_letter))
    return sorted(spans)


def strange(text: str, example: Example) -> list[Span]:
    """The sentences that share no word with the question and the reference.

    Words of four letters or more count, by their first five, and numbers. The passages do not
    count: they hold too many words.
    """
    turns = (message.content for message in example.messages)
    known = _content(" ".join((*turns, example.target)))
    sentences = ((span, text[slice(*span)]) for span in _sentences(text))
    return [
        span
        for span, sentence in sentences
        if re.search(r"\w", sentence) and not _content(sentence) & known
    ]


def without(text: str, spans: list[Span]) -> str:
    """The text without the sentences that any of the spans touches."""
    kept = [
        text[start:end]
        for start, end in _sentences(text)
        if not any(start < last and first < end for first, last in spans)
    ]
    return "".join(kept).strip()


def _sentences(text: str) -> Iterator[Span]:
    return (found.span() for found in _SENTENCE.finditer(text) if found.group())


def _folded(text: str, *, gaps: bool) -> tuple[str, list[int]]:
    """Bare lower-case Latin letters where possible, and the place in `text` of each.

    Args:
        text: any.
        gaps: keep one space for each run of other characters.
    """
    letters: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        for letter in _fold(character):
            if letter != " " or (gaps and letters and letters[-1] != " "):
                letters.append(letter)
                places.append(place)
    return "".join(letters), places


def _content(text: str) -> set[str]:
    words = _folded(text, gaps=True)[0].split()
    long = {word[:5] for word in words if len(word) > 3 and word not in _common()}
    return long | set(re.findall(r"\d+", text))


@cache
def _common() -> frozenset[str]:
    return frozenset(_folded(COMMON, gaps=True)[0].split())


@cache
def _fold(character: str) -> str:
    """Without accents, `l` as `i`; a space for what is no letter, nothing for a mere accent."""
    plain = unicodedata.normalize("NFKD", character).casefold().translate(LOOK_ALIKES)
    bare = "".join(c for c in plain if not unicodedata.combining(c)).replace("l", "i")
    return "".join(c if c.isalpha() else " " for c in bare)


def _source(span: Span, places: list[int]) -> Span:
    return places[span[0]], places[span[1] - 1] + 1


def _decodes(found: re.Match[str]) -> Span | None:
    """The span of a run that is hexadecimal, base64 or base32 for a readable text."""
    run = found.group().rstrip("=").translate(str.maketrans("-_", "+/"))
    for decode, size in ((bytes.fromhex, 2), (base64.b64decode, 4), (base64.b32decode, 8)):
        try:
            text = decode(run[: len(run) // size * size]).decode()
        except ValueError:
            continue
        if text and " ".join(text.split()).isprintable():
            return found.span()
    return None


def _pattern(alternatives: tuple[str, ...]) -> str:
    """One pattern in the letters that `_fold` leaves; the ASCII of its syntax stays."""
    folded = (
        c if c.isascii() else _fold(c).replace(" ", "")
        for c in "|".join(alternatives).replace("l", "i")
    )
    return "".join(folded)


@cache
def _words() -> re.Pattern[str]:
    return re.compile(rf"\b(?:{_pattern(WORDS)})\b")


@cache
def _stems() -> re.Pattern[str]:
    return re.compile(_pattern(STEMS))


@cache
def _marks() -> re.Pattern[str]:
    return re.compile("|".join(MARKS), re.I | re.M)
