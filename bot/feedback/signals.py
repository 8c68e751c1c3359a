"""Signals nobody presses a button for. Pure: text in, signal out; the caller stores it.

A rephrase: the person asks nearly the same thing again, so the answer in between was probably wrong.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable

from bot.conversation import Act, ActKind, Decision, Signal, SignalKind, digest

Similarity = Callable[[str, str], float]
"""Of two user texts, 0 (nothing in common) to 1 (the same)."""

REPHRASE_THRESHOLD = 0.6
"""For `ngram_similarity`; another similarity needs its own."""
MIN_WORDS = 3
"""Shorter texts ("yes", "thank you") come twice without meaning it."""

_ANSWERS = (ActKind.ANSWER, ActKind.RESPOND, ActKind.SAY)
"""Acts that a rephrase speaks against. Asking for a slot, an action or a choice invites similar words."""


def rephrase_signal(
    previous: Decision,
    previous_text: str,
    text: str,
    now: float,
    *,
    similarity: Similarity | None = None,
    threshold: float = REPHRASE_THRESHOLD,
) -> Signal | None:
    """The REPHRASE signal about `previous`, the answer given to `previous_text`, when `text` asks the same again.

    Its author is the person (their caps apply), its source the system. The same text again is the same key; another
    rephrasing of the same question takes its place, so one counts.
    """
    if Act.parse(previous.act).kind not in _ANSWERS or min(_num_words(previous_text), _num_words(text)) < MIN_WORDS:
        return None
    score = (similarity or ngram_similarity)(previous_text, text)
    if not score >= threshold:
        return None
    return Signal(
        key=f"rephrase:{previous.id}:{digest(text)}",
        conversation_id=previous.conversation_id,
        kind=SignalKind.REPHRASE,
        value=min(score, 1.0),
        author=previous.person_id,
        created_at=now,
        decision_id=previous.id,
        source="system",
    )


def ngram_similarity(first: str, second: str) -> float:
    """Cosine of counts of character trigrams within words: survives typos and word order, needs no model."""
    left, right = _trigrams(first), _trigrams(second)
    shared = sum(count * right[gram] for gram, count in left.items())
    norms = math.sqrt(sum(n * n for n in left.values()) * sum(n * n for n in right.values()))
    return shared / norms if norms else 0.0


def _num_words(text: str) -> int:
    return len(_words(text))


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char if char.isalnum() else " " for char in plain).split()


def _trigrams(text: str) -> Counter[str]:
    padded = [f" {word} " for word in _words(text)]
    return Counter(word[i : i + 3] for word in padded for i in range(len(word) - 2))
