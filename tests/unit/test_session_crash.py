"""A crash between choosing and having stored: all of a reply is kept, or nothing, and saying it again is safe.

The crash is a trigger in the store's own file that aborts one statement of the write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bot.conversation import Decision, Message
from bot.errors import StoreError
from bot.feedback.desk_records import CaseUse
from bot.feedback.store import Store
from bot.feedback.store_connection import open_writer
from bot.feedback.store_records import tracker_name
from tests.session_rig import Found, Rig, drained, open_session
from tests.unit.test_session_replies import triggers

FAULTS = {
    "decisions": "INSERT ON decisions",
    "messages": "INSERT ON messages WHEN new.role = 'bot'",
    "status": "INSERT ON status",
    "conversations": "UPDATE ON conversations",
}
"""Each statement of a reply's write, in order."""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """The bank, before the first message."""
    with open_session(tmp_path / "home") as opened:
        yield opened


@contextmanager
def broken(rig: Rig, where: str) -> Iterator[None]:
    """Writes that come to this statement fail."""
    with closing(open_writer(rig.store.path)) as file:
        file.execute(f"CREATE TRIGGER crash BEFORE {FAULTS[where]} BEGIN SELECT RAISE (ABORT, 'crash'); END")
        yield
        file.execute("DROP TRIGGER crash")


def standing(rig: Rig) -> dict[str, Any]:
    """Everything a reply changes."""
    counts = rig.store.counts()
    return {
        "tracker": rig.store.tracker("c1"),
        "status": rig.store.conversation("c1").status,
        "replies": [line.text for line in rig.store.messages("c1") if line.role == "bot"],
        "decisions": counts["decisions"],
    }


async def begin_to_freeze(rig: Rig) -> None:
    """Up to the question whether to freeze."""
    rig.knowledge.found = triggers("action_freeze_card", "action_look_up_transfer")
    await rig.say("freeze the card ending in 4412", "run:action_freeze_card")


async def answer_again(rig: Rig, message: Message, act: str = "") -> Message:
    """What the hub does when a person comes back to a message without a reply."""
    rig.policy.acts = [act] if act else []
    reply = (await drained(rig.session.reply(rig.conversation, message)))[-1]
    assert isinstance(reply, Message)
    return reply


@pytest.mark.parametrize("where", FAULTS)
async def test_a_crash_at_any_statement_leaves_nothing_of_the_reply(rig: Rig, where: str) -> None:
    """And the same message answered again leaves everything: message, decision, form and who is speaking."""
    await begin_to_freeze(rig)
    before, message = standing(rig), rig.said("a person please")
    rig.policy.acts = ["handoff"]
    with broken(rig, where), pytest.raises(StoreError, match="crash"):
        await drained(rig.session.reply(rig.conversation, message))
    assert standing(rig) == before
    reply = await answer_again(rig, message, "handoff")
    after = standing(rig)
    assert (after["status"], after["decisions"]) == ("waiting", before["decisions"] + 1)
    assert after["replies"] == [*before["replies"], reply.text]


async def test_a_crash_within_a_handover_leaves_nothing_of_it(rig: Rig) -> None:
    """Neither a conversation that waits without having been told, nor the other way round."""
    before = standing(rig)
    with broken(rig, "conversations"), pytest.raises(StoreError, match="crash"):
        await rig.session.handover(rig.conversation)
    assert standing(rig) == before


class InThreeCommits(Store):
    """The control: the same rows, one after the other."""

    def add_reply(
        self,
        message: Message,
        decision: Decision | None,
        *,
        tracker: Mapping[str, Any] | None = None,
        status: str = "",
        language: str = "",
        case_use: CaseUse | None = None,
        events: Sequence[Mapping[str, Any]] = (),
    ) -> Message:
        self.put_status(tracker_name(message.conversation_id), tracker or {})
        stored = super().add_reply(message, decision)
        self.update_conversation(message.conversation_id, status=status or None)
        return stored


@pytest.mark.parametrize("where", ["decisions", "messages", "conversations"])
async def test_in_three_commits_the_same_crash_leaves_a_part(rig: Rig, where: str) -> None:
    """A form that was left without a word, or a hand-over that nobody was called for."""
    await begin_to_freeze(rig)
    rig.knowledge.found = triggers("utter_cancelled")
    before, message = standing(rig), rig.said("a person please")
    with InThreeCommits(rig.store.path) as store:
        rig.session = rig.new_session(store=store)
        rig.policy.acts = ["handoff" if where == "conversations" else "respond:utter_cancelled"]
        with broken(rig, where), pytest.raises(StoreError, match="crash"):
            await drained(rig.session.reply(rig.conversation, message))
    assert standing(rig) != before


async def test_a_form_that_ended_without_its_reply_never_does_what_it_was_told(rig: Rig) -> None:
    """What such a part would mean: the yes is not answered, and said again it freezes nothing."""
    await begin_to_freeze(rig)
    message = rig.said("Yes")
    rig.store.put_status(tracker_name("c1"), {"slots": {}, "active_form": "", "requested_slot": ""})
    assert standing(rig)["tracker"]["active_form"] == ""
    assert (await answer_again(rig, message)).act != "run:action_freeze_card"
    assert rig.frozen_cards() == []


async def test_an_action_that_ran_before_the_crash_runs_again_and_changes_nothing_more(rig: Rig) -> None:
    """At least once: the card stays frozen since when it was, and the person is told so."""
    await begin_to_freeze(rig)
    message = rig.said("Yes")
    with broken(rig, "messages"), pytest.raises(StoreError, match="crash"):
        await drained(rig.session.reply(rig.conversation, message))
    assert rig.frozen_cards() == ["4412"]
    reply = await answer_again(rig, message)
    assert reply.act == "run:action_freeze_card"
    assert "4412 was already frozen on" in reply.text
    assert rig.frozen_cards() == ["4412"]
    rig.knowledge.found = Found()
    assert not standing(rig)["tracker"]["active_form"]


async def test_a_reply_stored_twice_does_not_set_the_conversation_back(rig: Rig) -> None:
    """A late retry of an old write finds its row and leaves what came after it."""
    await begin_to_freeze(rig)
    old = rig.store.messages("c1")[-1]
    await rig.say("a person please", "handoff")
    now = standing(rig)
    assert rig.store.add_reply(old, None, tracker={"slots": {}}, status="bot") == old
    assert standing(rig) == now
