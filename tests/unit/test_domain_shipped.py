"""The two domains that ship: they load, they are complete, and their texts can be told apart."""

from __future__ import annotations

import re

import pytest

from bot.domain import SHIPPED, load_domain
from bot.feedback.rules import load_rules


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_domain_loads_with_its_rules(name: str) -> None:
    """By name, wherever the package lies."""
    domain = load_domain(name)

    assert domain.name == name
    assert load_rules(domain.rewards_path).version == 1


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_article_is_short_and_asks_three_questions(name: str) -> None:
    """An approved answer has one to three sentences and names no telephone number or address on the web."""
    for article in load_domain(name).articles.values():
        sentences = re.findall(r"[.!?](?:\s|$)", article.answer)
        assert 1 <= len(sentences) <= 3, article.id
        assert len(article.questions) == 3, article.id
        assert not re.search(r"\d{5,}|https?:|www\.", article.answer), article.id


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_domain_has_safety_tests(name: str) -> None:
    """Asking for a person leads to one, and that test must pass."""
    acts = {step.act for test in load_domain(name).tests if test.must_pass for step in test.steps}

    assert {"handoff", "respond:utter_out_of_scope"} <= acts


def test_the_bank_has_sixty_five_articles_and_two_actions() -> None:
    """The size that benchmarks rest on."""
    domain = load_domain("bank")

    assert len(domain.articles) == 65
    assert set(domain.action_forms) == {"action_freeze_card", "action_look_up_transfer"}


def test_greetings_have_wordings_to_choose_from() -> None:
    """Wording is learned: variants are acts."""
    responses = load_domain("bank").responses

    assert all(len(responses[f"utter_{name}"]) >= 3 for name in ("greet", "goodbye", "thanks"))
