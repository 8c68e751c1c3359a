"""Credit over the turns of a conversation: hand-computed chains, and the fast scan against the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bot.conversation import Decision, LegalAct, Reward
from online_learning.advantages import combine, credit, gae


def decision(turn: int, conversation: str = "c", **overrides: Any) -> Decision:
    fields: dict[str, Any] = {
        "id": f"{conversation}{turn}", "conversation_id": conversation, "person_id": "p", "turn": turn,
        "created_at": float(turn), "query": "", "query_ids": (), "prompt": "",
        "legal": (LegalAct("answer:a"), LegalAct("handoff")), "logprobs": (-0.1, -2.35), "chosen": 0, "mode": 0,
        "value": 0.0, "version": "v000000", "parts": ("encoder",), "temperature": 0.02, "knowledge_revision": "k",
    }  # fmt: skip
    return Decision(**(fields | overrides))


def reward(turn: int, value: float | None, scope: str = "reply", conversation: str = "c") -> Reward:
    return Reward(f"{conversation}{turn}", conversation, 1, value, scope, (), "rules", 0.0)


def slow_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """The definition: A_t = sum_k (gamma lam)^k delta_{t+k}, by two plain loops."""
    following = [*values[1:], 0.0]
    deltas = [r + gamma * n - v for r, v, n in zip(rewards, values, following, strict=True)]
    return [sum((gamma * lam) ** k * d for k, d in enumerate(deltas[t:])) for t in range(len(deltas))]


def test_fast_scan_equals_the_definition_on_random_chains() -> None:
    """Forty conversations of 1 to 7 turns, padded with junk that must not leak."""
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(40, 7)), rng.normal(size=(40, 7))
    lengths = rng.integers(1, 8, size=40)
    fast = gae(rewards, values, lengths, 0.9, 0.7)
    for row, length in enumerate(lengths):
        slow = slow_gae(rewards[row, :length].tolist(), values[row, :length].tolist(), 0.9, 0.7)
        assert fast[row, :length] == pytest.approx(slow)
        assert not fast[row, length:].any()


def test_a_thumb_is_credited_to_its_reply_alone() -> None:
    """A = r - V at the rated turn; its neighbours have no row at all."""
    chat = [decision(0, value=0.3), decision(1, value=0.2), decision(2, value=0.9)]
    (only,) = credit(chat, [reward(1, 1.0)])
    assert only.decision.id == "c1"
    assert (only.advantage, only.value_target) == pytest.approx((0.8, 1.0))


def test_an_outcome_travels_back_over_the_turns() -> None:
    """gamma 1, lambda .5, V = (.5, .25, 0), g = 1 at the last turn.

    deltas: .25 - .5 = -.25; 0 - .25 = -.25; 1 - 0 = 1. A2 = 1; A1 = -.25 + .5 = .25; A0 = -.25 + .125 = -.125.
    """
    chat = [decision(0, value=0.5), decision(1, value=0.25), decision(2)]
    earned = credit(chat, [reward(2, 1.0, "conversation")], lam=0.5)
    assert [c.advantage for c in earned] == pytest.approx([-0.125, 0.25, 1.0])
    assert [c.value_target for c in earned] == pytest.approx([0.375, 0.5, 1.0])


def test_with_lambda_one_every_turn_gets_the_outcome_less_its_value() -> None:
    """The Monte Carlo end of GAE: A_t = g - V_t, target g."""
    chat = [decision(t, value=0.1 * t) for t in range(4)]
    earned = credit(chat, [reward(3, -1.0, "conversation")], lam=1.0)
    assert [c.advantage for c in earned] == pytest.approx([-1.0, -1.1, -1.2, -1.3])
    assert [c.value_target for c in earned] == pytest.approx([-1.0] * 4)


def test_a_decision_with_both_kinds_subtracts_its_value_once() -> None:
    """rho = 1 and g = 1 at the last of two turns, V = (.5, .5), lambda 1: A1 = 1 + (1 - .5), A0 = 1 - .5."""
    chat = [decision(0, value=0.5), decision(1, value=0.5)]
    earned = credit(chat, [reward(1, 1.0), reward(1, 1.0, "conversation")], lam=1.0)
    assert [c.advantage for c in earned] == pytest.approx([0.5, 1.5])
    assert [c.value_target for c in earned] == pytest.approx([1.0, 2.0])


def test_turns_after_the_last_outcome_are_not_covered_by_it() -> None:
    """The episode ends where the outcome stands; what followed is unrated, and its V does not leak back."""
    chat = [decision(0, value=0.5), decision(1, value=0.5), decision(2, value=99.0)]
    earned = credit(chat, [reward(1, 1.0, "conversation")])
    assert [c.decision.id for c in earned] == ["c0", "c1"]
    assert earned[1].advantage == pytest.approx(0.5)


def test_conversations_do_not_leak_into_each_other() -> None:
    """Two chats of different length, padded together, equal the two alone."""
    long = [decision(t, "long", value=0.2 * t) for t in range(3)]
    short = [decision(0, "short", value=0.7)]
    rewards = [reward(2, 1.0, "conversation", "long"), reward(0, -1.0, "conversation", "short")]
    together = credit([*long, *short], rewards)
    assert together == credit(long, rewards[:1]) + credit(short, rewards[1:])


def test_an_unrated_or_withdrawn_reply_is_masked_never_zero() -> None:
    """No reward gives no row; a reward of exactly 0 gives one."""
    assert credit([decision(0, value=0.5)], []) == []
    assert credit([decision(0, value=0.5)], [reward(0, None)]) == []
    assert [c.advantage for c in credit([decision(0, value=0.5)], [reward(0, 0.0)])] == pytest.approx([-0.5])


def test_turns_are_put_in_order_and_given_values_win() -> None:
    """The store may hand turns in any order; the learner's fresh V replaces the stored one."""
    chat = [decision(1, value=9.0), decision(0, value=9.0)]
    earned = credit(chat, [reward(1, 1.0, "conversation")], {"c0": 0.0, "c1": 0.0}, lam=0.5)
    assert [c.decision.id for c in earned] == ["c0", "c1"]
    assert [c.advantage for c in earned] == pytest.approx([0.5, 1.0])


def test_combine_of_nothing_rated_credits_nothing() -> None:
    """All absent: no credit, and no NaN in the output."""
    nothing = np.full((2, 3), np.nan)
    advantages, targets, credited = combine(nothing, nothing, np.ones((2, 3)))
    assert not credited.any()
    assert not advantages.any()
    assert not targets.any()


@pytest.mark.parametrize(
    ("rewards", "complaint"),
    [
        ([reward(7, 1.0)], "unknown"),
        ([reward(0, 1.0), reward(0, -1.0)], "two"),
        ([reward(0, 1.0, "planet")], "planet"),
    ],
)
def test_rewards_that_cannot_be_placed_are_refused(rewards: list[Reward], complaint: str) -> None:
    """A reward without its decision, or twice in one place, would silently teach the wrong thing."""
    with pytest.raises(ValueError, match=complaint):
        credit([decision(0)], rewards)


def test_no_decisions_give_no_credit() -> None:
    """An empty window is not an error."""
    assert credit([], []) == []
