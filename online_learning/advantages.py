"""From rewards to advantages: who in a conversation is credited with what. Pure numpy, no store, no model.

A conversation's decisions are its turns 0..N-1, V_t their value estimates. Two kinds of reward:

- *reply* scope, rho_t (a thumb, a rating): speaks of one reply, is credited to it alone, never travels.
- *conversation* scope, g_t (an outcome, CSAT): stands at the decision it was settled on and travels back by GAE
  (arXiv 1506.02438) over turns: delta_t = g_t + gamma V_{t+1} - V_t, G_t = delta_t + gamma lambda G_{t+1}.
  The episode ends at the last turn that carries one; later turns are not covered by it.

How they combine, with V subtracted exactly once in each case:

    reply only         A_t = rho_t - V_t         R_t = rho_t
    conversation only  A_t = G_t                 R_t = G_t + V_t
    both               A_t = rho_t + G_t         R_t = rho_t + G_t + V_t
    neither            no row: an unrated reply is masked, never 0

rho is added after the scan, so it cannot travel. V estimates the sum of both kinds, therefore a share (1 - lambda)
of the thumbs *expected* at later turns does enter G through the bootstrap V_{t+1}; lambda = 1 removes it, at the price
of variance.

Shapes: `C` conversations, `N` turns (padded).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bot.conversation import Decision, Reward

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Credit:
    """A decision with what it is worth learning from."""

    decision: Decision
    advantage: float
    value_target: float
    """What V(state) should have said: advantage + V."""
    weight: float = 1.0
    """Of the row among the others, 0..1."""
    words: float | None = None
    """What its words alone earned; None: they hear what the act hears."""


def gae(rewards_C_N: Floats, values_C_N: Floats, lengths_C: NDArray[np.int64], gamma: float, lam: float) -> Floats:
    """Generalised advantage estimates [C, N]; 0 at and after a conversation's length. Nothing follows the last turn."""
    num_conversations, num_turns = rewards_C_N.shape
    advantages_C_N = np.zeros((num_conversations, num_turns + 1))
    inside_C_N = np.arange(num_turns) < lengths_C[:, None]
    values_C_N1 = np.pad(np.where(inside_C_N, values_C_N, 0.0), ((0, 0), (0, 1)))
    deltas_C_N = np.where(inside_C_N, rewards_C_N + gamma * values_C_N1[:, 1:] - values_C_N1[:, :-1], 0.0)
    for turn in reversed(range(num_turns)):
        advantages_C_N[:, turn] = deltas_C_N[:, turn] + gamma * lam * advantages_C_N[:, turn + 1]
    return advantages_C_N[:, :-1]


def combine(
    reply_C_N: Floats, conversation_C_N: Floats, values_C_N: Floats, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Floats, Floats, Bools]:
    """(advantages, value targets, has credit), [C, N] each. NaN in a reward marks its absence, not a zero."""
    has_reply_C_N, has_conversation_C_N = ~np.isnan(reply_C_N), ~np.isnan(conversation_C_N)
    covered_C_N = np.flip(np.logical_or.accumulate(np.flip(has_conversation_C_N, 1), axis=1), 1)
    travelled_C_N = gae(np.nan_to_num(conversation_C_N), values_C_N, covered_C_N.sum(1), gamma, lam)
    base_C_N = np.where(covered_C_N, travelled_C_N, -values_C_N)
    credited_C_N = has_reply_C_N | covered_C_N
    advantages_C_N = np.where(credited_C_N, np.nan_to_num(reply_C_N) + base_C_N, 0.0)
    targets_C_N = np.where(credited_C_N, advantages_C_N + values_C_N, 0.0)
    return advantages_C_N, targets_C_N, credited_C_N


def credit(
    decisions: Iterable[Decision],
    rewards: Iterable[Reward],
    values: Mapping[str, float] | None = None,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
) -> list[Credit]:
    """The decisions that earned credit, by conversation (in order of first appearance) and turn.

    `decisions` holds *all* decisions of each conversation, unrated ones too: GAE passes through them. `rewards` are
    the revisions in force, at most one per decision and scope; a withdrawn one (value None) counts as absent.
    `values` are V by decision id; a missing id falls back to the value stored when it was served. Raises ValueError on
    a reward whose decision is not given, on two in one place and on an unknown scope.
    """
    turns = _by_conversation(decisions)
    place = {decision.id: (row, turn) for row, chat in enumerate(turns) for turn, decision in enumerate(chat)}
    shape = (len(turns), max((len(chat) for chat in turns), default=0))
    by_scope = _rewards_by_scope(rewards, place, shape)
    values_C_N = np.zeros(shape)
    for row, chat in enumerate(turns):
        values_C_N[row, : len(chat)] = [(values or {}).get(decision.id, decision.value) for decision in chat]
    advantages_C_N, targets_C_N, credited_C_N = combine(
        by_scope["reply"], by_scope["conversation"], values_C_N, gamma, lam
    )
    return [
        Credit(turns[row][turn], float(advantages_C_N[row, turn]), float(targets_C_N[row, turn]))
        for row, turn in zip(*np.nonzero(credited_C_N), strict=True)
    ]


def _by_conversation(decisions: Iterable[Decision]) -> Sequence[Sequence[Decision]]:
    chats: defaultdict[str, list[Decision]] = defaultdict(list)
    for decision in decisions:
        chats[decision.conversation_id].append(decision)
    return [sorted(chat, key=lambda decision: decision.turn) for chat in chats.values()]


def _rewards_by_scope(
    rewards: Iterable[Reward], place: Mapping[str, tuple[int, int]], shape: tuple[int, int]
) -> dict[str, Floats]:
    """{scope: rewards_C_N}, NaN where there is none."""
    found = {scope: np.full(shape, np.nan) for scope in ("reply", "conversation")}
    for reward in rewards:
        if reward.value is None:
            continue
        if reward.scope not in found:
            raise ValueError(f"reward scope: expected reply or conversation, got {reward.scope!r}")
        if reward.decision_id not in place:
            raise ValueError(f"reward of {reward.decision_id}: expected a given decision, got an unknown one")
        if not np.isnan(found[reward.scope][place[reward.decision_id]]):
            raise ValueError(
                f"reward of {reward.decision_id}: expected one revision in force, got two ({reward.scope})"
            )
        found[reward.scope][place[reward.decision_id]] = reward.value
    return found
