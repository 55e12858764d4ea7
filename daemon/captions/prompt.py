"""What a model is asked about a photo, and what of its answer is kept."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_MAX_KEYWORDS = 12
_MAX_KEYWORD = 64
_MAX_CAPTION = 1000
_MAX_TEXT = 5000
# Embeddings, overrides and isolates, and what ends them.
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"

DEFAULT = (
    "Describe this photo for somebody who looks for it years later. caption: one or two plain sentences about what "
    "is to be seen, without any introduction. keywords: up to 12 single words or short names for subjects, place, "
    "activity and mood, the most important first. visible_text: any legible text in the photo exactly as written, "
    "or an empty string. Do not guess who somebody is."
)

# How chatty models begin: "Sure! Here is a caption for the photo: …", in the languages that people ask in most.
_POLITE = re.compile(r"^(?:sure|certainly|of course|okay|ok|absolutely|great)(?:[!,.:]|\s+[-\u2013\u2014])\s*", re.I)
_OPENING = re.compile(
    r"^(?:here(?:'s|\u2019s| is| are| you go)|hier ist|voici|aqu\u00ed (?:est\u00e1|tienes)|ecco|this is|caption"
    r"|description)[^:\n.]{0,60}:\s+",
    re.I,
)
_HERE_IS = re.compile(r"^here(?:'s|\u2019s| is| are)\s+(?=an?\s|the\s)", re.I)
_REFUSAL = re.compile(
    r"^(?:i['\u2019]?m sorry|sorry,|i (?:can(?:no|['\u2019])t|am (?:not able|unable)|won['\u2019]t))\b.{0,160}$",
    re.I | re.S,
)


class Unusable(Exception):
    """Raised when an answer holds no caption; the message says why."""


class Declined(Unusable):
    """Raised when the model says in words that it won't describe the photo."""


@dataclass(frozen=True)
class Answer:
    """A checked answer; `visible_text` is None where there is none."""

    caption: str
    keywords: tuple[str, ...]
    visible_text: str | None


def compose(instructions: str, language: str, facts: tuple[str, ...] = ()) -> str:
    """Write the request; `instructions` empty means the usual ones, `language` is a name or code such as "German"."""
    parts = [instructions.strip() or DEFAULT, f"Write caption and keywords in this language: {language}."]
    if facts:
        parts.append("Known about the photo, not to be repeated for its own sake: " + "; ".join(facts) + ".")
    return "\n\n".join(parts)


def version(instructions: str, language: str) -> str:
    """Return the name of a prompt, made of its words: captions of one prompt are known by it."""
    return hashlib.sha256(compose(instructions, language).encode()).hexdigest()[:8]


def check(text: str) -> Answer:
    """Make an `Answer` of the model's text. Raises Unusable, Declined."""
    table = _table(text)
    caption = _without_opening(_clean(table.get("caption")))
    if not caption:
        raise Unusable("the answer was empty")
    if _REFUSAL.match(caption):
        raise Declined(f"the model declined: {caption}")
    found = table.get("keywords")
    return Answer(
        _cut(caption, _MAX_CAPTION),
        _keywords(found if isinstance(found, list) else found.split(",") if isinstance(found, str) else ()),
        _cut(_clean(table.get("visible_text"), lines=True), _MAX_TEXT) or None,
    )


def _table(text: str) -> dict[str, object]:
    """Return the JSON object in an answer, which may stand in a code fence or behind some words."""
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        raise Unusable("the answer was not in the form that was asked for")
    try:
        table = json.loads(text[start : end + 1])
    except (ValueError, RecursionError) as error:  # lists in lists, thousands deep
        raise Unusable("the answer was not in the form that was asked for") from error
    if not isinstance(table, dict):
        raise Unusable("the answer was not in the form that was asked for")
    return table


def _without_opening(caption: str) -> str:
    bare = _OPENING.sub("", _POLITE.sub("", caption), count=1)
    bare = _HERE_IS.sub("", bare).strip().strip('"\u201c\u201d').strip()
    return bare[:1].upper() + bare[1:] if bare != caption else caption


def _keywords(values: Sequence[object]) -> tuple[str, ...]:
    kept: dict[str, str] = {}
    for value in values:
        word = _clean(value).strip(" #.,;\"'")
        if word and len(word) <= _MAX_KEYWORD:
            kept.setdefault(word.casefold(), word)
    return tuple(kept.values())[:_MAX_KEYWORDS]


def _clean(value: object, *, lines: bool = False) -> str:
    """Drop what no text for people holds (and XML forbids): control characters, lone surrogates, noncharacters.

    And what turns the direction of all that follows, past the end of the text, wherever it is shown (UAX #9). The marks
    that only help a word to its place (LRM, RLM, ALM) stay: Hebrew and Arabic need them.
    """
    if not isinstance(value, str):
        return ""
    text = "".join(
        c
        for c in unicodedata.normalize("NFC", value)
        if c in "\n\t" or (unicodedata.category(c) not in {"Cc", "Cs", "Cn"} and c not in _TURNING)
    )
    return text.strip() if lines else " ".join(text.split())


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 1].rstrip() + "\u2026"
