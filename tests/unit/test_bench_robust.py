"""`bench robust`: differences are paired, and what a question becomes does not depend on the others."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from bot.errors import ConfigError
from bot.settings import load_settings
from online_learning.bench.robust import all_perturbed, compared, main, measure
from online_learning.evaluate import Evaluator, Question, Scores
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


class Answers:
    """Right on questions as they are; on perturbed ones right unless they are of a kind that is `lost`."""

    def __init__(self, *lost: str) -> None:
        self._wrong = {question.text for kind in lost for question in all_perturbed(QUESTIONS, kind, 0)}

    def scores(self, questions: Sequence[Question], _versions: Sequence[str]) -> list[Scores]:
        return [scores(*(float(question.text not in self._wrong) for question in questions))]


@pytest.mark.parametrize("lost", ["typos", "injection"])
def test_a_kind_that_costs_too_much_is_named(lost: str) -> None:
    """All of its questions lost: -1; the others cost nothing."""
    report = measure(cast("Evaluator", Answers(lost)), QUESTIONS, "v000001", 0)
    assert (report["worst"], report["ok"], report["accuracy"]) == (lost, False, 1.0)
    assert {kind: found["difference"] for kind, found in report["kinds"].items() if found["difference"]} == {lost: -1.0}


def test_more_than_people_do_is_reported_and_decides_nothing() -> None:
    """Haste alone is lost, and it is well."""
    report = measure(cast("Evaluator", Answers("haste")), QUESTIONS, "v000001", 0)
    assert report["kinds"]["haste"]["difference"] == -1.0
    assert report["ok"]


def test_without_a_dataset_it_says_what_it_wants(tmp_path: Path) -> None:
    """One clear line, before any model is loaded."""
    with pytest.raises(ConfigError, match=r"expected --dataset F.jsonl, got nothing"):
        main(load_settings({"home": tmp_path}, {}), argparse.Namespace(dataset=None))
