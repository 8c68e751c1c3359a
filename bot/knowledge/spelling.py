"""Slips of the finger, mended before a question is embedded: a WordPiece encoder reads an unknown word as crumbs.

A word is unknown when neither the articles nor the encoder's own vocabulary have it, nor its stem. It becomes the nearest
known word at one slip's distance (a letter too many, too few, another, or two swapped), the articles' words first. What is
short, has digits, capitals inside or other letters than a to z stays as it is, and so does a text that is mostly unknown
words even then: it is in another language. Pure; knows no model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

MIN_LETTERS = 4
MIN_VOCABULARY = 10_000
"""A smaller vocabulary knows too few words to call others wrong."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_PLAIN = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_NEGATION = re.compile(r"(?:ca|do|wo|is|are|was|were|has|have|had|did|does|could|should|would)nt")
"""Without their apostrophe; `can` for `cant` would say the opposite."""
_PREFIXES = ("re", "un", "mis", "dis")
_ENDINGS = (("s", ""), ("es", ""), ("ies", "y"), ("ed", ""), ("ed", "e"), ("ing", ""), ("ing", "e"), ("ly", ""))


class Speller:
    """Known words: those of the domain, by how often they occur, and a vocabulary, most frequent first."""

    def __init__(self, domain_texts: Iterable[str], vocabulary: Sequence[str]) -> None:
        words = (word.lower() for text in domain_texts for word in _WORD.findall(text))
        self._ours = Counter(word for word in words if word.isascii() and word.isalpha())
        self._rank = {word: rank for rank, word in enumerate(vocabulary)}
        self._is_on = len(self._rank) >= MIN_VOCABULARY

    def mended(self, text: str) -> str:
        """The text with unknown words replaced where one slip explains them."""
        if not self._is_on:
            return text
        mended = _WORD.sub(lambda found: self._mended(found.group()), text)
        words = _WORD.findall(mended)
        num_strange = sum(not self._knows(word.lower()) for word in words)
        return text if num_strange * 2 > len(words) else mended

    def _mended(self, word: str) -> str:
        lower = word.lower()
        if len(word) < MIN_LETTERS or not _PLAIN.fullmatch(word) or self._knows(lower):
            return word
        near = set(_one_slip_away(lower))
        ours = near & self._ours.keys()
        if ours:
            return min(ours, key=lambda candidate: (-self._ours[candidate], candidate))
        return min(near & self._rank.keys(), key=self._rank.__getitem__, default=word)

    def _knows(self, word: str) -> bool:
        if "'" in word or "’" in word or _NEGATION.fullmatch(word):
            return True
        return any(stem in self._ours or stem in self._rank for stem in _stems(word))


def _stems(word: str) -> Iterator[str]:
    """The word, and what it may be an inflection of."""
    yield word
    for ending, base in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= MIN_LETTERS - 1:
            yield word[: -len(ending)] + base
    for prefix in _PREFIXES:
        if word.startswith(prefix) and len(word) - len(prefix) >= MIN_LETTERS:
            yield word[len(prefix) :]


def _one_slip_away(word: str) -> Iterator[str]:
    """Every spelling at optimal-string-alignment distance 1."""
    for i in range(len(word) + 1):
        before, after = word[:i], word[i:]
        yield from (before + letter + after for letter in _LETTERS)
        if after:
            yield before + after[1:]
            yield from (before + letter + after[1:] for letter in _LETTERS)
        if len(after) > 1:
            yield before + after[1] + after[0] + after[2:]
