"""The questions of `make demo`: complete, ours, and asked when nothing else is."""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bot.domain import load_domain
from bot.errors import ConfigError
from online_learning.evaluate import load_questions
from online_learning.simulate import run
from tests.domain_folder import write_domain

BANK = load_domain("bank")
QUESTIONS = load_questions(BANK.folder / "demo_questions.jsonl", list(BANK.articles))


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower().replace("'", "")))


def overlap(one: str, other: str) -> float:
    """Shared words over all words, 0 to 1."""
    return len(words(one) & words(other)) / len(words(one) | words(other))


def make_args(**overrides: Any) -> argparse.Namespace:
    """Options of `rejoinder simulate` as far as questions go."""
    return argparse.Namespace(**{"dataset": BANK.folder / "demo_questions.jsonl", "eval": None} | overrides)


def test_every_article_is_asked_for_three_times() -> None:
    """195 questions, none twice."""
    assert set(Counter(question.answer for question in QUESTIONS).values()) == {3}
    assert len({question.text.lower() for question in QUESTIONS}) == 3 * len(BANK.articles) == 195


def test_no_question_is_one_that_the_bot_was_given() -> None:
    """Otherwise the demo would show memory, not learning. (Half of the words shared is still another sentence.)"""
    given = [text for article in BANK.articles.values() for text in article.texts]
    given += [text for trigger in BANK.triggers.values() for text in trigger.examples]
    given += [step.user for test in BANK.tests for step in test.steps]

    assert overlap("Where is my card?", "where is the card") == 3 / 5
    assert [q.text for q in QUESTIONS if max(overlap(q.text, text) for text in given) > 0.5] == []


def test_simulate_asks_the_domains_own_questions_when_given_none() -> None:
    """The file is found in the domain's folder."""
    assert run._demo_questions(BANK) == BANK.folder / "demo_questions.jsonl"


def test_a_domain_without_questions_needs_a_dataset(tmp_path: Path) -> None:
    """One clear line."""
    domain = load_domain(str(write_domain(tmp_path / "desk")))

    with pytest.raises(ConfigError, match=r"expected --dataset F\.jsonl, got nothing"):
        run._demo_questions(domain)


def test_without_an_evaluation_file_every_third_question_is_kept_and_never_asked() -> None:
    """One of each article's three is left for measuring."""
    asked, kept = run._asked_and_kept(make_args(), BANK)

    assert (len(asked), len(kept)) == (130, 65)
    assert {question.answer for question in kept} == set(BANK.articles)
    assert not {question.text for question in asked} & {question.text for question in kept}


def test_an_evaluation_file_leaves_all_questions_to_ask(tmp_path: Path) -> None:
    """Nothing has to be kept then."""
    path = tmp_path / "eval.jsonl"
    path.write_text(json.dumps({"text": "Is it late?", "answer": "card_arrival"}) + "\n")

    asked, kept = run._asked_and_kept(make_args(eval=path), BANK)

    assert len(asked) == 195
    assert [question.text for question in kept] == ["Is it late?"]


def test_too_few_questions_to_keep_any_are_refused(tmp_path: Path) -> None:
    """A mean over nothing is no measurement."""
    path = tmp_path / "two.jsonl"
    path.write_text(2 * (json.dumps({"text": "Is it late?", "answer": "card_arrival"}) + "\n"))

    with pytest.raises(ConfigError, match="expected 3 questions or --eval"):
        run._asked_and_kept(make_args(dataset=path), BANK)
