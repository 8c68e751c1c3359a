"""A conversation whose person takes consent back, or wants it forgotten: what the learner and the file still hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.conversation import Conversation, LegalAct
from bot.errors import NotFound, StoreError
from bot.feedback.store import ConversationFilter, Store, UpdateRow
from bot.feedback.store_connection import Connection, open_writer, transaction
from bot.feedback.store_erasure import fold_log
from tests.builders import make_conversation, make_decision, make_message, make_reward, make_signal

SECRET = "marmalade"
"""A word that is nowhere but in the conversation that is erased."""


def talk(store: Store, name: str, word: str) -> Conversation:
    """Conversation `name`: a question with `word`, a chosen reply, a vote with a comment, and its reward."""
    conversation = make_conversation(id=name, person_id=f"p{name}")
    store.add_conversation(conversation)
    here = {"conversation_id": name}
    store.add_user_message(make_message(id=f"u{name}", text=f"my {word} card", client_id="a", **here))
    decision = make_decision(id=f"d{name}", person_id=f"p{name}", query=f"my {word} card", **here)
    reply = make_message(id=f"b{name}", role="bot", text=f"About {word}.", decision_id=decision.id, **here)
    slot = {"event": "slot", "name": "what", "value": word}
    store.add_reply(reply, decision, tracker={"slots": {"what": word}}, events=[slot])
    signal = make_signal(key=f"k{name}", author=f"p{name}", decision_id=decision.id, comment=f"good {word}", **here)
    stored = store.add_signal(signal)
    store.put_rewards([make_reward(decision_id=decision.id, **here)], stored.seq)
    return conversation


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """c1, which is about marmalade, and c2."""
    with Store(tmp_path / "rejoinder.db") as opened:
        talk(opened, "c1", SECRET)
        talk(opened, "c2", "debit")
        yield opened


def taught(store: Store) -> list[str]:
    """Decisions that an update would draw from, and how many of them are fresh."""
    rows = [row.decision.id for row in store.window(store.last_reward_seq(), 10)]
    assert len(rows) == store.count_fresh(0)
    return rows


def test_without_consent_past_rows_teach_no_more_and_others_still_do(store: Store) -> None:
    """Rewarded while learning was allowed: the control. Allowed again, they count again."""
    assert taught(store) == ["dc1", "dc2"]
    store.update_conversation("c1", learn_ok=False)
    assert taught(store) == ["dc2"]
    store.update_conversation("c1", learn_ok=True)
    assert taught(store) == ["dc1", "dc2"]


def test_what_is_said_without_consent_never_teaches(store: Store) -> None:
    """Also not when consent comes back later: the row itself says that there was none."""
    store.update_conversation("c1", learn_ok=False)
    later = make_decision(id="later", turn=2, train_ok=False)
    store.add_reply(make_message(id="blater", role="bot", decision_id="later"), later)
    store.put_rewards([make_reward(decision_id="later")], 9)
    store.update_conversation("c1", learn_ok=True)
    assert taught(store) == ["dc1", "dc2"]


def test_the_gate_does_not_judge_by_rows_without_consent(tmp_path: Path) -> None:
    """Held-out rows follow the same rule."""
    with Store(tmp_path / "held.db") as store:
        store.add_conversation(make_conversation())
        store.add_reply(make_message(role="bot", decision_id="d1"), make_decision(holdout=True))
        last = store.put_rewards([make_reward()], 0)
        assert len(store.window(last, 10, holdout=True)) == 1
        store.update_conversation("c1", learn_ok=False)
        assert store.window(last, 10, holdout=True) == []


def test_an_erased_conversation_is_gone_everywhere_and_the_other_is_whole(store: Store) -> None:
    """Rows, window, search and what the conversation remembered; the note says how much it was."""
    erased = store.erase_conversation("c1", author="person", at=2000.0)
    assert (erased.num_messages, erased.num_decisions, erased.num_signals, erased.versions) == (2, 1, 1, ())
    with pytest.raises(NotFound):
        store.conversation("c1")
    assert (store.messages("c1"), store.signals("c1"), store.rewards_of("c1"), store.tracker("c1")) == (
        [],
        [],
        [],
        None,
    )
    assert (store.action_events("c1"), len(store.action_events("c2"))) == ({}, 1)
    assert store.list_conversations(ConversationFilter(text=SECRET)) == []
    assert [row.conversation.id for row in store.list_conversations(ConversationFilter(text="debit"))] == ["c2"]
    assert taught(store) == ["dc2"]
    assert len(store.messages("c2")) == 2


def test_no_file_of_the_store_holds_a_word_of_it(store: Store, tmp_path: Path) -> None:
    """Database, log and shared memory, byte by byte; before, the word is there: the control."""
    files = [path for path in tmp_path.iterdir() if path.name.startswith("rejoinder.db")]
    holds = lambda: any(SECRET.encode() in path.read_bytes() for path in files)  # noqa: E731
    assert holds()
    store.erase_conversation("c1", author="person", at=2000.0)
    assert not holds()


def test_the_versions_it_may_have_taught_are_noted(store: Store) -> None:
    """Published updates that drew on one of its decisions; others, and refused ones, are not."""
    for seq, (outcome, version, lineage) in enumerate(
        [
            ("published", "v000001", ("dc1", "dc2")),
            ("published", "v000002", ("dc2",)),
            ("refused", "v000002", ("dc1",)),
            ("published", "v000003", ("dc1",)),
        ]
    ):
        store.commit_update(UpdateRow(1000.0 + seq, seq, f"checkpoint-{seq}", outcome, version, {}, lineage))
    assert store.erase_conversation("c1", author="person", at=2000.0).versions == ("v000001", "v000003")


def test_erasing_twice_is_not_found(store: Store) -> None:
    """Nothing is left to erase."""
    store.erase_conversation("c1", author="person", at=2000.0)
    with pytest.raises(NotFound):
        store.erase_conversation("c1", author="person", at=2000.0)


def test_rewards_settled_while_it_was_erased_are_dropped(store: Store) -> None:
    """The learner had read the conversation just before; for a decision that never was it is still an error."""
    store.erase_conversation("c1", author="person", at=2000.0)
    before = store.last_reward_seq()
    assert store.put_rewards([make_reward(decision_id="dc1", conversation_id="c1", revision=2)], 9) == before
    with pytest.raises(NotFound):
        store.put_rewards([make_reward(decision_id="nobody", conversation_id="c2")], 9)


@pytest.mark.parametrize("table", ["messages", "decisions", "signals", "rewards", "erasures"])
def test_nothing_else_may_delete(store: Store, table: str) -> None:
    """Also after an erasure: the door is open only within it."""
    store.erase_conversation("c1", author="person", at=2000.0)
    with pytest.raises(StoreError, match="append-only"):
        store._write(lambda conn: conn.execute(f"DELETE FROM {table}"))


def test_every_table_that_names_a_conversation_forgets_it(store: Store) -> None:
    """A new table either goes with its conversation (ON DELETE CASCADE) or is deleted by name; only the note stays."""

    def kept(conn: Connection) -> set[str]:
        tables = [row["name"] for row in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {table: [row["name"] for row in conn.execute(f"PRAGMA table_info ({table})")] for table in tables}
        naming = {table for table in tables if "conversation_id" in columns[table]}
        links = [(table, row) for table in naming for row in conn.execute(f"PRAGMA foreign_key_list ({table})")]
        cascading = {table for table, row in links if (row["table"], row["on_delete"]) == ("conversations", "CASCADE")}
        return naming - cascading

    assert store._read(kept) == {"messages", "decisions", "signals", "rewards", "erasures", "erasing"}


def reopened_as_if_older(path: Path, migration: str) -> Store:
    """The store of a home whose release did not know this migration."""
    with transaction(conn := open_writer(path)):
        conn.execute("DELETE FROM _sqlite_migrations WHERE name = ?", [migration])
    conn.close()
    return Store(path)


def test_questions_that_an_older_release_kept_in_others_choices_are_gone(tmp_path: Path) -> None:
    """It stored a case's question as its act's text; the domain's own texts stay, and the choice can still be read."""
    path, question = tmp_path / "rejoinder.db", f"my {SECRET} card"
    own = LegalAct("answer:card_arrival", ("Where is my card?",), 1.0)
    same_words = LegalAct("answer:case_b", ("Where is my card?",), 1.0)
    legal = (own, LegalAct("answer:case_a", (question,), 5.0), same_words)
    with Store(path) as store:
        talk(store, "c2", "debit")
        store.add_reply(
            make_message(id="b9", conversation_id="c2", role="bot", text="Hm.", decision_id="d9"),
            make_decision(id="d9", conversation_id="c2", person_id="pc2", legal=legal),
        )
    assert SECRET.encode() in b"".join(file.read_bytes() for file in tmp_path.iterdir())  # the control
    with reopened_as_if_older(path, "0007_case_texts") as store:
        assert store.decision("d9").legal == (own, LegalAct("answer:case_a", (), 5.0), same_words)
        assert store.decision("dc2").legal == make_decision().legal
    fold_log(path)
    assert SECRET.encode() not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
