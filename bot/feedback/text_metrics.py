"""What can be measured on a reply's text, alone or against a reference. Pure; the libraries load when first asked for.

- `bleu`: sentence BLEU of sacreBLEU (arXiv 1804.08771), with effective order, over 100: 0..1.
- `rouge_l`: F1 of the longest common subsequence of words (ROUGE-L, Lin 2004, aclanthology W04-1013), without stemming;
  the subsequence is RapidFuzz's.

References of several sentences are taken as one. Words are case-folded runs of letters and digits; a Chinese, Japanese
or Korean character is a word.
"""

from __future__ import annotations

import re
from functools import lru_cache

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")

_QUESTION = re.compile("[?\uff1f\u061f]+")

MAX_CHARS = 4000
"""Of a text that is compared: both metrics cost more than in proportion to it."""


def words(text: str) -> list[str]:
    """The words of a text, case-folded."""
    return _WORD.findall(text.casefold())


@lru_cache(maxsize=4096)
def num_words(text: str) -> int:
    """How many words."""
    return len(words(text))


def num_questions(text: str) -> int:
    """How many sentences end as questions: runs of question marks, of whatever width."""
    return len(_QUESTION.findall(text))


@lru_cache(maxsize=4096)
def repetition(text: str) -> float:
    """Share of word triples that stood in the text before, 0..1."""
    said = words(text)
    triples = list(zip(said, said[1:], said[2:], strict=False))
    return 1.0 - len(set(triples)) / len(triples) if triples else 0.0


@lru_cache(maxsize=4096)
def bleu(text: str, reference: str) -> float:
    """Sentence BLEU, 0..1."""
    from sacrebleu.metrics.bleu import BLEU

    text, reference = text[:MAX_CHARS], reference[:MAX_CHARS]
    tokenizer = "zh" if re.search(f"[{_CJK}]", reference) else "13a"
    score = BLEU(tokenize=tokenizer, effective_order=True).sentence_score(text, [reference]).score
    return min(max(float(score) / 100, 0.0), 1.0)


@lru_cache(maxsize=4096)
def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L F1, 0..1."""
    from rapidfuzz.distance import LCSseq

    said, wanted = words(text[:MAX_CHARS]), words(reference[:MAX_CHARS])
    shared = LCSseq.similarity(said, wanted)
    return 2 * shared / (len(said) + len(wanted)) if shared else 0.0
