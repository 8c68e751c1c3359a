"""Blind verdicts of operators as evidence: whose choice did they find better, a candidate's or another policy's? Pure.

A verdict says of one question that one act is better than another. It is nobody's training row, and holds for any policy that
can score the two acts, so also for a candidate that no operator has met. Where candidate and baseline prefer the same act it
tells them apart as little as a tie does.

Verdicts are not coins of their own: five clicks on one question are one opinion. So a topic, the two acts in either order, has
one vote, lost or won: each author with a voice there has one, by the more frequent of their verdicts, and the more frequent
voice is the topic's; where they are even there is none.

Somebody looks after every update, so no fixed test may be repeated. The evidence is an e-value: under "the candidate loses a
vote no more often than it wins one", whatever the number of votes, it ever reaches 1/a with a chance of at most a (Ville 1939;
mixtures for coins: Howard et al. 2021, arXiv 1810.08240). That is proved for votes of unlike topics that stand once cast. Later
verdicts may turn a vote, so twice as much is asked for, which keeps the rate over 500 verdicts whatever the number of topics
and authors (`tests/unit/test_learning_verdicts.py`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

from online_learning.statistics import Floats

MARGIN = 2.0
"""Of the e-value over what votes that never turn would need."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a verdict comes from."""

    topic: frozenset[str]
    """The two acts."""
    author: str


@dataclass(frozen=True, slots=True)
class Vote:
    """What the verdicts on one topic say of the candidate."""

    won: bool
    only_author: str = ""
    """Empty: several had a voice."""


@dataclass(frozen=True, slots=True)
class Preference:
    """A candidate beside one baseline, over verdicts."""

    votes: tuple[Vote, ...]
    """Newest first."""
    alike: int
    """Verdicts on which both prefer the same act: no evidence."""
    num_authors: int
    """Of all verdicts, also of those that tell nothing."""

    @property
    def wins(self) -> int:
        """Votes for the candidate's choice."""
        return sum(vote.won for vote in self.votes)

    @property
    def losses(self) -> int:
        """Votes against it."""
        return len(self.votes) - self.wins

    @property
    def e_worse(self) -> float:
        """E-value against "not worse", 1 without a vote. Among several authors nobody's word weighs more than all others'."""
        heard = [self.votes] if self.num_authors == 1 else [self.votes, _balanced(self.votes)]
        return min(_e_worse(votes) for votes in heard)

    @property
    def share(self) -> float:
        """Mean of the candidate's true share of votes, after a flat prior: Beta(1 + wins, 1 + losses)."""
        return (1 + self.wins) / (2 + self.wins + self.losses)

    def is_worse(self, max_false_refusals: float, min_votes_alone: int) -> bool:
        """Whether to refuse; of candidates that are not worse at most this share ever is. One author alone needs more votes."""
        heard = self.num_authors > 1 or len(self.votes) >= min_votes_alone
        return heard and self.e_worse >= e_limit(max_false_refusals)


def e_limit(max_false_refusals: float) -> float:
    """The e-value from which a candidate is refused."""
    return MARGIN / max_false_refusals


def e_value(losses: int, wins: int) -> float:
    """Evidence that a coin falls on "loss" more often than not: its likelihood ratio to a fair coin in the mean over all
    chances of a loss from 1/2 to 1, which is sum_{k <= losses} C(n + 1, k) / ((n + 1) C(n, losses)), n = losses + wins."""
    num = losses + wins
    return sum(comb(num + 1, k) for k in range(losses + 1)) / ((num + 1) * comb(num, losses))


def _e_worse(votes: Sequence[Vote]) -> float:
    wins = sum(vote.won for vote in votes)
    return e_value(len(votes) - wins, wins)


def _balanced(votes: Sequence[Vote]) -> Sequence[Vote]:
    """Of whoever alone gave more than half of the votes, only the newest, as many as the others gave."""
    alone = Counter(vote.only_author for vote in votes if vote.only_author)
    if not alone:
        return votes
    loudest = max(alone, key=lambda author: alone[author])
    others = [vote for vote in votes if vote.only_author != loudest]
    own = [vote for vote in votes if vote.only_author == loudest]
    return [*others, *own[: len(others)]]


def preference(margins_candidate_B: Floats, margins_baseline_B: Floats, sources: Sequence[Source]) -> Preference:
    """`margins`: log p(act found better) - log p(the other), of each verdict, newest first. Raises ValueError for unequal
    lengths."""
    if not margins_candidate_B.shape == margins_baseline_B.shape == (len(sources),):
        shapes = f"{margins_candidate_B.shape}, {margins_baseline_B.shape} and {len(sources)} sources"
        raise ValueError(f"preference: expected equal lengths, got {shapes}")
    said: defaultdict[frozenset[str], defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    alike = 0
    for source, won, held in zip(sources, margins_candidate_B > 0, margins_baseline_B > 0, strict=True):
        if won == held:
            alike += 1
        else:
            said[source.topic][source.author] += 1 if won else -1
    votes = [_vote(by_author) for by_author in said.values()]
    return Preference(tuple(vote for vote in votes if vote), alike, len({source.author for source in sources}))


def _vote(by_author: Mapping[str, int]) -> Vote | None:
    """`by_author`: verdicts for the candidate less those against it. None where voices are even."""
    balance = sum((said > 0) - (said < 0) for said in by_author.values())
    only_author = next(iter(by_author)) if len(by_author) == 1 else ""
    return Vote(balance > 0, only_author) if balance else None


@dataclass(frozen=True, slots=True)
class Places:
    """Where the two acts of a verdict stand among a decision's legal acts."""

    better: int
    worse: int


def margins(logprobs: Sequence[Floats], places: Sequence[Places]) -> list[float]:
    """Of each verdict, by the log-probabilities [A] of its question's legal acts."""
    return [float(row_A[place.better] - row_A[place.worse]) for row_A, place in zip(logprobs, places, strict=True)]
