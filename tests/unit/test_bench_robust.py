"""`bench robust`: differences are paired, and what a question becomes does not depend on the others."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from bot.errors import ConfigError
from bot.settings import load_settings
from online_learning.bench.robust import all_perturbed, compared, main
from online_learning.evaluate import Question, Scores
from online_learning.perturb import KINDS

QUESTIONS = [Question(f"where is my card number {i} now?", "card_arrival") for i in range(8)]


def scores(*right: float) -> Scores:
    values = np.array(right)
    return Scores("v000001", values, values / 2, values)


def test_the_difference_is_that_of_the_same_questions() -> None:
    """Of four questions one was lost and none won: 1.0 -> 0.75, difference -0.25, at worst three of four lost."""
    found = compared(scores(1, 1, 0, 1), scores(1, 1, 1, 1), seed=0)
    assert (found["accuracy"], found["difference"]) == (0.75, -0.25)
    assert found["accuracy_served"] == pytest.approx(0.375)
    assert found["diff_ci"][0] >= -0.75
    assert found["diff_ci"][1] <= 0


def test_equal_answers_are_no_difference_at_all() -> None:
    """Paired: an unpaired interval of eight coin flips would be wide."""
    found = compared(scores(1, 0, 1, 0, 1, 0, 1, 0), scores(1, 0, 1, 0, 1, 0, 1, 0), seed=0)
    assert (found["difference"], found["diff_ci"]) == (0.0, [0.0, 0.0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_becomes_the_same_in_any_company(kind: str) -> None:
    """Each has a random stream of its own; labels stay."""
    together = all_perturbed(QUESTIONS, kind, 7)
    assert all_perturbed(QUESTIONS[3:], kind, 7) == together[3:]
    assert [question.answer for question in together] == ["card_arrival"] * 8
    assert all_perturbed(QUESTIONS, kind, 8) != together


def test_without_a_dataset_it_says_what_it_wants(tmp_path: Path) -> None:
    """One clear line, before any model is loaded."""
    with pytest.raises(ConfigError, match=r"expected --dataset F.jsonl, got nothing"):
        main(load_settings({"home": tmp_path}, {}), argparse.Namespace(dataset=None))
