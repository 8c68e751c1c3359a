"""Where a reply begins and ends, in tokens and in text. Pure; no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from bot.policy.types import TextRequest

LONGEST_CYCLE = 24
MIN_CYCLES = 3
MIN_REPEATED = 12
"""A reply runs in circles when its last tokens are one cycle at least three times over, and at least so many tokens."""
_CLOSERS = "\"'’”»)]*_"
_CLOSING = f"[{re.escape(_CLOSERS)}]*"
_SENTENCE_END = re.compile(rf"[.!?…]{_CLOSING}\s+\Z|[。！？]{_CLOSING}\s*\Z")
_NO_END = re.compile(r"(?:(?:^|\n)\W*\d+|\b(?:Mr|Mrs|Ms|Dr|Prof|St|No|Nr|vs|approx|e\.g|i\.e))\.\s+\Z")
"""A list's number, or a point that only shortens a word."""


class Words(Protocol):
    """`bot.policy.vocabulary.Vocabulary`, of which this needs two things."""

    stop_ids: frozenset[int]

    def text_of(self, token_ids: Sequence[int], before: str) -> str:
        """What tokens say; `before` while a character is incomplete."""


def read_on(words: Words, text: str, tokens: Sequence[int], request: TextRequest) -> tuple[str, str]:
    """Text of the tokens so far, given that of all but the newest, and why the reply ends there ("": it does not).

    The first word of a sentence that would begin too late is drawn and not shown, as stop strings are: only it tells that
    the sentence before had ended, and the row keeps every token that was drawn.
    """
    if tokens[-1] in words.stop_ids:
        return text, "stop"
    before = text
    text, is_stopped = cut_at_stop(words.text_of(tokens, before), request.stop)
    if is_stopped:
        return text, "stop"
    if request.sentence_from is not None and len(tokens) > request.sentence_from and begins_sentence(before, text):
        return before, "length"
    if len(tokens) >= request.max_tokens:
        return text, "length"
    return text, "repetition" if is_in_circles(tokens) else ""


def begins_sentence(before: str, text: str) -> bool:
    """Whether the first word of another sentence stands in `text` and not yet in `before`, its beginning."""
    added = text[len(before) :]
    start = len(before) + len(added) - len(added.lstrip())
    if not added.strip() or not before.strip() or text[start].islower():
        return False
    if not text[start - 1].isspace() and text[start] in _CLOSERS:
        return False
    return bool(_SENTENCE_END.search(text, 0, start)) and not _NO_END.search(text, 0, start)


def is_in_circles(tokens: Sequence[int]) -> bool:
    """Whether the end of the tokens is one short cycle over and over."""
    return any(
        _is_periodic(tokens[-max(MIN_CYCLES * period, MIN_REPEATED) :], period)
        for period in range(1, LONGEST_CYCLE + 1)
        if len(tokens) >= max(MIN_CYCLES * period, MIN_REPEATED)
    )


def _is_periodic(tail: Sequence[int], period: int) -> bool:
    return list(tail[period:]) == list(tail[:-period])


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop string, and whether there was one."""
    places = [place for place in (text.find(string) for string in stop) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


def num_held_back(text: str, stop: Sequence[str]) -> int:
    """Length of the longest end of the text that may be the beginning of a stop string."""
    longest = max((len(string) for string in stop), default=1) - 1
    return next((n for n in range(min(longest, len(text)), 0, -1) if any(s.startswith(text[-n:]) for s in stop)), 0)


def last_place(prompt_ids: Sequence[int], invocation: tuple[int, ...]) -> int:
    """Where the last occurrence of `invocation` begins; 0: at the first token, or nowhere."""
    last = len(prompt_ids) - len(invocation)
    places = (i for i in range(last, 0, -1) if tuple(prompt_ids[i : i + len(invocation)]) == invocation)
    return next(places, 0) if invocation else 0
