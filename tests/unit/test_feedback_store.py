"""The replay store as its callers see it: a real file, every record out as it went in, every retry harmless."""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bot.conversation import LegalAct, SignalKind
from bot.errors import ConflictError, NotFound, StoreError
from bot.feedback.schema import APPEND_ONLY
from bot.feedback.store import ConversationFilter, Store, UpdateRow
from tests.builders import make_conversation, make_decision, make_generated, make_message, make_reward, make_signal


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    with Store(tmp_path / "rejoinder.db") as opened:
        yield opened


@pytest.fixture
def chat(store: Store) -> Store:
    """Conversation c1 with question m1, answer m2 and its decision d1."""
    store.add_conversation(make_conversation())
    store.add_user_message(make_message(client_id="b1"))
    store.add_reply(make_message(id="m2", role="bot", text="In 5 days.", decision_id="d1"), make_decision())
    return store


# --- out as it went in ------------------------------------------------------------------------------------------------
def test_a_conversation_comes_back_as_stored(store: Store) -> None:
    """Also when it is added twice; another one under its id is refused."""
    conversation = make_conversation(learn_ok=False, reply_mode="generated")
    store.add_conversation(conversation)
    store.add_conversation(conversation)
    assert store.conversation("c1") == conversation
    with pytest.raises(ConflictError):
        store.add_conversation(make_conversation(person_id="somebody else"))


def test_settings_of_a_conversation_can_change(chat: Store) -> None:
    """Only what is given changes."""
    changed = chat.update_conversation("c1", status="waiting", learn_ok=False)
    assert changed == make_conversation(status="waiting", learn_ok=False)
    assert chat.conversation("c1") == changed


def test_a_setting_nobody_knows_is_refused(chat: Store) -> None:
    """The schema says which there are."""
    with pytest.raises(StoreError, match="status"):
        chat.update_conversation("c1", status="asleep")


def test_messages_are_numbered_in_order(chat: Store) -> None:
    """From 1, per conversation; a page comes back with the ones it has missed."""
    chat.add_conversation(make_conversation(id="c2"))
    chat.add_user_message(make_message(id="x1", conversation_id="c2"))
    chat.add_user_message(make_message(id="m3", text="Thanks"))
    assert [(m.id, m.seq) for m in chat.messages("c1")] == [("m1", 1), ("m2", 2), ("m3", 3)]
    assert [m.id for m in chat.messages("c1", after_seq=2)] == ["m3"]
    assert chat.message("x1").seq == 1


def test_a_message_comes_back_as_stored(chat: Store) -> None:
    """Lists, odd characters and NULs included."""
    message = make_message(
        id="m9",
        role="bot",
        text="naïve \x00 '; DROP TABLE messages; -- 🤝",
        sources=("card_arrival", "lost_card"),
        quick_replies=("Yes", "No"),
        act="answer:card_arrival",
        version="v000001",
        stop_reason="stop",
    )
    assert chat.add_reply(message, None) == replace(message, seq=3)
    assert chat.message("m9") == replace(message, seq=3)


def test_a_decision_comes_back_as_stored(chat: Store) -> None:
    """Generated text and its log-probabilities too."""
    decision = make_decision(
        id="d2", generated=make_generated(), parts=("encoder", "causal"), train_ok=False, holdout=True
    )
    chat.add_reply(make_message(id="m3", role="bot", decision_id="d2"), decision)
    assert chat.decision("d2") == decision
    assert chat.decisions(["d2", "nothing", "d1"]) == {"d1": make_decision(), "d2": decision}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
@given(numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3))
def test_numbers_keep_every_bit(chat: Store, numbers: list[float]) -> None:
    """DESIGN section 6, invariant 1: what is re-scored later is compared with exactly what was sampled."""
    decision_id = f"d{struct.pack('<3d', *numbers).hex()}"
    legal = tuple(LegalAct(f"answer:a{i}", (), number) for i, number in enumerate(numbers))
    decision = make_decision(id=decision_id, legal=legal, logprobs=tuple(numbers), value=numbers[0])
    chat.add_reply(make_message(id=decision_id, role="bot"), decision)
    found = chat.decision(decision_id)
    assert struct.pack("<3d", *found.logprobs) == struct.pack("<3d", *numbers)
    assert struct.pack("<3d", *(act.prior_logit for act in found.legal)) == struct.pack("<3d", *numbers)
    assert found.value == numbers[0]  # a REAL column forgets the sign of -0.0, which nobody needs


def test_texts_of_acts_are_stored_once(chat: Store) -> None:
    """Ten more decisions among the same three acts add no text."""
    before = chat.counts()["act_texts"]
    for i in range(10):
        chat.add_reply(make_message(id=f"r{i}", role="bot"), make_decision(id=f"r{i}"))
    assert (before, chat.counts()["act_texts"], chat.counts()["decisions"]) == (3, 3, 11)


def test_decisions_of_a_conversation_come_by_turn(chat: Store) -> None:
    """Whatever order they were stored in."""
    for turn in (3, 2):
        chat.add_reply(make_message(id=f"t{turn}", role="bot"), make_decision(id=f"t{turn}", turn=turn))
    assert [d.id for d in chat.conversation_decisions("c1")] == ["d1", "t2", "t3"]


def test_what_is_not_there_is_not_found(chat: Store) -> None:
    """By name."""
    for read in (chat.conversation, chat.message, chat.decision):
        with pytest.raises(NotFound, match="'nobody'"):
            read("nobody")
    with pytest.raises(NotFound, match="'nobody'"):
        chat.add_user_message(make_message(id="m9", conversation_id="nobody"))
    with pytest.raises(NotFound, match="'nobody'"):
        chat.add_signal(make_signal(decision_id="nobody"))


def test_a_signal_about_another_conversations_decision_is_not_found(chat: Store) -> None:
    """A vote belongs to the chat it was cast in."""
    chat.add_conversation(make_conversation(id="c2"))
    with pytest.raises(NotFound):
        chat.add_signal(make_signal(conversation_id="c2", decision_id="d1"))


# --- refused at the boundary ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"logprobs": (0.0, math.nan, 0.0)}, "logprobs: expected finite numbers"),
        ({"logprobs": (0.0, -math.inf, 0.0)}, "logprobs: expected finite numbers"),
        ({"logprobs": (0.0,)}, "expected 3 log-probabilities, got 1"),
        ({"value": math.inf}, "value: expected a finite number, got inf"),
        ({"chosen": 3}, "expected chosen below 3, got 3"),
        ({"mode": -1}, "expected mode below 3, got -1"),
        ({"legal": (LegalAct("a", (), math.nan),) * 3}, "legal: expected finite numbers"),
        ({"query": "\ud800"}, "query: expected text that is valid Unicode"),
        ({"turn": "first"}, "turn"),
    ],
)
def test_a_decision_the_learner_could_not_use_is_refused(chat: Store, overrides: dict[str, Any], message: str) -> None:
    """And its message is not stored either: they are one transaction."""
    with pytest.raises(StoreError, match=message):
        chat.add_reply(make_message(id="m3", role="bot"), make_decision(id="d3", **overrides))
    assert [m.id for m in chat.messages("c1")] == ["m1", "m2"]


@pytest.mark.parametrize(
    "overrides",
    [
        {"value": math.nan},
        {"value": "up"},
        {"kind": "applause"},
        {"key": ""},
        {"key": "k" * 256},
        {"author": ""},
        {"source": "stranger"},
        {"comment": "\udfff"},
    ],
)
def test_a_signal_that_makes_no_sense_is_refused(chat: Store, overrides: dict[str, Any]) -> None:
    """One clear StoreError, nothing stored."""
    with pytest.raises(StoreError):
        chat.add_signal(make_signal(**overrides))
    assert chat.signals("c1") == []


def test_two_texts_under_one_digest_are_refused(chat: Store) -> None:
    """`a US b` and `a`, `b` have one digest: a row would come back with the wrong texts."""
    first, second = LegalAct("say", ("a", "b")), LegalAct("say", ("a\x1fb",))
    chat.add_reply(make_message(id="m3", role="bot"), make_decision(id="d3", legal=(first,), logprobs=(0.0,)))
    with pytest.raises(StoreError, match="one digest"):
        chat.add_reply(make_message(id="m4", role="bot"), make_decision(id="d4", legal=(second,), logprobs=(0.0,)))


# --- retries ----------------------------------------------------------------------------------------------------------
def test_a_user_message_sent_twice_is_one_message(chat: Store) -> None:
    """The same client id gives the stored one back, though the server made another id for it."""
    stored, is_new = chat.add_user_message(make_message(id="another", client_id="b1"))
    assert (stored.id, stored.seq, is_new) == ("m1", 1, False)
    with pytest.raises(ConflictError):
        chat.add_user_message(make_message(id="another", client_id="b1", text="Something else"))


def test_client_ids_are_per_conversation(chat: Store) -> None:
    """Two browsers may count from 1."""
    chat.add_conversation(make_conversation(id="c2"))
    _, is_new = chat.add_user_message(make_message(id="x1", conversation_id="c2", client_id="b1"))
    assert is_new


def test_a_reply_stored_twice_is_one_reply(chat: Store) -> None:
    """Its decision too; another one under its id is refused."""
    reply = make_message(id="m2", role="bot", text="In 5 days.", decision_id="d1")
    assert chat.add_reply(reply, make_decision()).seq == 2
    assert chat.counts()["decisions"] == 1
    with pytest.raises(ConflictError):
        chat.add_reply(replace(reply, text="Never."), make_decision())
    with pytest.raises(ConflictError):
        chat.add_reply(reply, make_decision(value=0.5))


def test_a_signal_sent_twice_is_one_signal(chat: Store) -> None:
    """`1` and `1.0` are the same thumb; a retry comes later and is still the same."""
    first = chat.add_signal(make_signal(value=1.0))
    assert chat.add_signal(make_signal(value=1, created_at=2000.0)) == first
    assert chat.signals("c1") == [first]


@pytest.mark.parametrize("changed", [{"value": -1.0}, {"comment": "no"}, {"label": "wrong"}, {"kind": SignalKind.CSAT}])
def test_the_same_key_with_another_body_is_a_conflict(chat: Store, changed: dict[str, Any]) -> None:
    """DESIGN section 6, invariant 4."""
    chat.add_signal(make_signal())
    with pytest.raises(ConflictError):
        chat.add_signal(make_signal(**changed))
    assert len(chat.signals("c1")) == 1


def test_keys_are_per_author(chat: Store) -> None:
    """Nobody can block another person's vote by guessing its key."""
    assert chat.add_signal(make_signal()).seq != chat.add_signal(make_signal(author="p2")).seq


async def test_fifty_at_once_with_one_key_are_one_row(chat: Store) -> None:
    """All get the same answer."""
    answers = await asyncio.gather(*(asyncio.to_thread(chat.add_signal, make_signal()) for _ in range(50)))
    assert set(answers) == {chat.signals("c1")[0]}
    assert chat.counts()["signals"] == 1


def test_of_fifty_at_once_with_two_bodies_one_body_wins(chat: Store) -> None:
    """25 agree with what is stored, 25 hear of the conflict."""

    def send(i: int) -> float:
        try:
            return chat.add_signal(make_signal(value=float(i % 2))).value
        except ConflictError:
            return math.nan

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(send, range(50)))
    [stored] = chat.signals("c1")
    assert answers.count(stored.value) == 25
    assert sum(map(math.isnan, answers)) == 25


# --- append-only ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("table", APPEND_ONLY)
@pytest.mark.parametrize(
    "sql", ["DELETE FROM {}", "UPDATE {} SET rowid = rowid + 1", "REPLACE INTO {} SELECT * FROM {}"]
)
def test_rows_are_never_changed_or_removed(chat: Store, table: str, sql: str) -> None:
    """The file itself refuses, whoever asks; conversations, the control, may change."""
    chat.add_signal(make_signal())
    chat.put_rewards([make_reward()], 1)
    chat.commit_update(UpdateRow(1.0, 1, "ck", "published", "v000001", {}, ("d1",)))
    statement = sql.format(table, table).replace("rowid = rowid + 1", _COLUMN.get(table, "version = version"))
    with pytest.raises(StoreError, match=f"{table} is append-only"):
        _execute(chat, statement)
    _execute(chat, "UPDATE conversations SET domain = domain")


_COLUMN = {
    "signals": "value = value",
    "rewards": "value = value",
    "act_texts": "texts = texts",
}


def _execute(store: Store, sql: str) -> None:
    def run(conn: Any) -> None:
        conn.execute(sql)

    store._write(run)


# --- rewards and updates ----------------------------------------------------------------------------------------------
def test_rewards_come_back_as_stored(chat: Store) -> None:
    """A withdrawal has no value, which is not 0."""
    given_rewards = [make_reward(), make_reward(revision=2, value=None, terms=())]
    assert chat.put_rewards(given_rewards, 5) == 2
    assert chat.rewards_of("c1") == [replace(reward, seq=i + 1) for i, reward in enumerate(given_rewards)]


def test_the_same_revision_twice_is_one_row(chat: Store) -> None:
    """A settling that was interrupted starts again; the cursor never goes back."""
    chat.put_rewards([make_reward()], 5)
    assert chat.put_rewards([make_reward(settled_at=9999.0)], 3) == 1
    assert (chat.counts()["rewards"], chat.settled_seq()) == (1, 5)


def test_another_reward_under_a_stored_revision_is_a_conflict(chat: Store) -> None:
    """Two settlers disagree: nothing of the second is stored, its cursor neither."""
    chat.put_rewards([make_reward()], 5)
    with pytest.raises(ConflictError):
        chat.put_rewards([make_reward(scope="conversation"), make_reward(value=-0.5)], 9)
    assert (chat.counts()["rewards"], chat.settled_seq()) == (1, 5)


def test_scopes_count_their_revisions_apart(chat: Store) -> None:
    """A decision carries a reply reward and a conversation reward."""
    chat.put_rewards([make_reward(), make_reward(scope="conversation", value=1.0)], 1)
    assert [rated.reward.scope for rated in chat.window(99, 10)] == ["reply", "conversation"]


def test_a_reward_for_no_decision_is_not_found(chat: Store) -> None:
    """Nothing to learn from."""
    with pytest.raises(NotFound):
        chat.put_rewards([make_reward(decision_id="nobody")], 1)


def test_updates_come_back_as_stored(store: Store) -> None:
    """Oldest first; the last one by itself."""
    assert store.last_update() is None
    rows = [UpdateRow(float(i), i, f"ck{i}", "refused", "v000000", {"kl": 0.1 * i}, ("d1",)) for i in range(3)]
    assert [store.commit_update(row) for row in rows] == [1, 2, 3]
    assert store.updates() == [replace(row, seq=i + 1) for i, row in enumerate(rows)]
    assert store.updates(2)[0].seq == 2
    assert store.last_update() == replace(rows[2], seq=3)


def test_an_update_cursor_never_goes_back(store: Store) -> None:
    """Or revisions would enter the window twice."""
    store.commit_update(UpdateRow(1.0, 10, "a", "skipped", "v000000", {}))
    with pytest.raises(StoreError, match="at least 10, got 9"):
        store.commit_update(UpdateRow(2.0, 9, "b", "skipped", "v000000", {}))


def test_status_is_overwritten(store: Store) -> None:
    """The newest heartbeat is the only one."""
    assert store.status("learner") is None
    store.put_status("learner", {"step": 1})
    store.put_status("learner", {"step": 2})
    assert store.status("learner") == {"step": 2}


# --- the operator's list and statistics -------------------------------------------------------------------------------
@pytest.fixture
def three_chats(store: Store) -> Store:
    """c1: thumb up on v000000; c2: thumb down on v000001, waiting; c3: a thumb withdrawn on v000001."""
    thumbs = {"c1": (1.0,), "c2": (1.0, -1.0), "c3": (1.0, 0.0)}
    texts = {"c1": "Where is my card?", "c2": "My café card AND NOT paid", "c3": "Exchange rates"}
    for i, (name, votes) in enumerate(thumbs.items(), start=1):
        version = "v000000" if i == 1 else "v000001"
        store.add_conversation(make_conversation(id=name, created_at=1000.0 + i))
        store.add_user_message(make_message(id=f"{name}q", conversation_id=name, text=texts[name]))
        decision = make_decision(id=f"{name}d", conversation_id=name, version=version, created_at=1000.0 + 10 * i)
        store.add_reply(make_message(id=f"{name}r", conversation_id=name, role="bot", text="Answer"), decision)
        for j, vote in enumerate(votes):
            signal = make_signal(key=f"{name}{j}", conversation_id=name, decision_id=f"{name}d", value=vote)
            store.add_signal(signal)
    store.update_conversation("c2", status="waiting")
    return store


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, ["c3", "c2", "c1"]),
        ({"text": "card"}, ["c2", "c1"]),
        ({"text": "CAFE"}, ["c2"]),
        ({"text": "card wher"}, ["c1"]),
        ({"text": "wher card"}, []),
        ({"text": "?!"}, []),
        ({"text": "where car"}, ["c1"]),
        ({"text": 'NOT ("* card'}, ["c2"]),
        ({"text": "nothing like it"}, []),
        ({"thumb": 1}, ["c1"]),
        ({"thumb": -1}, ["c2"]),
        ({"version": "v000001"}, ["c3", "c2"]),
        ({"status": "waiting"}, ["c2"]),
        ({"before": 1003.0}, ["c2", "c1"]),
        ({"limit": 1}, ["c3"]),
        ({"text": "card", "thumb": 1, "version": "v000000", "status": "bot", "before": 1002.0}, ["c1"]),
    ],
)
def test_the_list_shows_what_the_operator_asked_for(three_chats: Store, wanted: Any, expected: list[str]) -> None:
    """Newest first; words are words, never operators; thumbs are those in force."""
    found = three_chats.list_conversations(ConversationFilter(**wanted))
    assert [row.conversation.id for row in found] == expected


def test_a_line_of_the_list_sums_the_conversation_up(three_chats: Store) -> None:
    """The changed thumb counts once."""
    [row] = three_chats.list_conversations(ConversationFilter(status="waiting"))
    assert (row.last_text, row.num_messages, row.thumbs_up, row.thumbs_down) == ("Answer", 2, 0, 1)
    assert row.versions == ("v000001",)


def test_statistics_by_version(three_chats: Store) -> None:
    """v000001: two replies, one thumb down in force, one of two rated at -0.5, one of two outcomes a success."""
    three_chats.put_rewards([make_reward(decision_id="c2d", conversation_id="c2", value=-0.5)], 1)
    for name, solved in (("c2", 1.0), ("c3", 0.0)):
        outcome = make_signal(
            key=f"o{name}", conversation_id=name, decision_id="", kind=SignalKind.OUTCOME, value=solved
        )
        three_chats.add_signal(outcome)
    first, second = three_chats.stats_by_version()
    nothing = {"mean_reward": None, "rated": 0, "success": None}
    assert first == {"version": "v000000", "replies": 1, "up": 1, "down": 0} | nothing
    some = {"mean_reward": -0.5, "rated": 1, "success": 0.5}
    assert second == {"version": "v000001", "replies": 2, "up": 0, "down": 1} | some


def test_statistics_over_time(three_chats: Store) -> None:
    """Replies at 1010, 1020 and 1030 s in two buckets of 10 s: the last one holds its end."""
    three_chats.put_rewards([make_reward(decision_id="c1d", value=0.5)], 1)
    assert three_chats.stats_over_time(2) == [
        {"at": 1010.0, "replies": 1, "up": 1, "down": 0, "reward": 0.5},
        {"at": 1020.0, "replies": 2, "up": 0, "down": 1, "reward": None},
    ]


def test_an_empty_store_has_no_statistics(store: Store) -> None:
    """And does not divide by zero."""
    assert (store.stats_by_version(), store.stats_over_time(), store.last_reward_seq()) == ([], [], 0)


# --- opening and closing ----------------------------------------------------------------------------------------------
def test_what_was_stored_is_there_after_reopening(tmp_path: Path) -> None:
    """Migrations run once; odd file names are fine; only the owner may read the file."""
    path = tmp_path / "new folder" / "a b?#%.db"
    with Store(path) as store:
        store.add_conversation(make_conversation())
    with Store(path) as store:
        assert store.conversation("c1") == make_conversation()
    assert path.stat().st_mode & 0o777 == 0o600


def test_readonly_reads_and_does_not_write(tmp_path: Path) -> None:
    """A second process may look."""
    path = tmp_path / "rejoinder.db"
    with Store(path) as store, Store(path, readonly=True) as reader:
        store.add_conversation(make_conversation())
        assert reader.conversation("c1") == make_conversation()
        with pytest.raises(StoreError, match="open for reading only"):
            reader.add_conversation(make_conversation(id="c2"))


def _no_such_file(path: Path) -> None:
    """Leave it missing."""


def _not_a_database(path: Path) -> None:
    path.write_bytes(b"a text file that is long enough to be taken for a header" * 20)


def _a_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [_no_such_file, _not_a_database, _a_folder])
def test_a_file_that_is_no_store_is_refused_for_reading(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """In one line."""
    make(tmp_path / "x.db")
    with pytest.raises(StoreError, match=r"^cannot .*$"):
        Store(tmp_path / "x.db", readonly=True)


@pytest.mark.parametrize("make", [_not_a_database, _a_folder])
def test_a_file_that_is_no_store_is_refused_for_writing(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """In one line."""
    make(tmp_path / "x.db")
    with pytest.raises(StoreError, match=r"^cannot .*$"):
        Store(tmp_path / "x.db")


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    """Reads and writes alike; closing twice is fine."""
    store = Store(tmp_path / "x.db")
    store.close()
    store.close()
    for use in (lambda: store.add_conversation(make_conversation()), store.counts):
        with pytest.raises(StoreError, match="closed"):
            use()


def test_a_file_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    """Writing to it could break what the newer release relies on."""
    with Store(tmp_path / "x.db") as store:
        _execute(
            store,
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('feedback', '9999_later', 'now')",
        )
    for readonly in (False, True):
        with pytest.raises(StoreError, match=r"newer release .*9999_later"):
            Store(tmp_path / "x.db", readonly=readonly)


def test_several_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    """One migrates, the others wait and find nothing to do."""

    def open_and_close(_: int) -> dict[str, int]:
        with Store(tmp_path / "x.db") as store:
            return store.counts()

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(open_and_close, range(8)))) == 8
