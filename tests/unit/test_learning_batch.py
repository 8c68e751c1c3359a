"""Who may teach: quorum, cap, consent and trust, each with the control that shows what it stops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from bot.conversation import Decision, LegalAct, Reward
from bot.feedback.store import Rated
from online_learning.batch import admit, logged_choices


def rated(number: int, value: float | None = 1.0, **overrides: Any) -> Rated:
    """Row `number`, made at that second by its own person, about `answer:a`."""
    fields: dict[str, Any] = {
        "id": f"d{number}", "conversation_id": f"c{number}", "person_id": f"p{number}", "turn": 0,
        "created_at": float(number), "query": "", "query_ids": (), "prompt": "",
        "legal": (LegalAct("answer:a"), LegalAct("answer:b")), "logprobs": (math.log(0.75), math.log(0.25)),
        "chosen": 0, "mode": 0, "value": 0.0, "version": "v000000", "parts": ("encoder",), "temperature": 0.02,
        "knowledge_revision": "k",
    }  # fmt: skip
    decision = Decision(**(fields | overrides))
    return Rated(decision, Reward(decision.id, decision.conversation_id, 1, value, "reply", (), "rules", 0.0))


def ids(rows: Any) -> list[str]:
    return [row.decision.id for row in rows]


def test_a_topic_below_quorum_teaches_nothing() -> None:
    """Two persons of three needed: refused and counted."""
    admitted = admit([rated(1), rated(2)], quorum=3, cap_per_person_topic=5)
    assert admitted.rows == ()
    assert admitted.refused == {"quorum": 2}


def test_one_person_cannot_make_a_quorum_alone() -> None:
    """Twenty votes of one person on an empty topic are still one person."""
    flood = [rated(n, person_id="troll") for n in range(20)]
    assert admit(flood, quorum=2, cap_per_person_topic=100).rows == ()


def test_without_a_quorum_one_person_would_teach_the_topic() -> None:
    """The control: quorum 1, as in a demo home, lets the same flood in."""
    flood = [rated(n, person_id="troll") for n in range(20)]
    assert len(admit(flood, quorum=1, cap_per_person_topic=100).rows) == 20


def test_quorum_is_counted_per_topic() -> None:
    """Three persons on one act do not lend their number to another act."""
    rows = [rated(1), rated(2), rated(3), rated(4, chosen=1)]
    admitted = admit(rows, quorum=3, cap_per_person_topic=5)
    assert ids(admitted.rows) == ["d1", "d2", "d3"]
    assert admitted.refused == {"quorum": 1}


def test_a_persons_newest_rows_count_up_to_the_cap() -> None:
    """Five votes, cap two: the last two teach, whatever the order they came in."""
    rows = [rated(n, person_id="p") for n in (3, 1, 5, 2, 4)]
    admitted = admit(rows, quorum=1, cap_per_person_topic=2)
    assert ids(admitted.rows) == ["d4", "d5"]
    assert admitted.refused == {"cap": 3}


def test_the_cap_bounds_a_floods_share_and_its_absence_does_not() -> None:
    """Ten honest persons once, one person 90 times: 2 of 12 with the cap, 90 of 100 without."""
    rows = [rated(n) for n in range(10)] + [rated(100 + n, -1.0, person_id="troll") for n in range(90)]
    for cap, share in ((2, 2 / 12), (1000, 0.9)):
        kept = admit(rows, quorum=10, cap_per_person_topic=cap).rows
        assert sum(row.reward.value == -1.0 for row in kept) / len(kept) == pytest.approx(share)


def test_the_cap_is_per_topic() -> None:
    """One person may speak once on each of two topics."""
    rows = [rated(1, person_id="p"), rated(2, person_id="p", chosen=1)]
    assert ids(admit(rows, quorum=1, cap_per_person_topic=1).rows) == ["d1", "d2"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (rated(1, holdout=True), "holdout"),
        (rated(1, train_ok=False), "consent"),
        (rated(1, None), "withdrawn"),
        (rated(1, person_id="banned"), "distrusted"),
    ],
)
def test_rows_that_may_not_teach_are_refused_by_name(row: Rated, reason: str) -> None:
    """Each refusal is counted under its reason; the next row goes in."""
    admitted = admit([row, rated(2)], quorum=1, cap_per_person_topic=5, distrusted={"banned"})
    assert ids(admitted.rows) == ["d2"]
    assert admitted.refused == {reason: 1}


def test_distrusted_persons_do_not_count_towards_a_quorum() -> None:
    """Nine sock puppets and one person are one person."""
    rows = [rated(n) for n in range(10)]
    puppets = {f"p{n}" for n in range(9)}
    assert admit(rows, quorum=2, cap_per_person_topic=5, distrusted=puppets).rows == ()
    assert len(admit(rows, quorum=2, cap_per_person_topic=5).rows) == 10


@pytest.mark.parametrize("bad", [{"quorum": 0}, {"cap_per_person_topic": 0}])
def test_admit_refuses_impossible_settings(bad: dict[str, Any]) -> None:
    """A quorum of 0 would switch the defence off without saying so."""
    with pytest.raises(ValueError, match="expected"):
        admit([rated(1)], **({"quorum": 1, "cap_per_person_topic": 1} | bad))


def test_logged_choices_keep_the_whole_behaviour_distribution() -> None:
    """Propensities are the stored ones, padded with 0 to the widest row."""
    narrow = rated(2, -1.0, legal=(LegalAct("handoff"),), logprobs=(0.0,))
    logs = logged_choices([rated(1), narrow])
    np.testing.assert_allclose(logs.behaviour_B_A, [[0.75, 0.25], [1.0, 0.0]])
    assert logs.rewards_B.tolist() == [1.0, -1.0]
    assert logs.conversations_B.tolist() == ["c1", "c2"]


def test_logged_choices_refuse_a_withdrawn_reward() -> None:
    """A withdrawn vote is not a vote of 0."""
    with pytest.raises(ValueError, match="withdrawn"):
        logged_choices([rated(1, None)])
