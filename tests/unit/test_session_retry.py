"""Another answer to the same question: another act, a decision of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.conversation import Message
from tests.session_rig import Rig, drained, open_session


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with open_session(tmp_path / "home") as opened:
        yield opened


async def answered(rig: Rig, question: Message) -> Message:
    reply = (await drained(rig.session.reply(rig.conversation, question)))[-1]
    assert isinstance(reply, Message)
    return reply


async def test_asked_again_the_policy_chooses_among_the_other_acts(rig: Rig) -> None:
    """What was said is not legal any more; the row holds the whole distribution over what is, so it re-scores."""
    question = rig.said("Where is my card?")
    first, second, third = [await answered(rig, question) for _ in range(3)]
    assert len({first.act, second.act, third.act}) == 3
    rows = [rig.decision_of(reply) for reply in (first, second, third)]
    legal = [{act.act for act in row.legal} for row in rows]
    assert (legal[0] - legal[1], legal[0] - legal[2]) == ({first.act}, {first.act, second.act})
    assert [row.turn for row in rows] == [1, 1, 1]
    assert all(math.isclose(sum(map(math.exp, row.logprobs)), 1.0) for row in rows)


async def test_the_next_question_may_be_answered_by_any_act_again(rig: Rig) -> None:
    """What was tried belongs to its question alone: the control. Also when both were asked before either was answered."""
    one, two = rig.said("Where is my card?"), rig.said("And where is the other card?")
    first, second = await answered(rig, one), await answered(rig, two)
    assert first.act == second.act
    third = await answered(rig, two)
    assert third.act != second.act


async def test_when_everything_was_tried_everything_is_legal_again(rig: Rig) -> None:
    """Nobody is left without an answer."""
    question = rig.said("Where is my card?")
    first = await answered(rig, question)
    num_legal = len(rig.decision_of(first).legal)
    replies = [await answered(rig, question) for _ in range(num_legal)]
    assert len(rig.decision_of(replies[-1]).legal) == num_legal
