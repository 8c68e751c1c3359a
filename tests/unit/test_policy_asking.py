"""Asking for a rating: where the policy doubts, never more than once in five, and by chance where the gate looks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from bot.conversation import Decision, LegalAct
from bot.policy.asking import BELIEF_TEMPERATURE, NUM_RECENT, Asker, Recent, belief, by_chance, would_teach
from online_learning.config import LikelihoodConfig
from tests.builders import make_decision

TWENTY = [Recent(i / 20, asked=False) for i in range(1, 21)]


def believed(right: float, **overrides: Any) -> Decision:
    """A decision whose chosen answer, of two, is believed right with this probability."""
    legal = (LegalAct("answer:card_arrival"), LegalAct("handoff"))
    fields: dict[str, Any] = {"legal": legal, "logprobs": (math.log(right), math.log(1 - right))}
    return make_decision(**{"temperature": BELIEF_TEMPERATURE} | fields | overrides)


def asked(asker: Asker, decisions: Sequence[Decision]) -> list[bool]:
    """Each in a conversation of its own."""
    return [asker.asks(decision, ()) for decision in decisions]


# --- belief -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (0.1, 0.5),  # as it acts: 0.5, 0.3, 0.2
        (0.2, 0.25 / 0.38),  # squared: 0.25, 0.09, 0.04
        (0.05, 0.4154),  # square roots: 0.7071, 0.5477, 0.4472, together 1.7020
    ],
)
def test_belief_is_the_policys_probability_at_the_temperature_of_beliefs(temperature: float, expected: float) -> None:
    """A power of what it acts by, normalised over the legal acts."""
    assert belief(make_decision(temperature=temperature)) == pytest.approx(expected, abs=1e-4)


def test_belief_is_that_of_the_chosen_act_and_bears_any_scale() -> None:
    """0.2 of 0.5, 0.3, 0.2; and a choice of next to no probability at a high temperature."""
    assert belief(make_decision(temperature=0.1, chosen=2)) == pytest.approx(0.2)
    unlikely = make_decision(temperature=10.0, logprobs=(-0.0, -900.0, -900.0), chosen=1)
    assert belief(unlikely) == 0.0


def test_the_learner_believes_at_the_same_temperature() -> None:
    """The server may not import the learner, so the number stands twice."""
    assert LikelihoodConfig().belief_temperature == BELIEF_TEMPERATURE


# --- the rule ---------------------------------------------------------------------------------------------------------
def test_the_least_believed_fifth_is_asked_about() -> None:
    """Of 0.05, 0.10 ... 1.00 three are at most 0.19, fewer than 4 = 0.2 * 20; four are at most 0.20."""
    assert would_teach(0.19, TWENTY, 0.2)
    assert not would_teach(0.20, TWENTY, 0.2)
    assert would_teach(0.09, TWENTY, 0.1)  # one, fewer than two
    assert not would_teach(0.10, TWENTY, 0.1)


def test_where_all_are_believed_alike_nobody_is_asked() -> None:
    """None stands out."""
    assert not would_teach(0.3, [Recent(0.3, asked=False)] * 20, 0.2)


def test_before_there_is_a_comparison_only_what_is_rather_wrong_is_asked_about() -> None:
    """Nineteen replies are too few to rank among."""
    assert would_teach(0.49, TWENTY[:19], 0.2)
    assert not would_teach(0.50, TWENTY[:19], 0.2)
    assert would_teach(0.49, [], 0.2)


def test_the_share_is_kept_where_questions_get_harder_and_harder() -> None:
    """Four of twenty at most, forty of two hundred, whatever the beliefs. Without the count every one of them would be
    asked about, since each is the least believed so far (the control)."""
    beliefs = [0.49 - i / 2100 for i in range(1000)]
    found = asked(Asker(0.2), [believed(right) for right in beliefs])
    assert sum(found[:20]) == 4
    assert all(sum(found[i : i + NUM_RECENT]) <= 40 for i in range(1000 - NUM_RECENT))
    assert 180 <= sum(found) <= 200
    forgotten = [Recent(right, asked=False) for right in beliefs]
    assert all(would_teach(right, forgotten[max(0, i - NUM_RECENT) : i], 0.2) for i, right in enumerate(beliefs))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 0.2])
def test_no_share_is_exceeded(share: float) -> None:
    """Beliefs that repeat every 37 replies; nobody at all is asked at a share of 0."""
    found = asked(Asker(share), [believed((i * 17 % 37 + 1) / 40) for i in range(1000)])
    assert sum(found) <= 1000 * share
    assert sum(found) >= 1000 * share * 0.5


def test_a_conversation_is_asked_once_in_five_replies() -> None:
    """All of them doubtful among surer ones; the count of other conversations leaves room."""
    asker, before = Asker(0.2), []
    for _ in range(30):
        asked(asker, [believed(0.9 + i / 1000) for i in range(30)])
        before.append(asker.asks(believed(0.1), before))
    assert before == [True, False, False, False, False] * 6


def test_only_answers_and_responses_that_may_teach_are_asked_about() -> None:
    """Not an action, a question of ours, a hand-over, or where learning is switched off."""
    for act, expected in {"answer:a": True, "respond:utter_x#1": True, "run:action_x": False, "ask:slot": False,
                          "clarify:a|b": False, "handoff": False}.items():  # fmt: skip
        decision = believed(0.1, legal=(LegalAct(act), LegalAct("answer:b")))
        assert Asker(0.2).asks(decision, ()) is expected
    assert not Asker(0.2).asks(believed(0.1, train_ok=False), ())


def test_what_was_stored_before_a_restart_is_compared_with() -> None:
    """Twenty surer replies: 0.6 is then the least believed. Without them it is nothing to ask about (the control), and
    four that were asked about use the share up."""
    past = [(believed(0.7 + i / 100), False) for i in range(20)]
    assert Asker(0.2, past).asks(believed(0.6), ())
    assert not Asker(0.2).asks(believed(0.6), ())
    assert not Asker(0.2, [*past[:16], *((decision, True) for decision, _ in past[16:])]).asks(believed(0.6), ())


# --- what the gate looks at -------------------------------------------------------------------------------------------
def test_held_out_conversations_are_asked_whatever_is_believed() -> None:
    """A fifth of ids, and the same ids sure or not; elsewhere belief decides (the control)."""

    def of(right: float, *, holdout: bool) -> list[bool]:
        return [Asker(0.2).asks(believed(right, id=f"d{i}", holdout=holdout), ()) for i in range(2000)]

    assert of(0.99, holdout=True) == of(0.01, holdout=True)
    assert sum(of(0.99, holdout=True)) == pytest.approx(400, abs=55)  # three standard deviations of 17.9
    assert (any(of(0.99, holdout=False)), all(of(0.01, holdout=False))) == (False, True)


def test_held_out_conversations_too_are_asked_once_in_five_replies() -> None:
    """That depends on earlier chance alone."""
    lucky = next(name for name in map(str, range(100)) if by_chance(name, 0.2))
    decision = believed(0.99, id=lucky, holdout=True)
    assert Asker(0.2).asks(decision, (True, False, False, False, False))
    assert not Asker(0.2).asks(decision, (True, False, False, False))
    assert not Asker(0.0).asks(decision, ())
