"""From the rated rows of the replay window to the rows that may teach. Pure: no store, no tensors.

1. `admit` drops what may not teach (held out, no consent, withdrawn, distrusted), then all but a person's newest
   rows on a topic (cap), then topics that too few people have spoken on (quorum).
2. `logged_choices` turns rows into arrays for evaluation.

A topic is the chosen act's id. Only stored decisions and rewards are read: a simulator's labels have no way in.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bot.conversation import Decision
from bot.feedback.store import Rated
from online_learning.off_policy import LoggedChoices


@dataclass(frozen=True, slots=True)
class Admitted:
    """The rows that may teach, oldest first, and how many were refused for which reason."""

    rows: tuple[Rated, ...]
    refused: Mapping[str, int]
    """Reason (`holdout`, `consent`, `withdrawn`, `distrusted`, `cap`, `quorum`) -> rows."""


def admit(
    rows: Iterable[Rated], *, quorum: int, cap_per_person_topic: int, distrusted: Collection[str] = ()
) -> Admitted:
    """Apply consent, cap and quorum to rated rows of any order.

    `quorum`: distinct persons who must have a row on the topic. `cap_per_person_topic`: rows of one person on one topic
    that count, newest first. `distrusted`: ids of persons who neither teach nor count towards a quorum. Raises ValueError
    when either number is below 1.
    """
    if min(quorum, cap_per_person_topic) < 1:
        raise ValueError(f"admit: expected quorum and cap >= 1, got {quorum} and {cap_per_person_topic}")
    refused: Counter[str] = Counter()
    kept = _capped(_eligible(rows, distrusted, refused), cap_per_person_topic, refused)
    return Admitted(tuple(sorted(_with_quorum(kept, quorum, refused), key=_age)), dict(refused))


def _age(row: Rated) -> tuple[float, int, str]:
    """Sorts oldest first; the id settles ties, so that the order never depends on the input's."""
    return row.decision.created_at, row.decision.turn, row.decision.id


def _ineligible(row: Rated, distrusted: Collection[str]) -> str:
    """Why a row may not teach, or empty."""
    checks = {
        "holdout": row.decision.holdout,
        "consent": not row.decision.train_ok,
        "withdrawn": row.reward.value is None,
        "distrusted": row.decision.person_id in distrusted,
    }
    return next((reason for reason, holds in checks.items() if holds), "")


def _eligible(rows: Iterable[Rated], distrusted: Collection[str], refused: Counter[str]) -> list[Rated]:
    kept = []
    for row in rows:
        reason = _ineligible(row, distrusted)
        if reason:
            refused[reason] += 1
        else:
            kept.append(row)
    return kept


def _capped(rows: Sequence[Rated], cap: int, refused: Counter[str]) -> list[Rated]:
    """The newest `cap` rows of each (person, topic)."""
    used: Counter[tuple[str, str]] = Counter()
    kept = []
    for row in sorted(rows, key=_age, reverse=True):
        place = (row.decision.person_id, row.decision.act)
        used[place] += 1
        if used[place] <= cap:
            kept.append(row)
    refused.update({"cap": len(rows) - len(kept)} if len(kept) < len(rows) else {})
    return kept


def _with_quorum(rows: Sequence[Rated], quorum: int, refused: Counter[str]) -> list[Rated]:
    """Rows on topics that at least `quorum` distinct persons have spoken on."""
    voters: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        voters[row.decision.act].add(row.decision.person_id)
    kept = [row for row in rows if len(voters[row.decision.act]) >= quorum]
    refused.update({"quorum": len(rows) - len(kept)} if len(kept) < len(rows) else {})
    return kept


def logged_choices(rows: Sequence[Rated]) -> LoggedChoices:
    """What off-policy evaluation reads, padded with probability 0. Raises ValueError on a withdrawn reward."""
    rewards = [row.reward.value for row in rows]
    if None in rewards:
        raise ValueError("logged_choices: expected rewards in force, got a withdrawn one")
    return LoggedChoices(
        behaviour_B_A=padded_probabilities([row.decision for row in rows]),
        chosen_B=np.array([row.decision.chosen for row in rows], dtype=np.int64),
        rewards_B=np.array(rewards, dtype=np.float64),
        conversations_B=np.array([row.decision.conversation_id for row in rows], dtype=np.str_),
    )


def padded_probabilities(decisions: Sequence[Decision]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The stored behaviour distributions; [B, A], 0 where a decision had fewer legal acts."""
    widest = max((len(decision.logprobs) for decision in decisions), default=1)
    probabilities_B_A = np.zeros((len(decisions), widest))
    for row, decision in enumerate(decisions):
        probabilities_B_A[row, : len(decision.logprobs)] = np.exp(decision.logprobs)
    return probabilities_B_A
