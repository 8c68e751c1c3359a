"""Which tokens generated text may use next: no amount, number or link that its sources do not hold.

Pure text and numbers, no tensors. The mask depends on the sources and the text so far only, so the learner
computes the same mask that sampling used and log-probabilities stay exact.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_AMOUNT = re.compile(r"[£$€¥]?\d(?:[\d.,:/-]*\d)?(?: ?%)?")
_TAIL = re.compile(r"(?:[£$€¥]?\d[\d.,:/-]*(?: ?%)?|[£$€¥])\Z")
_GUARDED = re.compile(r"[\d£$€¥%@]|://|www|http|\.[a-z]", re.IGNORECASE)
"""Tokens with an amount or a piece of a link in them."""
_JOINT = re.compile(r"[.,:/-]+")
"""Tokens that may stand within an amount."""
_DOMAIN_TAIL = re.compile(r"\w[\w.-]*\.\Z")
_LINK = re.compile(r"\w[\w.-]*\.[a-z]{2,}\b(?:/\S*)?|https?://\S+|\S+@\S+", re.IGNORECASE)

Mask = npt.NDArray[np.bool_]
MASKS_KEPT = 256
"""A byte a word of the vocabulary: 12 MB at 49,152 words."""


def amounts(text: str) -> frozenset[str]:
    """Every number or amount in the text, with and without its currency sign, and without a per cent sign that stands apart:
    {"£10", "10", "2 %", "2"}."""
    found = _AMOUNT.findall(text)
    return (
        frozenset(found) | {amount.lstrip("£$€¥") for amount in found} | {amount.removesuffix(" %") for amount in found}
    )


def ungrounded(text: str, sources: Sequence[str]) -> list[str]:
    """Amounts and links of `text` that no source holds: empty when the text may be shown."""
    joined = " ".join(sources)
    known = amounts(joined)
    links = [link for link in _LINK.findall(text) if link not in joined]
    return [amount for amount in _AMOUNT.findall(text) if amount not in known] + links


class GroundingMask:
    """Next-token masks for one vocabulary: `token_texts[i]` is what token i adds to the text."""

    def __init__(self, token_texts: Sequence[str], special_ids: Sequence[int], stop_ids: Sequence[int]) -> None:
        self._texts = list(token_texts)
        self._guarded = np.array([bool(_GUARDED.search(text)) for text in self._texts])
        self._guarded_ids = np.flatnonzero(self._guarded)
        self._joint_ids = [i for i, text in enumerate(self._texts) if _JOINT.fullmatch(text)]
        self._glued = np.array([bool(text) and text[0].isalnum() for text in self._texts])
        self._stop_ids = list(stop_ids)
        self._never = np.zeros(len(self._texts), dtype=bool)
        self._never[[i for i in special_ids if i not in self._stop_ids]] = True
        # Nothing, or a piece of a character: pieces could add up to a digit that no source holds.
        self._never |= [text == "" or "\ufffd" in text for text in self._texts]
        self._never[self._stop_ids] = False
        self._newest: OrderedDict[tuple[str, bool, frozenset[str]], Mask] = OrderedDict()

    def allowed(self, text_so_far: str, known_amounts: frozenset[str]) -> Mask:
        """Boolean mask over the vocabulary: what may follow `text_so_far`. Not the caller's to change.

        It depends on the end of the text only, and most texts end in neither an amount nor a link: the newest are kept.
        """
        end = _tail(text_so_far), bool(_DOMAIN_TAIL.search(text_so_far)), known_amounts
        if end not in self._newest:
            self._newest[end] = self._after(*end)
            if len(self._newest) > MASKS_KEPT:
                self._newest.popitem(last=False)
        return self._newest[end]

    def _after(self, tail: str, is_domain: bool, known_amounts: frozenset[str]) -> Mask:
        # An unfinished amount ("£1" of "£10", "2" of "2,000") must go on: nothing but its next piece may follow.
        is_open = _is_open(tail, known_amounts)
        mask = np.zeros_like(self._guarded) if is_open else ~self._guarded
        for token_id in [*self._guarded_ids, *(self._joint_ids if is_open else ())]:
            mask[token_id] = _continues(tail, self._texts[token_id], known_amounts)
        if is_domain:
            mask &= ~self._glued | self._guarded  # Digits were judged above: "10." may become "10.5".
        mask &= ~self._never
        if not mask.any():
            mask[self._stop_ids] = True
        return mask


def _tail(text: str) -> str:
    match = _TAIL.search(text)
    return match.group() if match else ""


def _is_open(tail: str, known: frozenset[str]) -> bool:
    return bool(tail) and tail.rstrip(".,:/-") not in known


def _continues(tail: str, token: str, known: frozenset[str]) -> bool:
    piece = token.strip()
    starts_anew = token[:1].isspace() and not (tail and piece == "%")  # "2 %" is one amount.
    if starts_anew and _is_open(tail, known):
        return False
    whole = piece if starts_anew else tail + token.rstrip()
    if token[-1:].isspace() and _is_open(whole, known):
        return False
    return _TAIL.fullmatch(whole) is not None and any(amount.startswith(whole) for amount in known)
