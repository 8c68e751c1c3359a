"""Asking for a rating, through a session and its store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.compose import build_asker
from bot.conversation import Message
from bot.feedback.store import Store
from bot.policy.asking import Asker
from bot.wire import MessageOut
from tests.builders import make_conversation, make_decision, make_message
from tests.session_rig import Rig, open_session

DOUBTED = "answer:card_arrival"
"""The scripted policy knows no cosines: the floor of "out of scope" is all but certain, so this is all but surely wrong."""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """The bank, with nobody held out."""
    with open_session(tmp_path / "home", learn={"holdout_share": 0.0}) as opened:
        yield opened


async def test_a_doubted_reply_asks_in_store_and_frame_and_a_sure_one_does_not(rig: Rig) -> None:
    """The frame after a reload is made of the same row."""
    sure, doubted = await rig.say("hello"), await rig.say("Where is my card?", DOUBTED)
    assert (sure.ask_rating, doubted.ask_rating) == (False, True)
    assert rig.store.message(doubted.id) == doubted
    assert MessageOut.of(doubted, rig.domain).ask_rating
    assert not MessageOut.of(sure, rig.domain).ask_rating


async def test_a_restart_does_not_forget_whom_it_asked(rig: Rig) -> None:
    """Four replies pass before the next; what was asked is read from the messages, not from memory."""
    found = []
    for _ in range(6):
        rig.session = rig.new_session(asker=Asker(0.2))
        found.append((await rig.say("Where is my card?", DOUBTED)).ask_rating)
    assert found == [True, False, False, False, False, True]


async def test_a_reply_that_was_stopped_is_not_asked_about(rig: Rig) -> None:
    """Nobody can say whether half an answer answers."""
    rig.change(reply_mode="generated")
    rig.policy.acts = [DOUBTED]
    rig.policy.hold()
    stream = rig.stream("Where is my card?")
    rig.policy.step(1)
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    cut = rig.store.messages("c1")[-1]
    assert (cut.stop_reason, cut.ask_rating) == ("cancelled", False)


async def test_a_person_who_does_not_teach_is_not_asked(rig: Rig) -> None:
    """Learning is switched off in this conversation."""
    rig.change(learn_ok=False)
    assert not (await rig.say("Where is my card?", DOUBTED)).ask_rating


async def test_the_server_begins_with_the_replies_that_it_stored(rig: Rig) -> None:
    """Four asked about among the first use up the share of twenty: a fresh memory would ask again (the control)."""
    for i in range(4):
        store_reply(rig.store, f"old{i}", asked=True)
    asker, doubted = build_asker(rig.settings, rig.store), make_decision(temperature=0.01)
    assert not asker.asks(doubted, ())
    assert Asker(0.2).asks(doubted, ())


def store_reply(store: Store, name: str, *, asked: bool) -> Message:
    decision = make_decision(id=name)
    return store.add_reply(make_message(id=f"m-{name}", role="bot", decision_id=name, ask_rating=asked), decision)


def test_the_newest_replies_are_those_that_a_policy_chose(tmp_path: Path) -> None:
    """Oldest first; neither people's words nor a greeting."""
    with Store(tmp_path / "x.db") as store:
        store.add_conversation(make_conversation())
        replies = [store_reply(store, f"d{i}", asked=i == 1) for i in range(3)]
        store.add_user_message(make_message(id="u"))
        store.add_reply(make_message(id="g", role="bot"), None)
        assert store.newest_replies(10) == replies
        assert store.newest_replies(2) == replies[1:]


def test_replies_of_an_older_release_were_not_asked_about(tmp_path: Path) -> None:
    """A store that was made before gets the column and keeps its rows."""
    path = tmp_path / "x.db"
    with Store(path) as store:
        store.add_conversation(make_conversation())
        store_reply(store, "d1", asked=False)
    with sqlite3.connect(path) as conn:
        conn.execute("ALTER TABLE messages DROP COLUMN ask_rating")
        conn.execute("DELETE FROM _sqlite_migrations WHERE name = '0003_asked_replies'")
    conn.close()
    with Store(path) as store:
        assert not store.message("m-d1").ask_rating
        assert store_reply(store, "d2", asked=True).ask_rating
