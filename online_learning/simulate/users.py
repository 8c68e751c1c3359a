"""Simulated people: what they ask, whether they rate, and how well their thumbs tell the truth. Pure, seeded.

Calibration: DSTC9 track 1 (61,944 ratings) gives P(up | right) 0.867 and P(up | wrong) 0.477; ConvAI2 volunteers rated
19.8 % of turns, in 65 % of dialogues. So raters are people, not turns: one either rates about half of their turns or none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from online_learning.evaluate import Question
from online_learning.statistics import seeded

TURNS_PER_USER = 5


@dataclass(frozen=True, slots=True)
class Noise:
    """How often a thumb is up."""

    up_if_right: float
    up_if_wrong: float


NOISES: Mapping[str, Noise] = {
    "clean": Noise(1.0, 0.0),
    "mild": Noise(0.95, 0.10),
    "realistic": Noise(0.87, 0.48),
}

TASTES: Mapping[str, Callable[[str], bool]] = {
    "short": lambda text: len(text.split()) <= 20,
    "question": lambda text: text.rstrip().endswith("?"),
    "polite": lambda text: any(word in text.lower() for word in ("please", "thank", "sorry", "happy to", "glad")),
}
"""Styles of generated text that a simulated user may like."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One question by one simulated person."""

    number: int
    """Counts all turns of the run from 0."""
    user: int
    question: Question
    rates: bool
    uniform: float
    """Decides the thumb together with what was answered: up where it is below P(up)."""


def turns(questions: Sequence[Question], count: int, rate: float, seed: int) -> Iterator[Turn]:
    """`count` turns over shuffled questions (again from the start when they run out), five a user.

    At rate R a user ever rates with probability min(1, 2R), and then each turn with R / min(1, 2R).
    """
    rng = seeded(seed, "simulate")
    order = np.concatenate([rng.permutation(len(questions)) for _ in range(-(-count // len(questions)))])
    ever = min(1.0, 2 * rate)
    is_rater = False
    for number in range(count):
        if number % TURNS_PER_USER == 0:
            is_rater = bool(rng.random() < ever)
        rates = bool(rng.random() * ever < rate) and is_rater
        yield Turn(number, number // TURNS_PER_USER, questions[order[number]], rates, float(rng.random()))


def thumb(noise: Noise, *, is_right: bool, uniform: float) -> int:
    """+1 or -1."""
    return 1 if uniform < (noise.up_if_right if is_right else noise.up_if_wrong) else -1
