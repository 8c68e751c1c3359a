"""Acts and words of one reply, told apart: whose reward is what. Pure.

A rule of `applies_to: words` (docs/rules.md) speaks of what the language model wrote, not of the act that was chosen. Its
terms are taken out of what acts and gate hear; where rules in force have such terms, they are all that words hear.

Words have no value head that knows style. A row's reward is compared with the mean of the update's rows and measured in
their standard deviations, as group baselines are (REINFORCE with a batch baseline; SPO, arXiv 2509.13232, normalises so
over unlike prompts too).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import fsum

import numpy as np

from bot.feedback.rules import Rules
from bot.feedback.store import Rated
from online_learning.advantages import Credit

NO_SPREAD = 1e-9
"""Below this standard deviation all rewards are the same: nothing sets a row apart."""


@dataclass(frozen=True, slots=True)
class Heard:
    """Rated rows, as acts hear them, and what was said of words alone."""

    rows: list[Rated]
    words: dict[str, float]
    """Decision id -> reward of its words; empty where no rule speaks of words alone."""
    silent: frozenset[str]
    """Decisions that were rated for their words alone: of their acts nobody spoke."""

    @property
    def judged(self) -> list[Rated]:
        """The rows by which acts can be judged."""
        return [row for row in self.rows if row.decision.id not in self.silent]

    def tell(self, credit: Credit) -> Credit:
        """The credit with what its words earned."""
        name = credit.decision.id
        return replace(credit, words=self.words.get(name), weight=0.0 if name in self.silent else credit.weight)


def heard_apart(rows: Iterable[Rated], rules: Rules) -> Heard:
    """Take what rules in force say of words out of the rows' rewards."""
    names, kept, words, spoken = rules.word_terms, list[Rated](), dict[str, float](), set[str]()
    for row in rows:
        reward = row.reward
        of_words = [term.value for term in reward.terms if term.rule in names]
        if len(of_words) < len(reward.terms):
            spoken.add(row.decision.id)
        if names and reward.scope == "reply" and reward.rules_hash == rules.rules_hash:
            words[row.decision.id] = fsum(of_words)
        # The same object where nothing is taken: numbers keep every bit.
        kept.append(
            replace(row, reward=replace(reward, value=(reward.value or 0.0) - fsum(of_words))) if of_words else row
        )
    return Heard(kept, words, frozenset(row.decision.id for row in kept) - spoken if names else frozenset())


def of_words(earned: Sequence[Credit]) -> list[Credit]:
    """The rows as words hear them; those that tell words nothing are left out."""
    told = [credit for credit in earned if credit.words is not None]
    if not told:
        return list(earned)
    rewards_N = np.array([credit.words for credit in told], dtype=np.float64)
    spread = float(rewards_N.std())
    if spread < NO_SPREAD:
        return []
    advantages_N = (rewards_N - rewards_N.mean()) / spread
    return [replace(row, advantage=float(a), weight=1.0) for row, a in zip(told, advantages_N, strict=True)]
