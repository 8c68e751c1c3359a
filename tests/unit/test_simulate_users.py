"""Simulated people: how many rate, how true their thumbs are, and that a seed repeats them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from bot.domain import load_domain
from bot.errors import ConfigError
from online_learning.evaluate import Question
from online_learning.simulate.run import Plan, _asked_and_kept, _check_fresh, _options, _percentiles, _spread
from online_learning.simulate.users import NOISES, TASTES, TURNS_PER_USER, thumb, turns
from tests.builders import make_conversation
from tests.learner_rig import open_home, tiny_models

QUESTIONS = [Question(f"question {i}", f"answer {i % 7}") for i in range(40)]
FOUR_SIGMA = 4.0
"""A count outside is a fault, not chance: 1 in 16,000."""


def within(count: int, trials: int, share: float) -> bool:
    """Whether a binomial count is where it should be."""
    return abs(count - trials * share) <= FOUR_SIGMA * (trials * share * (1 - share)) ** 0.5


def test_the_same_seed_asks_the_same_and_another_does_not() -> None:
    """Questions, raters and luck."""
    assert list(turns(QUESTIONS, 100, 0.3, 5)) == list(turns(QUESTIONS, 100, 0.3, 5))
    assert list(turns(QUESTIONS, 100, 0.3, 5)) != list(turns(QUESTIONS, 100, 0.3, 6))


def test_every_question_is_asked_before_one_comes_again() -> None:
    """Forty questions in the first forty turns, in no order of the file."""
    asked = [turn.question for turn in turns(QUESTIONS, 80, 1.0, 0)]
    assert set(asked[:40]) == set(asked[40:]) == set(QUESTIONS)
    assert asked[:40] != QUESTIONS


def test_a_person_stays_for_five_turns() -> None:
    """Turns 0 to 4 are user 0, the next five user 1."""
    users = [turn.user for turn in turns(QUESTIONS, 3 * TURNS_PER_USER, 1.0, 0)]
    assert users == [0] * 5 + [1] * 5 + [2] * 5


def test_at_rate_one_everything_is_rated() -> None:
    """No exception."""
    assert all(turn.rates for turn in turns(QUESTIONS, 500, 1.0, 0))


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5, 0.8])
def test_the_share_of_rated_turns_is_the_rate(rate: float) -> None:
    """Turns of one person hang together, so the bound counts persons: at most five turns each."""
    count = 20_000
    rated = sum(turn.rates for turn in turns(QUESTIONS, count, rate, 1))
    spread = FOUR_SIGMA * (count * rate * (1 - rate) * TURNS_PER_USER) ** 0.5
    assert abs(rated - count * rate) <= spread


def test_raters_are_people_not_turns() -> None:
    """At rate 0.2 four in ten ever rate, each half of the turns: 0.4 (1 - 1/32) of the persons have a thumb."""
    people: dict[int, int] = {}
    for turn in turns(QUESTIONS, 20_000, 0.2, 2):
        people[turn.user] = people.get(turn.user, 0) + turn.rates
    assert within(sum(count > 0 for count in people.values()), len(people), 0.4 * (1 - 0.5**5))


@pytest.mark.parametrize("noise", list(NOISES))
@pytest.mark.parametrize("is_right", [True, False])
def test_thumbs_are_up_as_often_as_the_noise_says(noise: str, is_right: bool) -> None:
    """By counts: clean never lies, mild seldom, realistic nearly half of the time about wrong answers."""
    wanted = NOISES[noise].up_if_right if is_right else NOISES[noise].up_if_wrong
    drawn = [turn.uniform for turn in turns(QUESTIONS, 4000, 1.0, 3)]
    ups = sum(thumb(NOISES[noise], is_right=is_right, uniform=u) > 0 for u in drawn)
    assert within(ups, len(drawn), wanted)


def test_a_thumb_is_up_or_down() -> None:
    """Just below P(up): up. At it: down."""
    assert thumb(NOISES["mild"], is_right=True, uniform=0.9499) == 1
    assert thumb(NOISES["mild"], is_right=True, uniform=0.95) == -1


@pytest.mark.parametrize(
    ("taste", "liked", "disliked"),
    [
        ("short", "Your card is coming.", "word " * 21),
        ("question", "May I help with more? ", "You may ask more."),
        ("polite", "Thank you for waiting.", "Wait."),
    ],
)
def test_a_taste_likes_its_style(taste: str, liked: str, disliked: str) -> None:
    """One example on each side."""
    assert TASTES[taste](liked)
    assert not TASTES[taste](disliked)


def test_points_of_the_curve_are_spread_and_end_with_the_last() -> None:
    """Ten versions, four points; fewer versions than points: all of them."""
    assert _spread([str(i) for i in range(1, 11)], 4) == ["2", "5", "8", "10"]
    assert _spread(["1", "2"], 4) == ["1", "2"]


def test_percentiles_are_in_milliseconds() -> None:
    """Of 1..101 seconds: the 51st, and the 96th."""
    assert _percentiles([float(i) for i in range(1, 102)]) == {"p50": 51_000.0, "p95": 96_000.0}


def test_settings_given_on_the_command_line_reach_server_and_learner() -> None:
    """They run in processes of their own; what a simulation needs wins."""
    plan = Plan([], 1, 1.0, "clean", "", "approved", 3, lockstep=True)
    options = _options(plan, ["learn.update_every=8", "learn.settle_s=60"])
    assert (options["learn.update_every"], options["learn.settle_s"], options["seed"]) == ("8", "0", "3")


def asked_and_kept(folder: Path, rows: list[dict[str, Any]], **flags: Any) -> Any:
    dataset = folder / "q.jsonl"
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = argparse.Namespace(**{"dataset": dataset, "eval": None} | flags)
    return _asked_and_kept(args, load_domain("bank"))


def test_questions_to_evaluate_on_are_never_asked(tmp_path: Path) -> None:
    """Without a file of their own, every third; a text that comes twice is not asked when it is kept."""
    rows = [{"text": text, "answer": "card_arrival"} for text in ("a", "b", "c", "c", "d", "e")]
    asked, kept = asked_and_kept(tmp_path, rows)
    assert [question.text for question in kept] == ["c", "e"]
    assert [question.text for question in asked] == ["a", "b", "d"]


def test_a_dataset_too_small_to_keep_any_is_refused_before_anything_runs(tmp_path: Path) -> None:
    """Not after a thousand turns."""
    with pytest.raises(ConfigError, match="--eval"):
        asked_and_kept(tmp_path, [{"text": "a", "answer": "card_arrival"}])


def test_simulated_people_do_not_mix_with_real_ones(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A home where somebody has talked is refused by name."""
    with open_home(tmp_path, tiny_models(tmp_path_factory.mktemp("models"))) as home:
        _check_fresh(home.settings)
        home.store.add_conversation(make_conversation())
        with pytest.raises(ConfigError, match=f"expected a fresh home, got {home.settings.home} with 1 conversations"):
            _check_fresh(home.settings)
