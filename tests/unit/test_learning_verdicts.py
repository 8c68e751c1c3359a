"""How often operators' verdicts refuse: simulated, looked at after every five, with seeds fixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import comb

import numpy as np
import pytest

from online_learning.gate import Thresholds
from online_learning.preferences import Preference, Source, preference
from online_learning.statistics import seeded

Rule = Callable[[list[bool], list[Source]], bool]
RATE, ALONE = Thresholds().max_false_refusals, Thresholds().min_votes_alone
NUM_RUNS = 200


@dataclass(frozen=True)
class World:
    """Verdicts on topics drawn by lot, by operators drawn by lot, on a candidate that differs from the champion in all."""

    topics: int
    verdicts: int
    operators: int = 2
    lost: float = 0.5
    """The share of topics on which the candidate is worse; .5: neither is better."""
    agree: float = 1.0
    """How often a verdict says what is so of its topic; .5 with `lost` .5 makes every verdict a coin of its own."""


def draw(world: World, seed: int) -> tuple[list[bool], list[Source]]:
    """(whether each verdict is a loss, where it comes from), oldest first."""
    rng = seeded(seed, "verdicts")
    lost = rng.random(world.topics) < world.lost
    topics, authors = (
        rng.integers(world.topics, size=world.verdicts),
        rng.integers(world.operators, size=world.verdicts),
    )
    is_loss = lost[topics] == (rng.random(world.verdicts) < world.agree)
    return is_loss.tolist(), [
        Source(frozenset((f"answer:{topic}", "handoff")), f"operator:{author}")
        for topic, author in zip(topics, authors, strict=True)
    ]


def by_votes(is_loss: list[bool], sources: list[Source]) -> bool:
    """The rule in force."""
    margins = np.where(is_loss[::-1], -1.0, 1.0)
    return preference(margins, -margins, sources[::-1]).is_worse(RATE, ALONE)


def by_signs(is_loss: list[bool], _: list[Source]) -> bool:
    """The control: each verdict a coin of its own, one exact sign test (Dixon and Mood 1946) at every look."""
    num, losses = len(is_loss), sum(is_loss)
    return sum(comb(num, k) for k in range(losses, num + 1)) / (1 << num) <= RATE


def ever_refused(world: World, rule: Rule = by_votes) -> float:
    """Share of runs in which the candidate is refused at some look."""
    runs = [draw(world, seed) for seed in range(NUM_RUNS)]
    ends = range(5, world.verdicts + 1, 5)
    return sum(any(rule(said[:end], sources[:end]) for end in ends) for said, sources in runs) / NUM_RUNS


@pytest.mark.parametrize(
    "world",
    [
        World(topics=10, verdicts=50),
        World(topics=10, verdicts=100, operators=3, agree=0.8),
        World(topics=15, verdicts=150, operators=4, agree=0.5),
        World(topics=100, verdicts=100),
        World(topics=100, verdicts=100, operators=1),
    ],
    ids=["clicks that agree", "clicks that mostly agree", "every click a coin", "many topics", "one operator"],
)
def test_neither_better_is_refused_no_more_often_than_stated_however_often_one_looks(world: World) -> None:
    """At most 5 % of candidates in all looks together; the plain sign test refuses more than twice as many."""
    assert ever_refused(world) <= RATE
    assert ever_refused(world, by_signs) > 2 * RATE


@pytest.mark.parametrize(
    ("world", "at_least"),
    [
        (World(topics=30, verdicts=60, lost=0.9, agree=0.9), 0.7),
        (World(topics=60, verdicts=100, lost=0.8, agree=0.9), 0.7),
        (World(topics=30, verdicts=60, lost=0.9, agree=0.9, operators=1), 0.7),
    ],
)
def test_a_candidate_that_is_worse_is_refused_by_a_plausible_number_of_verdicts(world: World, at_least: float) -> None:
    """One that is worse on nine topics in ten, or four in five, by operators who err once in ten."""
    assert ever_refused(world) >= at_least


@pytest.mark.parametrize("operators", [1, 2, 5])
def test_clicks_on_one_topic_never_stop_learning(operators: int) -> None:
    """Fifty of them, all lost; five were enough for the sign test."""
    world = World(topics=1, verdicts=50, lost=1.0, operators=operators)
    assert ever_refused(world) == 0.0
    assert ever_refused(world, by_signs) == 1.0


def lost_to(*authors: str) -> Preference:
    """One lost topic of each author, newest first."""
    sources = [Source(frozenset((f"answer:{n}", "handoff")), author) for n, author in enumerate(authors)]
    margins = -np.ones(len(authors))
    return preference(margins, -margins, sources)


@pytest.mark.parametrize(
    ("authors", "refused"),
    [
        (["ana"] * 11, False),
        (["ana"] * 12, True),
        (["ana"] * 30 + ["bo"], False),
        (["ana"] * 30 + ["bo"] * 3, False),
        (["ana"] * 30 + ["bo"] * 4, True),
        (["ana", "bo", "cy"] * 2 + ["ana"], False),
        (["ana", "bo", "cy"] * 2 + ["ana", "bo"], True),
    ],
)
def test_nobody_decides_alone_where_others_judge(authors: list[str], refused: bool) -> None:
    """Of whoever gave most, as many count as the others gave: 3 + 3 are too few, 4 + 4 enough; one alone needs twelve."""
    assert lost_to(*authors).is_worse(RATE, ALONE) is refused
