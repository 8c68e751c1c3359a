"""The inbox: what it lists, how it is filtered, searched and cut into pages, and that it keeps in step with the store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bot.conversation import SignalKind
from bot.errors import ConflictError, NotFound
from bot.feedback import schema_desk
from bot.feedback.desk import Doing
from bot.feedback.desk_records import InboxQuery, Piece
from bot.feedback.store import Store
from bot.feedback.store_connection import open_writer, transaction
from tests.builders import make_conversation, make_decision, make_message, make_signal

NOW = 10_000.0
ANA, BEN = Doing("operator:ana", NOW), Doing("operator:ben", NOW)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "rejoinder.db") as store:
        yield store


def add_chat(store: Store, name: str, at: float, *texts: str, **reply: Any) -> None:
    """A conversation with questions at `at`, `at + 1`, ..., and a chosen reply to the last one."""
    store.add_conversation(make_conversation(id=name, created_at=at))
    for i, text in enumerate(texts):
        store.add_user_message(
            make_message(id=f"{name}{i}", conversation_id=name, text=text, created_at=at + i, client_id=str(i))
        )
    decision = make_decision(id=f"d{name}", conversation_id=name, version=reply.get("version", "v000000"))
    fields = {
        "text": "In 5 days.",
        "act": "answer:card_arrival",
        "version": decision.version,
        "sources": ("card_arrival",),
    }
    bot = make_message(
        id=f"r{name}",
        conversation_id=name,
        role="bot",
        created_at=at + len(texts),
        decision_id=decision.id,
        **fields | reply,
    )
    store.add_reply(bot, decision, language="en")


def ids(store: Store, **wanted: Any) -> list[str]:
    return [row.id for row in store.desk.inbox(InboxQuery(**wanted), NOW).rows]


@pytest.fixture
def three(store: Store) -> Store:
    """`a` the oldest; `b` disliked, by v000002; `c` solved and waiting for a person."""
    add_chat(store, "a", 100.0, "Where is my card?")
    add_chat(store, "b", 200.0, "A refund, please", version="v000002", act="handoff", sources=())
    add_chat(store, "c", 300.0, "My card is lost")
    store.add_signal(make_signal(key="1", conversation_id="b", decision_id="db", value=-1.0))
    store.add_signal(make_signal(key="2", conversation_id="c", decision_id="", kind=SignalKind.OUTCOME, value=1.0))
    store.add_signal(make_signal(key="3", conversation_id="c", decision_id="", kind=SignalKind.CSAT, value=4.0))
    store.update_conversation("c", status="waiting")
    return store


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, "cba"),
        ({"view": "open"}, "cba"),
        ({"view": "waiting"}, "c"),
        ({"view": "bot"}, "ba"),
        ({"view": "resolved"}, ""),
        ({"view": "snoozed"}, ""),
        ({"thumb": "down"}, "b"),
        ({"thumb": "up"}, ""),
        ({"csat": 4}, "c"),
        ({"csat": 1}, ""),
        ({"outcome": "solved"}, "c"),
        ({"outcome": "not_solved"}, ""),
        ({"version": "v000002"}, "b"),
        ({"act": "handoff"}, "b"),
        ({"article": "card_arrival"}, "ca"),
        ({"language": "en"}, "cba"),
        ({"language": "de"}, ""),
        ({"assignee": "nobody"}, "cba"),
        ({"assignee": "ana"}, ""),
        ({"flagged": True}, ""),
        ({"since": 201.0}, "cb"),
        ({"until": 201.0}, "a"),
        ({"order": "waiting"}, "c"),
        ({"text": "card"}, "ca"),
        ({"text": "card", "view": "waiting"}, "c"),
        ({"text": "nothing of the kind"}, ""),
        ({"text": '"card" OR'}, ""),
        ({"thumb": "down", "version": "v000002"}, "b"),
        ({"thumb": "down", "version": "v000000"}, ""),
    ],
)
def test_a_filter_shows_what_it_says(three: Store, wanted: Any, expected: str) -> None:
    """Alone and together; what is typed into the search is never an operator."""
    assert ids(three, **wanted) == list(expected)


def test_a_line_holds_what_the_list_shows(three: Store) -> None:
    """Read off the three conversations by hand."""
    row = three.desk.line("c", NOW)
    assert (row.state, row.csat, row.outcome, row.num_messages, row.last_role) == ("waiting", 4, "solved", 2, "bot")
    assert (row.created_at, row.updated_at, row.waiting_since, row.versions) == (300.0, 301.0, 301.0, ("v000000",))
    assert three.desk.line("b", NOW).down == 1
    with pytest.raises(NotFound):
        three.desk.line("nobody", NOW)


def test_a_withdrawn_thumb_leaves_the_list(three: Store) -> None:
    """Thumbs are those in force."""
    three.add_signal(make_signal(key="4", conversation_id="b", decision_id="db", value=0.0))
    assert ids(three, thumb="down") == []


def test_marks_show_and_are_taken_back(three: Store) -> None:
    """Flag, tag, claim, snooze; a snoozed one is back when its time has come, or its person writes."""
    desk = three.desk
    desk.flag(ANA, "a", flagged=True)
    desk.tag(ANA, "a", "refund", present=True)
    desk.claim(ANA, "a")
    desk.snooze(ANA, "b", NOW + 60)
    assert ids(three, flagged=True) == ids(three, tag="refund") == ids(three, assignee="ana") == ["a"]
    assert ids(three, view="snoozed") == ["b"]
    assert ids(three, view="open") == ["c", "a"]
    assert [row.id for row in desk.inbox(InboxQuery(view="snoozed"), NOW + 60).rows] == []
    three.add_user_message(make_message(id="again", conversation_id="b", client_id="again", created_at=400.0))
    assert ids(three, view="snoozed") == []
    desk.tag(ANA, "a", "refund", present=False)
    desk.flag(ANA, "a", flagged=False)
    desk.release(ANA, "a")
    assert ids(three, flagged=True) == ids(three, tag="refund") == ids(three, assignee="ana") == []


def test_a_claim_keeps_others_out_until_they_insist(three: Store) -> None:
    """The second one is told whose it is."""
    three.desk.claim(ANA, "a")
    with pytest.raises(ConflictError, match="claimed by ana"):
        three.desk.claim(BEN, "a")
    three.desk.claim(BEN, "a", force=True)
    assert three.desk.line("a", NOW).assignee == "ben"


@pytest.mark.parametrize("wanted", [{}, {"view": "open"}, {"language": "en"}, {"text": "card"}])
def test_pages_show_every_conversation_once(store: Store, wanted: Any) -> None:
    """Also where many carry the same time, and where a search finds several messages of one."""
    for i in range(7):
        add_chat(store, f"c{i}", 100.0 + i // 3, "a card", "the same card")
    seen: list[str] = []
    query = InboxQuery(**wanted, limit=2)
    while True:
        page = store.desk.inbox(query, NOW)
        seen += [row.id for row in page.rows]
        if not page.next:
            break
        query = InboxQuery(**wanted, limit=2, cursor=page.next)
    assert sorted(seen) == [f"c{i}" for i in range(7)]
    assert len(seen) == 7


def test_a_search_shows_where_the_words_stand(three: Store) -> None:
    """The newest message that matches, in pieces; hostile text is just text."""
    add_chat(three, "d", 400.0, "<b>card</b> \ue000x")
    found = {row.id: row.snippet for row in three.desk.inbox(InboxQuery(text="card"), NOW).rows}
    assert found["a"] == (Piece("Where is my ", hit=False), Piece("card", hit=True), Piece("?", hit=False))
    assert Piece("card", hit=True) in found["d"]
    assert "<b>" in found["d"][0].text


def test_counts_say_how_much_is_where(three: Store) -> None:
    """`mine` are those claimed by the one who asks and not closed."""
    three.desk.claim(ANA, "a")
    three.desk.snooze(ANA, "b", NOW + 1)
    assert three.desk.counts("ana", NOW) == {
        "bot": 1, "waiting": 1, "person": 0, "resolved": 0, "snoozed": 1, "mine": 1,
    }  # fmt: skip


def test_what_changed_is_found_by_its_revision(three: Store) -> None:
    """Each conversation once, at its newest change; nothing changed: nothing."""
    seen = three.desk.last_revision()
    assert three.desk.changed_since(seen) == ([], seen)
    three.desk.flag(ANA, "a", flagged=True)
    three.add_signal(make_signal(key="9", conversation_id="b", decision_id="db", author="p2"))
    changed, now = three.desk.changed_since(seen)
    assert changed == ["a", "b"]
    assert three.desk.changed_since(now) == ([], now)


def test_a_closed_conversation_opens_when_its_person_writes(three: Store) -> None:
    """Who writes again has something to say."""
    three.desk.end_turn(ANA, "a", "resolved")
    assert ids(three, view="resolved") == ["a"]
    three.add_user_message(make_message(id="more", conversation_id="a", client_id="more", created_at=500.0))
    assert three.conversation("a").status == "bot"
    assert ids(three, view="open")[0] == "a"


def test_the_queue_is_first_come_first_served(three: Store) -> None:
    """Positions count from 1; who is served leaves it."""
    three.update_conversation("a", status="waiting")
    assert three.desk.waiting() == ["a", "c"]
    assert [three.desk.standing(name).position for name in "ac"] == [1, 2]
    three.desk.take_over(ANA, "a")
    assert (three.desk.standing("a").operator, three.desk.standing("c").position) == ("ana", 1)


def test_a_visit_without_a_word_is_nothing_to_work_on(three: Store) -> None:
    """The greeting alone is in neither list nor count, also once it slept; whoever asks for a person without a word is."""
    before = three.desk.counts("ana", NOW)
    for i, name in enumerate(("greeted", "asleep", "asks")):
        three.add_conversation(make_conversation(id=name, created_at=600.0 + i))
        three.add_reply(
            make_message(id=name, conversation_id=name, role="bot", text="Hello", created_at=600.0 + i), None
        )
    three.desk.snooze(ANA, "asleep", NOW + 60.0)
    three.update_conversation("asks", status="waiting")
    assert (ids(three, view="open"), ids(three, view="bot")) == (["asks", "c", "b", "a"], ["b", "a"])
    assert three.desk.counts("ana", NOW) == before | {"waiting": 2, "snoozed": 1}
    assert three.desk.counts("ana", NOW + 61.0) == before | {"waiting": 2}
    assert ids(three)[:3] == ["asks", "asleep", "greeted"]
    three.add_user_message(make_message(id="first", conversation_id="greeted", client_id="1", created_at=700.0))
    assert ids(three, view="open")[0] == "greeted"
    assert three.desk.counts("ana", NOW)["bot"] == before["bot"] + 1


def test_only_whoever_speaks_hands_back(three: Store) -> None:
    """Who waits for a person keeps their place, and nothing is written down; after a take-over it is done once."""
    for name in "ac":
        with pytest.raises(ConflictError, match="nothing to hand back"):
            three.desk.end_turn(ANA, name, "bot")
    assert (three.conversation("c").status, three.desk.waiting(), three.desk.audit()) == ("waiting", ["c"], [])
    three.desk.take_over(ANA, "c")
    assert three.desk.end_turn(ANA, "c", "bot")
    assert three.conversation("c").status == "bot"


def test_a_home_from_before_the_inbox_is_filled_in(tmp_path: Path) -> None:
    """The migration makes the same lines that the triggers would have made."""
    with Store(tmp_path / "rejoinder.db") as store:
        add_chat(store, "a", 100.0, "Where is my card?")
        store.add_signal(make_signal(key="1", conversation_id="a", decision_id="da"))
        expected = store.desk.line("a", NOW)
    conn = open_writer(tmp_path / "rejoinder.db")
    with transaction(conn):
        conn.execute("DELETE FROM inbox")
        conn.execute("DELETE FROM inbox_facets")
        for statement in schema_desk._FILL:
            conn.execute(statement)
    conn.close()
    with Store(tmp_path / "rejoinder.db") as store:
        found = store.desk.line("a", NOW)
    for name in ("updated_at", "state", "last_text", "last_role", "num_messages", "up", "down", "versions"):
        assert getattr(found, name) == getattr(expected, name)


def test_every_action_is_in_the_audit_log_and_the_log_shows_tampering(tmp_path: Path) -> None:
    """Who, what, when, before, after; a row changed behind its back breaks the chain."""
    with Store(tmp_path / "rejoinder.db") as store:
        add_chat(store, "a", 100.0, "Where is my card?")
        store.desk.claim(ANA, "a")
        store.desk.claim(ANA, "a")
        store.desk.take_over(ANA, "a")
        store.desk.end_turn(ANA, "a", "bot")
        rows = store.desk.audit()[::-1]
        assert [(row.actor, row.action, row.target) for row in rows] == [
            ("operator:ana", "claim", "a"),
            ("operator:ana", "take over", "a"),
            ("operator:ana", "hand back", "a"),
            ("operator:ana", "release", "a"),
        ]
        assert (rows[1].before, rows[1].after, rows[1].at) == ({"status": "bot"}, {"status": "person"}, NOW)
        assert store.desk.first_broken_audit_row() == 0
    conn = open_writer(tmp_path / "rejoinder.db")
    with pytest.raises(Exception, match="append-only"):
        conn.execute("UPDATE audit SET actor = 'operator:ben' WHERE seq = 2")
    conn.execute("DROP TRIGGER audit_never_updated")
    conn.execute("UPDATE audit SET actor = 'operator:ben' WHERE seq = 2")
    conn.close()
    with Store(tmp_path / "rejoinder.db") as store:
        assert store.desk.first_broken_audit_row() == 2


def test_saved_filters_and_macros_are_kept(store: Store) -> None:
    """Filters are one's own, macros everybody's; None forgets."""
    store.desk.save_filter(ANA, "angry", {"thumb": "down"})
    store.desk.save_macro(ANA, "wait", "One moment, please.")
    assert store.desk.saved_filters("operator:ana") == {"angry": {"thumb": "down"}}
    assert store.desk.saved_filters("operator:ben") == {}
    assert store.desk.macros() == {"wait": "One moment, please."}
    store.desk.save_filter(ANA, "angry", None)
    store.desk.save_macro(BEN, "wait", None)
    assert (store.desk.saved_filters("operator:ana"), store.desk.macros()) == ({}, {})


def test_an_operators_own_conversations_are_not_in_the_inbox(store: Store) -> None:
    """Lessons are for the learner."""
    store.add_conversation(make_conversation(id="lesson", person_id="operator:ana"))
    assert ids(store) == []
    assert json.loads(json.dumps(store.desk.counts("ana", NOW)))["bot"] == 0


def test_thumbs_are_counted_in_force_by_slot(three: Store) -> None:
    """Of each (reply, person) the newest: a changed mind moves from one count to the other, a second person adds."""
    said = [("p1", 1.0), ("p1", 1.0), ("p2", -1.0), ("p1", -1.0), ("p2", 0.0), ("p3", 1.0)]
    seen = []
    for i, (author, value) in enumerate(said):
        three.add_signal(make_signal(key=f"t{i}", conversation_id="a", decision_id="da", author=author, value=value))
        row = three.desk.line("a", NOW)
        seen.append((row.up, row.down))
    assert seen == [(1, 0), (1, 0), (1, 1), (0, 2), (0, 1), (1, 1)]
