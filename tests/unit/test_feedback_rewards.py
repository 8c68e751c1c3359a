"""Reward arithmetic, worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.conversation import Decision, RewardTerm, Signal, SignalKind
from bot.feedback.rewards import in_force, rewards_for
from bot.feedback.rules import Caps, Clip, CsatRule, HandoverRule, OutcomeRule, RephraseRule, Rules, RuleSet, ThumbRule
from tests.builders import make_decision, make_signal

RULES = Rules(
    version=1,
    rules=RuleSet(
        thumb=ThumbRule(0.5, -0.5, up_reasons={"clear": 0.25}, down_reasons={"wrong": -0.25, "slow": 0.75}),
        outcome=OutcomeRule(1.0, -1.0),
        handover=HandoverRule(-0.125),
        rephrase=RephraseRule(-0.25, min_similarity=0.5),
        csat=CsatRule(-0.5, 1.0),
    ),
)
TWO = (make_decision(id="d1", turn=1, created_at=10.0), make_decision(id="d2", turn=2, created_at=20.0))


def about_chat(**overrides: object) -> Signal:
    """A signal about the whole conversation, at time 30."""
    return make_signal(**{"decision_id": "", "created_at": 30.0, "kind": SignalKind.OUTCOME} | overrides)


def values(signals: Sequence[Signal], decisions: Sequence[Decision] = TWO, rules: Rules = RULES) -> dict[str, object]:
    """`{"d1 reply": 0.5}`."""
    return {f"{c.decision_id} {c.scope}": c.value for c in rewards_for(decisions, signals, rules)}


def test_no_signal_is_no_reward() -> None:
    """Unrated is absent, not 0."""
    assert rewards_for(TWO, [], RULES) == []


@pytest.mark.parametrize(
    ("value", "label", "expected"),
    [
        (1, "", 0.5),
        (-1, "", -0.5),
        (1, "clear", 0.75),
        (1, "clear|clear", 0.75),
        (1, "wrong", 0.5),
        (-1, "wrong", -0.75),
        (-1, "wrong|never heard of it", -0.75),
    ],
)
def test_a_thumb_is_worth_its_rule_and_its_chips(value: float, label: str, expected: float) -> None:
    """Chips add their own; unknown, repeated and the other sign's chips add nothing."""
    assert values([make_signal(value=value, label=label, seq=1)]) == {"d1 reply": expected}


def test_chips_can_cancel_a_thumb_but_not_turn_it_round() -> None:
    """-0.5 + 0.75 would be praise: it is no reward instead."""
    assert values([make_signal(value=-1, label="slow", seq=1)]) == {}


def test_a_withdrawn_thumb_is_unrated_again() -> None:
    """The newest row of one (kind, target, author) is the one in force."""
    assert values([make_signal(seq=1), make_signal(key="s2", value=0, seq=2)]) == {}


def test_the_newest_thumb_counts_whatever_order_it_is_read_in() -> None:
    """Sequence decides, not the order of the list."""
    up, down = make_signal(seq=1), make_signal(key="s2", value=-1, seq=2)
    assert values([down, up]) == {"d1 reply": -0.5}
    assert in_force([down, up]) == [down]


def test_terms_name_rule_value_and_signal() -> None:
    """Two signals on one reply: -0.5 - 0.25 = -0.75."""
    signals = [make_signal(value=-1, seq=4), make_signal(key="r", kind=SignalKind.REPHRASE, value=0.8, seq=7)]
    [credit] = rewards_for(TWO, signals, RULES)
    assert credit.terms == (RewardTerm("thumb", -0.5, 4), RewardTerm("rephrase", -0.25, 7))
    assert credit.value == -0.75


def test_a_weak_rephrase_counts_for_nothing() -> None:
    """Below min_similarity."""
    assert values([make_signal(kind=SignalKind.REPHRASE, value=0.49, seq=1)]) == {}


@pytest.mark.parametrize(("score", "expected"), [(1, -0.5), (2, -0.125), (4, 0.625), (5, 1.0)])
def test_csat_is_linear(score: float, expected: float) -> None:
    """From -0.5 at 1 to 1.0 at 5: 0.375 a point."""
    assert values([about_chat(kind=SignalKind.CSAT, value=score, seq=1)]) == {"d2 conversation": expected}


def test_csat_off_the_scale_counts_for_nothing() -> None:
    """1 to 5 only."""
    assert values([about_chat(kind=SignalKind.CSAT, value=6, seq=1)]) == {}


def test_an_outcome_goes_to_the_last_decision_before_it() -> None:
    """One that was made later did not bring it about."""
    assert values([about_chat(value=1, seq=1)]) == {"d2 conversation": 1.0}
    assert values([about_chat(value=0, created_at=15.0, seq=1)]) == {"d1 conversation": -1.0}
    assert values([about_chat(value=1, created_at=5.0, seq=1)]) == {}


def test_one_decision_can_carry_a_reply_and_a_conversation_reward() -> None:
    """They are two rewards: one stays with the reply, the other travels back."""
    signals = [make_signal(decision_id="d2", value=-1, seq=1), about_chat(value=1, key="o", seq=2)]
    assert values(signals) == {"d2 reply": -0.5, "d2 conversation": 1.0}


def test_the_back_offices_word_replaces_the_persons() -> None:
    """Whoever speaks last: task success comes from the one who knows."""
    office = about_chat(value=0, source="backoffice", author="crm", key="o1", seq=1)
    person = about_chat(value=1, key="o2", seq=2)
    assert values([office, person]) == {"d2 conversation": -1.0}


def test_asking_for_a_person_is_a_mild_fault_of_the_last_reply() -> None:
    """With its decision named it is that reply's; otherwise the conversation's."""
    assert values([about_chat(kind=SignalKind.HANDOVER, value=1, seq=1)]) == {"d2 conversation": -0.125}
    assert values([make_signal(kind=SignalKind.HANDOVER, value=1, seq=1)]) == {"d1 reply": -0.125}


def test_a_signal_about_an_unknown_decision_counts_for_nothing() -> None:
    """It cannot be credited."""
    assert values([make_signal(decision_id="elsewhere", seq=1)]) == {}


def test_kinds_without_a_rule_count_for_nothing() -> None:
    """A rating by an operator has no rule in version 1."""
    assert values([make_signal(kind=SignalKind.RATING, seq=1)]) == {}
    assert values([make_signal(seq=1)], rules=Rules(version=1, rules=RuleSet())) == {}


def test_one_persons_terms_are_capped_together() -> None:
    """Cap 0.6: -0.5 - 0.25 = -0.75 becomes -0.6; another person's -0.25 still adds: -0.85. Without a cap: -1."""
    signals = [
        make_signal(value=-1, seq=1),
        make_signal(key="r", kind=SignalKind.REPHRASE, value=0.8, seq=2),
        make_signal(key="q", kind=SignalKind.REPHRASE, value=0.8, author="p2", seq=3),
    ]
    [credit] = rewards_for(TWO, signals, Rules(version=1, rules=RULES.rules, caps=Caps(person_reward=0.6)))
    assert credit.value == pytest.approx(-0.85)
    assert credit.terms[-1].rule == "person_cap"
    assert values(signals) == {"d1 reply": -1.0}


def test_the_whole_is_clipped_and_the_terms_still_add_up() -> None:
    """-0.5 - 0.25 against a floor of -0.5: a `clip` term of +0.25."""
    signals = [make_signal(value=-1, seq=1), make_signal(key="r", kind=SignalKind.REPHRASE, value=0.8, seq=2)]
    [credit] = rewards_for(TWO, signals, Rules(version=1, rules=RULES.rules, clip=Clip(-0.5, 0.5)))
    assert (credit.value, credit.terms[-1]) == (-0.5, RewardTerm("clip", 0.25, 0))


def test_one_person_takes_part_in_a_bounded_number_of_rewards() -> None:
    """With a cap of one, the first decision they spoke about; a second word about it still counts. Control: no cap."""
    signals = [
        make_signal(decision_id="d1", seq=1),
        make_signal(decision_id="d2", key="s2", seq=2),
        make_signal(decision_id="d1", key="s3", kind=SignalKind.REPHRASE, value=0.8, seq=3),
    ]
    capped = Rules(version=1, rules=RULES.rules, caps=Caps(person_conversation=1))
    assert values(signals, rules=capped) == {"d1 reply": 0.25}
    assert values(signals) == {"d1 reply": 0.25, "d2 reply": 0.5}


_ANY_SIGNAL = st.builds(
    make_signal,
    kind=st.sampled_from(list(SignalKind)),
    value=st.floats(-5, 5),
    author=st.sampled_from(["p1", "p2"]),
    decision_id=st.sampled_from(["", "d1", "d2"]),
    label=st.sampled_from(["", "wrong", "clear|slow"]),
    created_at=st.floats(0, 40),
    seq=st.integers(1, 100),
)


@given(st.lists(_ANY_SIGNAL, max_size=12))
def test_every_reward_is_bounded_and_explained(signals: list[Signal]) -> None:
    """Whatever is sent: each value is within the clip and is the sum of its terms; each pair occurs once."""
    credits_found = rewards_for(TWO, signals, RULES)
    assert len({(c.decision_id, c.scope) for c in credits_found}) == len(credits_found)
    for credit in credits_found:
        assert credit.value is not None
        assert -1 - 1e-12 <= credit.value <= 1 + 1e-12
        assert credit.value == pytest.approx(sum(term.value for term in credit.terms))
