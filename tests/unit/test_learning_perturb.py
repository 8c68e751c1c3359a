"""Perturbed questions: seeded, of one kind at a time, and worded otherwise for teaching than for measuring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from typing import Any

import numpy as np
import pytest

from online_learning.advantages import Credit
from online_learning.perturb import KINDS, MEASURING, TEACHING, augmented, perturbed
from tests.builders import make_decision

QUESTION = "How do I get a refund for a payment that I never made?"


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def read(texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Tokens by the lengths of words."""
    return [tuple(len(word) for word in text.split()) for text in texts]


def rated(count: int, **overrides: Any) -> list[Credit]:
    return [Credit(make_decision(id=f"d{i}", query=QUESTION, **overrides), 0.5, 1.0) for i in range(count)]


@cache
def distance(first: str, second: str) -> int:
    """Edits with swaps of neighbours (optimal string alignment), by the definition."""
    if not first or not second:
        return len(first) + len(second)
    costs = [distance(first[1:], second) + 1, distance(first, second[1:]) + 1]
    costs.append(distance(first[1:], second[1:]) + (first[0] != second[0]))
    if first[:2] == second[1::-1] and len(second) > 1:
        costs.append(distance(first[2:], second[2:]) + 1)
    return min(costs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_reproduces_a_perturbation_and_seeds_differ(kind: str) -> None:
    """The same stream gives the same text; twenty streams give more than one."""
    texts = {perturbed(QUESTION, kind, rng(seed)) for seed in range(20)}
    assert perturbed(QUESTION, kind, rng(3)) == perturbed(QUESTION, kind, rng(3))
    assert len(texts) > 1
    assert texts != {QUESTION}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["", "?", "ok", "no no", "où ça?", "カードはどこ", "x1234", "a " * 500])
def test_no_text_is_too_odd_to_perturb(kind: str, text: str) -> None:
    """Empty, short, without Latin letters, long: something comes back, and no error."""
    assert isinstance(perturbed(text, kind, rng()), str)


@pytest.mark.parametrize("seed", range(30))
def test_a_slip_is_one_edit_of_a_longer_word(seed: int) -> None:
    """42 letters: one slip. The first letters stand, and words of three letters are left alone."""
    typed = perturbed(QUESTION, "typos", rng(seed)).split(" ")
    changed = [(was, now) for was, now in zip(QUESTION.split(" "), typed, strict=True) if was != now]
    assert len(changed) == 1
    ((was, now),) = changed
    assert len(was) >= 4
    assert was[0] == now[0]
    assert distance(was, now) == 1


def test_haste_slips_three_times_as_often() -> None:
    """42 letters at one in 15: three words."""
    typed = perturbed(QUESTION, "haste", rng()).split(" ")
    assert sum(was != now for was, now in zip(QUESTION.split(" "), typed, strict=True)) == 3


def test_casing_changes_nothing_but_the_case() -> None:
    """Upper, lower or title case of the same letters."""
    assert {perturbed(QUESTION, "casing", rng(seed)).lower() for seed in range(10)} == {QUESTION.lower()}


@pytest.mark.parametrize("kind", ["emoji", "filler", "injection"])
def test_what_is_put_around_a_question_leaves_its_words_in_order(kind: str) -> None:
    """Taking the question's words out of the longer text, in order, finds every one."""
    for seed in range(20):
        words = iter(perturbed(QUESTION, kind, rng(seed)).split(" "))
        assert all(word in words for word in QUESTION.split(" "))


def test_what_teaches_and_what_measures_share_no_words() -> None:
    """A learner that learned the list by heart must not look robust."""
    for field in fields(TEACHING):
        assert not set(getattr(TEACHING, field.name)) & set(getattr(MEASURING, field.name)), field.name


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    """One clear line."""
    with pytest.raises(ValueError, match=r"expected one of typos, .*got 'rot13'"):
        perturbed(QUESTION, "rot13", rng())


def test_a_row_and_its_twin_differ_in_the_question_alone_and_count_half_each() -> None:
    """The rows come first; a twin's tokens are those of its new words; words that were generated stay with the row."""
    rows = rated(20)
    found = augmented(rows, read=read, share=1.0, seed=0)
    assert [row.decision for row in found[:20]] == [row.decision for row in rows]
    assert {row.weight for row in found} == {0.5}
    assert len({row.decision.id for row in found}) == 40
    for row, twin in zip(rows, found[20:], strict=True):
        assert (twin.advantage, twin.value_target) == (row.advantage, row.value_target)
        ours, theirs = row.decision, twin.decision
        assert (theirs.chosen, theirs.logprobs, theirs.legal) == (ours.chosen, ours.logprobs, ours.legal)
        assert theirs.query_ids == read([theirs.query])[0]
        assert theirs.generated is None
    assert len({twin.decision.query for twin in found[20:]}) > 10


def test_the_share_of_twins_is_as_asked() -> None:
    """None of none, and then the rows weigh what they did; of 400 rows at one half, 200 give or take five standard
    deviations (10 each)."""
    assert augmented(rated(50), read=read, share=0.0, seed=0) == rated(50)
    found = augmented(rated(400), read=read, share=0.5, seed=0)
    assert 150 <= len(found) - 400 <= 250
    assert sum(row.weight for row in found) == 400


def test_a_rows_twin_does_not_depend_on_the_rows_beside_it() -> None:
    """What one update has read the next need not read again; another seed words it otherwise."""
    first, later = (augmented(rows, read=read, share=1.0, seed=0)[-1] for rows in (rated(3), rated(3)[-1:]))
    assert first == later
    assert augmented(rated(3), read=read, share=1.0, seed=1)[-1].decision.query != later.decision.query


def test_augmentation_speaks_in_the_words_for_teaching() -> None:
    """With injections alone, each twin carries one of TEACHING's and none of MEASURING's."""
    for twin in augmented(rated(20), read=read, share=1.0, seed=0, kinds=("injection",))[20:]:
        assert any(words in twin.decision.query for words in TEACHING.injections)
        assert not any(words in twin.decision.query for words in MEASURING.injections)


def test_a_share_outside_its_range_is_refused() -> None:
    """Expected and got."""
    with pytest.raises(ValueError, match=r"share: expected 0..1, got 1.5"):
        augmented(rated(1), read=read, share=1.5, seed=0)
