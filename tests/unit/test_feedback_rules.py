"""Rules files: what is refused, where the finger points, and what makes two files the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.errors import DomainError
from bot.feedback.rules import Rules, load_rules, parse_rules

BANK = Path(__file__).parents[2] / "bot" / "domains" / "bank" / "rewards.yml"

GOOD = """\
version: 1
rules:
  thumb: {up: 0.5, down: -0.5}
  outcome: {solved: 1.0, not_solved: -1.0}
"""


def refusal(text: str) -> str:
    """The one line a person sees."""
    with pytest.raises(DomainError) as caught:
        parse_rules(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_bank_ships_rules_that_load() -> None:
    """The shipped file holds a rule for every kind that version 1 knows."""
    given = load_rules(BANK).rules
    assert all([given.thumb, given.outcome, given.handover, given.rephrase, given.csat])


def test_the_shortest_useful_file_gets_the_defaults() -> None:
    """Clip -1..1, one whole reward per person, no settling time of its own."""
    rules = parse_rules(GOOD)
    assert (rules.clip.low, rules.clip.high, rules.caps.person_reward, rules.settle_s) == (-1.0, 1.0, 1.0, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "rewards.yml:1:1: expected rules, got an empty file"),
        ("- a\n", "rewards.yml:1:1: expected a mapping for rules file, got a list"),
        ("version: 1\nrules: [\n", "rewards.yml:3:1: expected YAML, got a mistake"),
        ("a\0b", "rewards.yml:1:1: expected YAML, got a mistake"),
        ("rules: {}\n", "rewards.yml:1:1: expected `version` in rules file, got nothing"),
        ("version: 3\nrules: {}\n", "rewards.yml:1:1: expected version: 1 or 2, got 3"),
        ("version: 1\n", "rewards.yml:1:1: expected `rules` in rules file, got nothing"),
        ("rules: {}\nversion: yes\n", "rewards.yml:2:10: expected a number for version, got 'yes'"),
        ("rules: {}\nversion: 1.5\n", "rewards.yml:2:10: expected a whole number for version, got '1.5'"),
        (GOOD + "extra: 1\n", "rewards.yml:5:1: expected one of version, rules, clip, caps, settle_s in rules file"),
        (GOOD + "version: 1\n", "rewards.yml:5:1: expected each key of rules file once, got 'version' twice"),
        (GOOD + "? [a]\n: 1\n", "rewards.yml:5:3: expected a plain key in rules file, got a list"),
        (GOOD + "settle_s: .nan\n", "rewards.yml:5:11: expected a number for settle_s, got '.nan'"),
        (GOOD + "settle_s: -1\n", "rewards.yml:5:1: expected settle_s of at least 0, got -1.0"),
        (GOOD + "clip: {low: -2, high: 1}\n", "rewards.yml:5:1: expected -1 <= low < 0 < high <= 1, got -2.0 and 1.0"),
        (GOOD + "caps:\n  person_reward: 0\n", "rewards.yml:6:3: expected a positive person_reward, got 0.0"),
        (GOOD + "caps:\n  person_conversation: 0\n", "rewards.yml:6:3: expected a positive count, got 0"),
        (GOOD + "  handover: {value: 0.1}\n", "rewards.yml:5:3: expected handover: a value of at most 0, got 0.1"),
        (GOOD + "  csat: {worst: 1, best: -1}\n", "rewards.yml:5:3: expected csat: bad < 0 < good, got 1.0 and -1.0"),
        (GOOD.replace("down: -0.5", "down: much"), "rewards.yml:3:26: expected a number for down, got 'much'"),
        (GOOD.replace("down: -0.5", "up_reasons: 3"), "rewards.yml:3:32: expected a mapping for up_reasons, got '3'"),
        (GOOD.replace(", down: -0.5", ""), "rewards.yml:3:10: expected `down` in thumb, got nothing"),
        (GOOD.replace("thumb", "thumbs"), "rewards.yml:3:3: expected one of thumb, outcome, handover, rephrase, csat"),
    ],
)
def test_a_mistake_is_refused_with_its_place(text: str, message: str) -> None:
    """`file:line:column: expected ..., got ...`, in one line."""
    assert refusal(text).startswith(message)


@pytest.mark.parametrize(
    "thumb",
    [
        "{up: 1.1, down: -0.5}",
        "{up: 0.5, down: -1.1}",
        "{up: 0.5, down: -0.5, up_reasons: {a: 0.3, b: 0.3}}",
        "{up: 0.5, down: -0.5, down_reasons: {a: -0.6}}",
    ],
)
def test_thumbs_heavier_than_the_outcome_are_refused(thumb: str) -> None:
    """DESIGN section 6, invariant 6: not even all reason chips together may outweigh task success."""
    text = GOOD.replace("{up: 0.5, down: -0.5}", thumb)
    assert "expected thumbs (reasons included) no heavier than the outcome rule (1), got 1.1" in refusal(text)


def test_thumbs_as_heavy_as_the_outcome_load() -> None:
    """The control: at the bound, and with chips that soften, the same file is fine."""
    text = GOOD.replace("{up: 0.5, down: -0.5}", "{up: 1, down: -0.8, down_reasons: {a: -0.2, b: 0.7}}")
    assert isinstance(parse_rules(text), Rules)


def test_thumbs_without_an_outcome_rule_are_refused() -> None:
    """Nothing would be heavier than a thumb."""
    text = "version: 1\nrules:\n  thumb: {up: 0.5, down: -0.5}\n"
    assert refusal(text).startswith(
        "rewards.yml:3:3: expected thumbs (reasons included) no heavier than the outcome rule"
    )


def test_the_hash_is_of_the_content() -> None:
    """Comments, order and spelling of numbers do not change it; a weight does."""
    same = """\
# a comment
rules:
  outcome: {not_solved: -1, solved: 1}
  thumb: {down: -5.0e-1, up: 0.50}
version: 1
"""
    assert parse_rules(same).rules_hash == parse_rules(GOOD).rules_hash
    assert parse_rules(GOOD.replace("up: 0.5", "up: 0.6")).rules_hash != parse_rules(GOOD).rules_hash


def test_a_missing_file_is_a_domain_error(tmp_path: Path) -> None:
    """It names the path."""
    with pytest.raises(DomainError, match=r"nowhere\.yml:1:1: expected a rules file"):
        load_rules(tmp_path / "nowhere.yml")
