"""Whether a message is in a language that the models know. Text in, yes or no; a doubt counts as yes.

1. what has no language (addresses, numbers, ids) is taken out;
2. letters mostly of a script that none of the languages uses: no;
3. too few words to tell: yes; otherwise no only where another language is CLEARLY times likelier than all known ones.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]  # it ships no types

CLEARLY = 5.0
"""How many times likelier. On 7,224 English questions to a bank the highest was 2.3; on foreign sentences of four words
and more the lowest was 11.7, the next 397."""
MIN_WORDS = 3
_WITHOUT_LANGUAGE = re.compile(r"[@\d_]|\b(?:https?://|www\.)")
"""Searched for in one chunk at a time: a pattern over the whole text takes minutes for 100 kB without a space."""
_WORD = re.compile(r"[^\W\d_]+")
_NO_LANGUAGE = "zxx"
"""ISO 639's code for text that is in none: keys hit at random are no foreign question."""
_SCRIPTS = {
    "ar": ("ARABIC",),
    "bg": ("CYRILLIC",),
    "el": ("GREEK",),
    "fa": ("ARABIC",),
    "he": ("HEBREW",),
    "hi": ("DEVANAGARI",),
    "ja": ("HIRAGANA", "KATAKANA", "CJK"),
    "ko": ("HANGUL", "CJK"),
    "ru": ("CYRILLIC",),
    "sr": ("CYRILLIC", "LATIN"),
    "th": ("THAI",),
    "uk": ("CYRILLIC",),
    "zh": ("CJK",),
}
"""Languages written in other letters than Latin ones."""
_RELATIVES = {"en": ("pcm",)}
"""Languages that the identifier tells apart and people write by accident: short English looks like Nigerian Pidgin."""


def likely_language(text: str) -> str:
    """The ISO 639-1 code of the language that a text is most likely in; empty where there is too little to tell."""
    plain = " ".join(chunk for chunk in text.split() if not _WITHOUT_LANGUAGE.search(chunk))
    if len(_WORD.findall(plain)) < MIN_WORDS and not any(ord(letter) > 0x2FF for letter in plain):
        return ""
    best: str = _identifier().rank(plain)[0][0]
    return {_NO_LANGUAGE: "", "pcm": "en"}.get(best, best)


def known_language(text: str, languages: Sequence[str]) -> bool:
    """Whether `text` is, as far as one can tell, in one of `languages` (ISO 639-1 codes, such as `en`)."""
    plain = " ".join(chunk for chunk in text.split() if not _WITHOUT_LANGUAGE.search(chunk))
    words = _WORD.findall(plain)
    if not words:
        return True
    if not _is_written_in(words, languages):
        return False
    return len(words) < MIN_WORDS or not _is_clearly_another(plain, languages)


def _is_written_in(words: Sequence[str], languages: Sequence[str]) -> bool:
    expected = {script for language in languages for script in _SCRIPTS.get(language, ("LATIN",))}
    letters = "".join(words)
    num_expected = sum(_script(letter) in expected for letter in letters)
    return num_expected * 2 >= len(letters)


def _script(letter: str) -> str:
    return unicodedata.name(letter, "UNKNOWN").partition(" ")[0]


def _is_clearly_another(text: str, languages: Sequence[str]) -> bool:
    known = {*languages, *(relative for language in languages for relative in _RELATIVES.get(language, ()))}
    ranked = _identifier().rank(text)
    if ranked[0][0] == _NO_LANGUAGE:
        return False
    probabilities = dict(ranked)
    known_probability = sum(probabilities.get(language, 0.0) for language in known)
    other = max((p for language, p in probabilities.items() if language not in known), default=0.0)
    return bool(other > CLEARLY * known_probability)


@cache
def _identifier() -> LanguageIdentifier:
    """Loaded once (0.7 s); one sentence then takes less than 0.1 ms."""
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
