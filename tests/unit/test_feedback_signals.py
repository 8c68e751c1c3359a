"""Derived signals: when asking again means that the answer was wrong."""

from __future__ import annotations

import pytest

from bot.conversation import LegalAct, SignalKind
from bot.feedback.signals import ngram_similarity, rephrase_signal
from tests.builders import make_decision


def test_similarity_of_the_same_words_is_one() -> None:
    """Case, punctuation and order do not matter."""
    assert ngram_similarity("Where is my card?", "my CARD, where is") == pytest.approx(1.0)


def test_similarity_of_different_words_is_zero() -> None:
    """No trigram in common; nor with an empty text."""
    assert ngram_similarity("abc", "xyz") == 0.0
    assert ngram_similarity("", "abc") == 0.0


def test_similarity_by_hand() -> None:
    """` abc ` has trigrams ` ab abc bc `; ` abd ` has ` ab abd bd `: 1 shared of 3 and 3."""
    assert ngram_similarity("abc", "abd") == pytest.approx(1 / 3)


def test_asking_again_speaks_against_the_answer_between() -> None:
    """The signal is the person's (their caps apply), noted by the system, on the previous decision."""
    previous = make_decision(id="d7", person_id="p9")
    signal = rephrase_signal(previous, "Where is my new card?", "where's my new card", 50.0)
    assert signal is not None
    assert (signal.kind, signal.decision_id, signal.author, signal.source) == (
        SignalKind.REPHRASE,
        "d7",
        "p9",
        "system",
    )
    assert signal.created_at == 50.0
    assert 0.6 <= signal.value <= 1.0


def test_asking_a_third_time_is_a_key_of_its_own() -> None:
    """A text sent again has the same key, or a retry would be a conflict; another text has another."""
    texts = ("where's my new card", "where's my new card", "so where is my new card")
    signals = [rephrase_signal(make_decision(), "Where is my new card?", text, 0.0) for text in texts]
    keys = [signal.key for signal in signals if signal]
    assert len(keys) == 3
    assert keys[0] == keys[1] != keys[2]


def test_another_question_is_no_rephrase() -> None:
    """The next topic says nothing about the answer."""
    assert rephrase_signal(make_decision(), "Where is my new card?", "How do I change my PIN?", 0.0) is None


def test_short_texts_are_no_rephrase() -> None:
    """People say "thank you" twice."""
    assert rephrase_signal(make_decision(), "thank you", "thank you", 0.0) is None


@pytest.mark.parametrize("act", ["ask:amount", "clarify:a|b", "run:action_freeze_card", "handoff"])
def test_only_answers_can_be_asked_again(act: str) -> None:
    """A question for a slot or a choice invites similar words."""
    previous = make_decision(legal=(LegalAct(act),), logprobs=(0.0,))
    assert rephrase_signal(previous, "freeze my card now", "freeze my card now", 0.0) is None


def test_the_similarity_can_be_replaced() -> None:
    """An encoder's cosine with a threshold of its own."""
    text = "something else entirely here"
    assert rephrase_signal(make_decision(), text, "one two three", 0.0, similarity=lambda a, b: 0.9, threshold=0.8)
    assert not rephrase_signal(make_decision(), text, text, 0.0, similarity=lambda a, b: 0.7, threshold=0.8)


def test_a_similarity_that_is_not_a_number_is_no_rephrase() -> None:
    """NaN compares false, and false must mean no."""
    text = "one two three"
    assert rephrase_signal(make_decision(), text, text, 0.0, similarity=lambda a, b: float("nan")) is None
