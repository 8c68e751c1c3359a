"""Figures of `rejoinder eval` on outlooks made by hand, and its refusals of bad files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import log
from pathlib import Path

import numpy as np
import pytest

from bot.errors import ConfigError
from online_learning.evaluate import Question, Scores, load_questions, mean_ci, per_intent, scores_of, with_knowledge
from online_learning.offline import Outlook
from tests.service_rig import make_domain

KNOWN = ["card_arrival", "lost_card"]


def outlook(*pairs: tuple[str, float]) -> Outlook:
    """An act distribution written as probabilities."""
    return Outlook(tuple(act for act, _ in pairs), tuple(log(p) for _, p in pairs))


QUESTIONS = [Question("where is it", "card_arrival"), Question("gone", "lost_card"), Question("help", "lost_card")]
OUTLOOKS = [
    outlook(("answer:card_arrival", 0.7), ("answer:lost_card", 0.2), ("handoff", 0.1)),  # right
    outlook(("answer:card_arrival", 0.5), ("answer:lost_card", 0.25), ("clarify:card_arrival|lost_card", 0.25)),
    outlook(("answer:card_arrival", 0.6), ("handoff", 0.4)),  # the right article is not legal
]


def scored(questions: Sequence[Question] = QUESTIONS, outlooks: Sequence[Outlook] = OUTLOOKS) -> Scores:
    return scores_of(questions, outlooks, "v000001")


def test_accuracy_is_the_modes() -> None:
    """Right, wrong, wrong: one in three."""
    assert scored().right.tolist() == [1.0, 0.0, 0.0]


def test_served_accuracy_is_the_mean_probability_of_the_right_act() -> None:
    """0.7, 0.25 and nothing: 0.95 / 3."""
    assert scored().served == pytest.approx([0.7, 0.25, 0.0])
    assert scored().served.mean() == pytest.approx(0.95 / 3)


def test_success_counts_offering_the_right_article_too() -> None:
    """The clarifying question offers `lost_card`: 0.25 + 0.25. It does not help where it is not legal."""
    assert scored().success == pytest.approx([0.7, 0.5, 0.0])


def test_accuracy_per_intent_is_grouped_by_the_right_answer() -> None:
    """One of one, none of two."""
    assert per_intent(QUESTIONS, scored()) == {"card_arrival": 1.0, "lost_card": 0.0}


def test_the_interval_surrounds_the_mean_and_reproduces() -> None:
    """100 questions, half right: about 0.5 +- 1.96 * 0.05."""
    values = np.array([0.0, 1.0] * 50)
    low, high = mean_ci(values)
    assert low == pytest.approx(0.40, abs=0.02)
    assert high == pytest.approx(0.60, abs=0.02)
    assert mean_ci(values) == [low, high]


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


GOOD = json.dumps({"text": "where is it", "answer": "card_arrival"})


def test_rows_may_name_the_answer_or_the_intent(tmp_path: Path) -> None:
    """Blank lines are passed over."""
    path = write(tmp_path / "q.jsonl", GOOD, "", json.dumps({"text": "gone", "intent": "lost_card"}))
    assert load_questions(path, KNOWN) == [Question("where is it", "card_arrival"), Question("gone", "lost_card")]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{not json", "expected {"),
        ("[1, 2]", "expected {"),
        ('"just text"', "expected {"),
        ('{"text": "hello"}', "expected {"),
        ('{"text": 5, "answer": "lost_card"}', "expected a question, got 5"),
        ('{"text": "  ", "answer": "lost_card"}', "expected a question"),
        ('{"text": "hello", "answer": "weather"}', "expected an article of the domain, got 'weather'"),
        ('{"text": "hello", "answer": ["lost_card"]}', "expected an article of the domain, got ['lost_card']"),
    ],
)
def test_a_bad_row_is_named_with_file_and_line(tmp_path: Path, line: str, expected: str) -> None:
    """One clear line: where, what was expected, what was got."""
    path = write(tmp_path / "q.jsonl", GOOD, line)
    with pytest.raises(ConfigError) as caught:
        load_questions(path, KNOWN)
    assert str(caught.value).startswith(f"{path}:2: {expected}")


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    """An accuracy of nothing means nothing."""
    with pytest.raises(ConfigError, match="at least one row"):
        load_questions(write(tmp_path / "q.jsonl", ""), KNOWN)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x01", b"\x80PNG"])
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    """A picture or a database given by mistake, as questions or as knowledge."""
    path = tmp_path / "q.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="expected UTF-8"):
        load_questions(path, KNOWN)
    with pytest.raises(ConfigError, match="expected UTF-8"):
        with_knowledge(make_domain(), [path])


def test_knowledge_rows_replace_the_domains_articles(tmp_path: Path) -> None:
    """Rows of one intent become one article; the domain's approved answer stays where it has one."""
    rows = [
        {"intent": "card_arrival", "exemplar": "where is my card"},
        {"intent": "card_arrival", "exemplar": "it has not come", "title": "Arrival"},
        {"answer": "pin_blocked", "exemplar": "my pin is blocked"},
    ]
    path = write(tmp_path / "kb.jsonl", *map(json.dumps, rows), "")
    articles = with_knowledge(make_domain(), [path]).articles
    assert articles["card_arrival"].questions == ("where is my card", "it has not come")
    assert (articles["card_arrival"].title, articles["card_arrival"].answer) == ("Arrival", "In 5 days.")
    assert (articles["pin_blocked"].title, articles["pin_blocked"].answer) == ("pin blocked", "pin blocked")


def test_without_knowledge_files_the_domain_is_its_own() -> None:
    """The very same object."""
    domain = make_domain()
    assert with_knowledge(domain, []) is domain


@pytest.mark.parametrize("line", ["[]", "{}", '{"intent": "x"}', '{"intent": "x", "exemplar": 3}', '{"intent": []}'])
def test_a_bad_knowledge_row_is_named_with_file_and_line(tmp_path: Path, line: str) -> None:
    """As with questions."""
    path = write(tmp_path / "kb.jsonl", line)
    with pytest.raises(ConfigError) as caught:
        with_knowledge(make_domain(), [path])
    assert str(caught.value).startswith(f"{path}:1: expected intent and exemplar")
