"""When to ask for a rating: under the replies that the policy itself doubts most. No torch: a Decision's own numbers.

A thumb on a reply that is surely right says little; one on a doubtful reply settles something. A reply is asked about
when

1. it answers or responds, in a conversation that may teach;
2. none of the `EVERY - 1` replies before it in the conversation was asked about: nobody is asked more than once in five;
3. it is among the least believed `share` of the latest replies (before there are enough of those: believed below one half);
4. with it no more than `share` of the latest replies are asked about, since hard questions may come in crowds.

In held-out conversations chance takes the place of 3 and 4: the gate's estimates hold if ratings are missing at random.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bot.conversation import Act, ActKind, Decision, digest

BELIEF_TEMPERATURE = 0.1
"""At which the policy's probabilities mean what they say: the learner's `LikelihoodConfig.belief_temperature`."""
EVERY = 5
"""In any so many successive replies of a conversation at most one is asked about."""
NUM_RECENT = 200
"""Latest replies with which a new one is compared."""
NUM_ENOUGH = 20
"""Replies that make a comparison."""
DOUBTFUL = 0.5
"""Belief that stands in for a comparison before there are so many."""


class Recent(NamedTuple):
    """What is remembered of a reply."""

    belief: float
    asked: bool


def belief(decision: Decision) -> float:
    """The policy's probability that the chosen act is right: pi ^ (temperature / BELIEF_TEMPERATURE), normalised over
    the legal acts (the policy acts more sharply than it believes)."""
    power, top = decision.temperature / BELIEF_TEMPERATURE, max(decision.logprobs)
    weights = [math.exp(power * (logprob - top)) for logprob in decision.logprobs]
    return weights[decision.chosen] / sum(weights)


def would_teach(belief: float, recent: Sequence[Recent], share: float) -> bool:
    """Whether asking is worth it, by the latest replies (conditions 3 and 4)."""
    num_asked = sum(one.asked for one in recent)
    if num_asked + 1 > share * max(len(recent), NUM_ENOUGH):
        return False
    if len(recent) < NUM_ENOUGH:
        return belief < DOUBTFUL
    return sum(one.belief <= belief for one in recent) < share * len(recent)


def by_chance(decision_id: str, share: float) -> bool:
    """True for a `share` of all ids; says nothing of what was chosen, or how surely."""
    return int(digest("ask", decision_id), 16) < share * 2**64


class Asker:
    """Decides for one server or one stream, and remembers its latest replies. Not for several threads at once."""

    def __init__(self, share: float, past: Iterable[tuple[Decision, bool]] = ()) -> None:
        """`share`: of replies, at most; 0: never. `past`: earlier replies and whether they were asked about, oldest
        first."""
        known = (Recent(belief(decision), asked) for decision, asked in past if _can_be_asked(decision))
        self._share = share
        self._recent: deque[Recent] = deque(known, maxlen=NUM_RECENT)

    def asks(self, decision: Decision, asked_before: Sequence[bool]) -> bool:
        """Whether to ask about this reply. `asked_before`: the same of the conversation's earlier replies, in order."""
        if not _can_be_asked(decision):
            return False
        believed = belief(decision)
        asked = not any(asked_before[1 - EVERY :]) and self._is_worth_it(decision, believed)
        self._recent.append(Recent(believed, asked))
        return asked

    def _is_worth_it(self, decision: Decision, believed: float) -> bool:
        if decision.holdout:
            return by_chance(decision.id, self._share)
        return would_teach(believed, self._recent, self._share)


def _can_be_asked(decision: Decision) -> bool:
    return decision.train_ok and Act.parse(decision.act).kind in (ActKind.ANSWER, ActKind.RESPOND)
