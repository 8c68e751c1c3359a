"""The chat socket, frame by frame: one tab, in process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient, WebSocketDenialResponse, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from bot.errors import ModelError, StoreError
from bot.feedback.store import Store
from tests.service_rig import Rig, open_rig

SOCKET = "ws://localhost:7860/ws/chat"
"""With its port, so that the Host header is the one a browser would send."""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with open_rig(tmp_path) as rig:
        yield rig


@pytest.fixture
def client(rig: Rig) -> Iterator[TestClient]:
    with TestClient(rig.app, base_url="http://localhost:7860") as client:
        yield client


@pytest.fixture
def tab(client: TestClient) -> Iterator[WebSocketTestSession]:
    """A socket that has not said hello."""
    with client.websocket_connect("/ws/chat") as tab:
        yield tab


def hello(tab: WebSocketTestSession, **fields: Any) -> dict[str, Any]:
    tab.send_json({"type": "hello", "protocol": 1} | fields)
    return receive(tab, "hello")


def receive(tab: WebSocketTestSession, *types: str) -> dict[str, Any]:
    """The next frame of these types."""
    while True:
        frame: dict[str, Any] = tab.receive_json()
        if frame["type"] in types:
            return frame


def ask(tab: WebSocketTestSession, text: str = "Where is my card?", client_id: str = "a1") -> dict[str, Any]:
    """Send a message and return the whole reply."""
    tab.send_json({"type": "message", "client_id": client_id, "text": text})
    while (frame := receive(tab, "message"))["message"]["role"] != "bot":
        pass
    reply: dict[str, Any] = frame["message"]
    return reply


def vote(tab: WebSocketTestSession, message_id: str, thumb: int = 1, key: str = "k1", **more: Any) -> dict[str, Any]:
    tab.send_json({"type": "feedback", "key": key, "message_id": message_id, "thumb": thumb} | more)
    return receive(tab, "ack", "error")


def test_the_first_frame_says_that_it_is_an_ai_and_offers_a_person(tab: WebSocketTestSession) -> None:
    """DESIGN invariant 10."""
    frame = hello(tab)
    assert frame["ai_notice"] == "I am an AI assistant."
    assert frame["human_offer"] == "You can ask for a person at any time."
    assert [m["text"] for m in frame["messages"]] == ["Hello, how can I help?"]
    assert (frame["partial"], frame["status"], frame["reply"], frame["learn"]) == (None, "bot", "approved", True)


def test_a_message_is_acknowledged_streamed_and_ends_in_a_whole_reply(tab: WebSocketTestSession, rig: Rig) -> None:
    """The whole road of one message."""
    hello(tab)
    tab.send_json({"type": "message", "client_id": "a1", "text": " Where is my card? "})
    own, ack = receive(tab, "message")["message"], receive(tab, "ack")
    assert (own["text"], own["client_id"], own["seq"]) == ("Where is my card?", "a1", 2)
    assert ack == {"type": "ack", "kind": "message", "client_id": "a1", "message_id": own["id"], "seq": 2}
    deltas = [receive(tab, "delta") for _ in range(3)]
    reply = receive(tab, "message")["message"]
    assert [d["index"] for d in deltas] == [0, 1, 2]
    assert "".join(d["text"] for d in deltas) == reply["text"] == "In five days."
    assert {d["message_id"] for d in deltas} == {reply["id"]}
    assert {d["version"] for d in deltas} == {reply["version"]} == {"v000000"}
    assert reply["sources"] == [{"id": "card_arrival", "title": "When your card comes"}]
    assert reply["can_vote"]
    assert rig.store.messages(only_conversation(rig))[-1].text == "In five days."


def only_conversation(rig: Rig) -> str:
    """The id of the only conversation."""
    (conversation_id,) = rig.hub.rooms
    return str(conversation_id)


def test_the_same_client_id_twice_is_one_message_and_one_reply(tab: WebSocketTestSession, rig: Rig) -> None:
    """A browser that never saw the acknowledgement sends again."""
    hello(tab)
    ask(tab)
    tab.send_json({"type": "message", "client_id": "a1", "text": "Where is my card?"})
    assert receive(tab, "ack", "message", "error")["seq"] == 2
    assert rig.replier.num_replies == 1
    assert [m.role for m in rig.store.messages(only_conversation(rig))] == ["bot", "user", "bot"]


def test_the_same_client_id_with_another_text_is_a_conflict(tab: WebSocketTestSession) -> None:
    """It must be a bug of the sender's, so it is told."""
    hello(tab)
    ask(tab)
    tab.send_json({"type": "message", "client_id": "a1", "text": "Something else"})
    frame = receive(tab, "ack", "error")
    assert (frame["code"], frame["client_id"]) == ("conflict", "a1")


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ('{"type":"message","client_id":"a","text":"  "}', "bad_frame", "text: expected at least one character"),
        ('{"type":"message","client_id":"a","text":"%s"}' % ("x" * 4001), "too_much", "at most 4000 characters"),
        ('{"type":"message","client_id":"a","text":"%s"}' % ("x" * 100_000), "too_much", "at most 65536 bytes"),
        ('{"type":"message","client_id":"a","text":"a\\u0000b"}', "bad_frame", "NUL"),
        ('{"type":"message","client_id":"","text":"a"}', "bad_frame", "client_id"),
        ('{"type":"message","client_id":"a","text":"a","x":1}', "bad_frame", "x: unknown field"),
        ('{"type":"feedback","key":"k","message_id":"nope","thumb":1}', "not_found", "nope"),
        ('{"type":"feedback","key":"k","message_id":"nope","thumb":2}', "bad_frame", "thumb"),
        ('{"type":"settings","reply":"poetry"}', "bad_frame", "reply"),
        ('{"type":"dance"}', "bad_frame", "type: expected hello, message"),
        ("{}", "bad_frame", "type: expected"),
        ("[]", "bad_frame", "frame: expected a JSON object"),
        ("no json", "bad_frame", "expected JSON"),
        ("[" * 20_000, "bad_frame", "expected JSON"),
        ('{"type":"hello","protocol":1}', "protocol", "hello once"),
    ],
)
def test_a_wrong_frame_gets_one_clear_line(tab: WebSocketTestSession, text: str, code: str, words: str) -> None:
    """Expected and got, in one line, and only to its sender."""
    hello(tab)
    tab.send_text(text)
    frame = receive(tab, "error", "message", "ack")
    assert frame["type"] == "error"
    assert frame["code"] == code
    assert words in frame["message"]
    assert len(frame["message"].splitlines()) == 1
    assert len(frame["message"]) < 300


def test_after_wrong_frames_the_socket_still_works(tab: WebSocketTestSession) -> None:
    """Binary, malformed and oversized ones; then a question is answered."""
    hello(tab)
    tab.send_bytes(b"\x00\xff")
    assert receive(tab, "error")["message"] == "frame: expected JSON text, got a binary frame"
    tab.send_text("{")
    assert receive(tab, "error")["code"] == "bad_frame"
    tab.send_text("x" * 70_000)
    assert receive(tab, "error")["code"] == "too_much"
    assert ask(tab)["text"] == "In five days."


def test_hello_must_come_first(tab: WebSocketTestSession) -> None:
    """Anything else is out of turn, and the socket is closed."""
    tab.send_json({"type": "message", "client_id": "a1", "text": "hi"})
    assert receive(tab, "error")["message"] == "expected hello first, got message"
    with pytest.raises(WebSocketDisconnect) as closed:
        tab.receive_json()
    assert closed.value.code == 1008


def test_ping_is_answered_before_hello(tab: WebSocketTestSession) -> None:
    """It tells that the server lives, nothing more."""
    tab.send_json({"type": "ping"})
    assert tab.receive_json() == {"type": "pong"}


@pytest.mark.parametrize(
    ("fields", "code", "stays"),
    [
        ({"token": "p_1.forged"}, "not_allowed", False),
        ({"conversation_id": "c_1"}, "not_allowed", False),
        ({"protocol": 2}, "bad_frame", True),
    ],
)
def test_a_hello_that_proves_nothing_is_refused(
    tab: WebSocketTestSession, fields: dict[str, Any], code: str, stays: bool
) -> None:
    """Forged tokens and missing ones close the socket; a mistake does not."""
    tab.send_json({"type": "hello", "protocol": 1} | fields)
    assert receive(tab, "error", "hello")["code"] == code
    if stays:
        assert hello(tab)["type"] == "hello"
        return
    with pytest.raises(WebSocketDisconnect):
        tab.receive_json()


def test_somebody_elses_conversation_is_refused(client: TestClient, tab: WebSocketTestSession) -> None:
    """A valid token opens only its own person's conversations."""
    theirs = client.post("/v1/conversations", json={}).json()
    mine = client.post("/v1/conversations", json={}).json()
    tab.send_json(
        {"type": "hello", "protocol": 1, "token": mine["token"], "conversation_id": theirs["conversation_id"]}
    )
    assert receive(tab, "error", "hello")["code"] == "not_allowed"


def test_an_unknown_conversation_may_be_followed_by_a_fresh_one(client: TestClient, tab: WebSocketTestSession) -> None:
    """The page learns that its conversation is gone and starts another on the same socket."""
    token = client.post("/v1/conversations", json={}).json()["token"]
    tab.send_json({"type": "hello", "protocol": 1, "token": token, "conversation_id": "c_gone"})
    assert receive(tab, "error", "hello")["code"] == "not_found"
    assert hello(tab, token=token)["token"] == token


def test_coming_back_sends_what_was_missed_and_the_votes(client: TestClient, tab: WebSocketTestSession) -> None:
    """History after a reload, and only the rest after a dropped connection."""
    first = hello(tab)
    reply = ask(tab)
    vote(tab, reply["id"], -1, reasons=["wrong"], comment="It was late.")
    credentials = {key: first[key] for key in ("token", "conversation_id")}
    with client.websocket_connect("/ws/chat") as again:
        whole = hello(again, **credentials)
    with client.websocket_connect("/ws/chat") as again:
        rest = hello(again, last_seq=2, **credentials)
    assert [m["seq"] for m in whole["messages"]] == [1, 2, 3]
    assert [m["seq"] for m in rest["messages"]] == [3]
    assert whole["votes"] == {reply["id"]: {"thumb": -1, "reasons": ["wrong"], "comment": "It was late."}}


# --- votes ------------------------------------------------------------------------------------------------------------
def test_a_vote_can_be_changed_and_withdrawn(client: TestClient, tab: WebSocketTestSession, rig: Rig) -> None:
    """Each change is a new row; the page shows the newest; a withdrawn one is gone."""
    first = hello(tab)
    reply = ask(tab)
    seqs = [vote(tab, reply["id"], thumb, key)["seq"] for thumb, key in [(1, "k1"), (-1, "k2"), (0, "k3")]]
    assert seqs == sorted(set(seqs))
    assert [s.value for s in rig.store.signals(first["conversation_id"])] == [1.0, -1.0, 0.0]
    with client.websocket_connect("/ws/chat") as again:
        assert hello(again, token=first["token"], conversation_id=first["conversation_id"])["votes"] == {}


def test_the_same_key_is_one_vote_and_another_body_a_conflict(tab: WebSocketTestSession, rig: Rig) -> None:
    """DESIGN invariant 4."""
    first = hello(tab)
    reply = ask(tab)
    assert vote(tab, reply["id"], 1, "k1")["seq"] == vote(tab, reply["id"], 1, "k1")["seq"]
    conflict = vote(tab, reply["id"], -1, "k1")
    assert (conflict["code"], conflict["key"]) == ("conflict", "k1")
    assert len(rig.store.signals(first["conversation_id"])) == 1


def test_a_retried_old_vote_does_not_show_over_the_newer_one(tab: WebSocketTestSession) -> None:
    """Tabs are told the vote in force, not the one that was sent again."""
    hello(tab)
    reply = ask(tab)
    vote(tab, reply["id"], 1, "k1")
    vote(tab, reply["id"], -1, "k2")
    tab.send_json({"type": "feedback", "key": "k1", "message_id": reply["id"], "thumb": 1})
    assert receive(tab, "feedback")["thumb"] == -1


def test_votes_on_the_greeting_own_words_and_others_replies_are_refused(
    client: TestClient, tab: WebSocketTestSession
) -> None:
    """Only a reply that the bot chose for this person takes a vote."""
    first = hello(tab)
    reply = ask(tab)
    assert vote(tab, first["messages"][0]["id"])["code"] == "bad_frame"
    tab.send_json({"type": "message", "client_id": "a2", "text": "Thanks"})
    own = receive(tab, "message")["message"]
    assert receive(tab, "ack")["kind"] == "message"
    assert vote(tab, own["id"])["code"] == "bad_frame"
    with client.websocket_connect("/ws/chat") as stranger:
        hello(stranger)
        assert vote(stranger, reply["id"])["code"] == "not_allowed"


def test_an_outcome_and_a_handover_are_signals_of_the_conversation(tab: WebSocketTestSession, rig: Rig) -> None:
    """Both are acknowledged when stored; asking twice for a person hands over once."""
    first = hello(tab)
    tab.send_json({"type": "outcome", "key": "o1", "solved": False})
    assert receive(tab, "ack")["kind"] == "outcome"
    tab.send_json({"type": "handover", "key": "h1"})
    assert receive(tab, "message")["message"]["text"] == "A person will come."
    assert receive(tab, "status")["status"] == "waiting"
    assert receive(tab, "ack")["key"] == "h1"
    tab.send_json({"type": "handover", "key": "h2"})
    assert receive(tab, "ack", "message")["key"] == "h2"
    stored = rig.store.signals(first["conversation_id"])
    assert [(s.kind.value, s.value, s.decision_id) for s in stored] == [
        ("outcome", 0.0, ""),
        ("handover", 1.0, ""),
        ("handover", 1.0, ""),
    ]


def test_settings_are_stored_and_told(tab: WebSocketTestSession, rig: Rig) -> None:
    """Both switches of a conversation."""
    first = hello(tab)
    tab.send_json({"type": "settings", "reply": "generated", "learn": False})
    assert receive(tab, "settings") == {"type": "settings", "reply": "generated", "learn": False}
    stored = rig.store.conversation(first["conversation_id"])
    assert (stored.reply_mode, stored.learn_ok) == ("generated", False)


def test_generated_replies_need_a_model_that_writes(tab: WebSocketTestSession, rig: Rig) -> None:
    """Otherwise the switch says so and stays."""
    rig.policy.can_write = False
    assert not hello(tab)["can_write"]
    tab.send_json({"type": "settings", "reply": "generated"})
    assert receive(tab, "error", "settings")["code"] == "unavailable"


@pytest.mark.parametrize(("backend", "is_taken"), [("vllm", True), ("transformers", False)])
def test_who_wants_generated_replies_may_begin_while_the_server_that_writes_is_gone(
    tmp_path: Path, backend: str, is_taken: bool
) -> None:
    """The wish is kept, and `can_write` says that it waits; over HTTP and in the middle of a chat too. The control: where
    nothing that writes is configured, it is refused."""
    with open_rig(tmp_path, backend=backend) as rig, TestClient(rig.app) as client:
        rig.policy.can_write = False
        assert client.post("/v1/conversations", json={"reply": "generated"}).status_code == (201 if is_taken else 503)
        with client.websocket_connect("/ws/chat") as tab:
            tab.send_json({"type": "hello", "protocol": 1, "reply": "generated"})
            first = tab.receive_json()
            assert first["type"] == ("hello" if is_taken else "error")
            if is_taken:
                assert (first["reply"], first["can_write"]) == ("generated", False)
                assert ask(tab)["text"]
                tab.send_json({"type": "settings", "reply": "generated"})
                assert receive(tab, "settings", "error")["reply"] == "generated"


# --- limits -----------------------------------------------------------------------------------------------------------
def test_messages_are_limited_per_person_and_the_wait_is_told(tmp_path: Path) -> None:
    """Two a minute: the third waits 30 s; after that it goes through. Control: without waiting it does not."""
    with (
        open_rig(tmp_path, messages_per_min=2.0) as rig,
        TestClient(rig.app) as client,
        client.websocket_connect("/ws/chat") as tab,
    ):
        hello(tab)
        ask(tab, client_id="a1")
        ask(tab, client_id="a2")
        tab.send_json({"type": "message", "client_id": "a3", "text": "again"})
        refused = receive(tab, "error", "ack")
        assert (refused["code"], refused["retry_after_s"]) == ("too_much", 30.0)
        rig.ticks.now += 30
        assert ask(tab, client_id="a3")["text"] == "In five days."


def test_new_conversations_are_limited_per_address_and_the_wait_is_told(tmp_path: Path) -> None:
    """Two a minute, however they are started; coming back starts none. Control: half a minute later it goes through."""
    with open_rig(tmp_path, conversations_per_min=2.0) as rig, TestClient(rig.app) as client:
        with client.websocket_connect("/ws/chat") as tab:
            first = hello(tab)
        assert client.post("/v1/conversations", json={}).status_code == 201
        over_http = client.post("/v1/conversations", json={})
        assert (over_http.status_code, over_http.headers["retry-after"]) == (429, "30")
        with client.websocket_connect("/ws/chat") as tab:
            for token in ({}, {"token": first["token"]}):
                tab.send_json({"type": "hello", "protocol": 1} | token)
                refused = receive(tab, "error", "hello")
                assert (refused["code"], refused["retry_after_s"]) == ("too_much", 30.0)
            rig.ticks.now += 30
            assert hello(tab)["conversation_id"] not in ("", first["conversation_id"])
        back = {key: first[key] for key in ("conversation_id", "token")}
        with client.websocket_connect("/ws/chat") as tab:
            assert hello(tab, **back)["conversation_id"] == first["conversation_id"]
        assert rig.store.counts()["conversations"] == 3


def test_one_address_that_starts_too_many_leaves_others_undisturbed(tmp_path: Path) -> None:
    """Buckets are per address; of IPv6 per /64, which is one line's."""

    def started_from(host: str) -> int:
        client = TestClient(rig.app, client=(host, 1))
        return client.post("/v1/conversations", json={}).status_code

    with open_rig(tmp_path, conversations_per_min=1.0) as rig:
        assert [started_from(host) for host in ("192.0.2.1", "192.0.2.1", "192.0.2.2")] == [201, 429, 201]
        hosts = ("2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1")
        assert [started_from(host) for host in hosts] == [201, 429, 201]
        assert [started_from(host) for host in ("::ffff:192.0.2.2", "::ffff:192.0.2.3")] == [429, 201]


def test_one_persons_flood_leaves_others_undisturbed(tmp_path: Path) -> None:
    """Buckets are per person."""
    with (
        open_rig(tmp_path, messages_per_min=1.0) as rig,
        TestClient(rig.app) as client,
        client.websocket_connect("/ws/chat") as flooder,
        client.websocket_connect("/ws/chat") as other,
    ):
        hello(flooder)
        hello(other)
        ask(flooder)
        for n in range(50):
            flooder.send_json({"type": "message", "client_id": f"f{n}", "text": "again"})
            assert receive(flooder, "error")["code"] == "too_much"
        assert ask(other)["text"] == "In five days."


def test_feedback_has_its_own_limit(tmp_path: Path) -> None:
    """Over it nothing is stored."""
    with (
        open_rig(tmp_path, feedback_per_min=1.0) as rig,
        TestClient(rig.app) as client,
        client.websocket_connect("/ws/chat") as tab,
    ):
        first = hello(tab)
        reply = ask(tab)
        assert vote(tab, reply["id"], 1, "k1")["type"] == "ack"
        assert vote(tab, reply["id"], -1, "k2")["code"] == "too_much"
        assert len(rig.store.signals(first["conversation_id"])) == 1


def test_too_many_sockets_are_refused_before_they_open(tmp_path: Path) -> None:
    """With the reason in the handshake's answer."""
    with (
        open_rig(tmp_path, max_sockets=1) as rig,
        TestClient(rig.app) as client,
    ):
        with (
            client.websocket_connect("/ws/chat"),
            pytest.raises(WebSocketDenialResponse) as refused,
            client.websocket_connect("/ws/chat"),
        ):
            pass
        assert refused.value.status_code == 503
        with client.websocket_connect("/ws/chat") as again:
            hello(again)


# --- origins ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "origin", ["null", "https://evil.example", "http://localhost.evil.example", "http://localhost:7861", ""]
)
def test_a_foreign_page_is_refused_before_the_socket_opens(client: TestClient, origin: str) -> None:
    """403 in the handshake; nothing was accepted."""
    with (
        pytest.raises(WebSocketDenialResponse) as refused,
        client.websocket_connect(SOCKET, headers={"Origin": origin}),
    ):
        pass
    assert refused.value.status_code == 403


@pytest.mark.parametrize("origin", ["http://localhost:7860", "https://shop.example", None])
def test_own_pages_named_ones_and_programs_may_open_it(client: TestClient, origin: str | None) -> None:
    """The control: the same handshake from elsewhere is accepted."""
    with client.websocket_connect(SOCKET, headers={"Origin": origin} if origin else {}) as tab:
        hello(tab)


# --- when parts fail --------------------------------------------------------------------------------------------------
class FullDisk(Store):
    """A store whose writes fail while `full`."""

    full = False

    def add_user_message(self, message: Any) -> Any:
        self._check()
        return super().add_user_message(message)

    def add_signal(self, signal: Any) -> Any:
        self._check()
        return super().add_signal(signal)

    def _check(self) -> None:
        if self.full:
            raise StoreError("cannot write: database or disk is full")


def test_a_full_disk_acknowledges_nothing_and_the_chat_goes_on_after_it(tmp_path: Path) -> None:
    """Messages and votes: `unavailable`, never an ack; the same frames work once there is room."""
    store = FullDisk(tmp_path / "rejoinder.db")
    with (
        open_rig(tmp_path, store=store) as rig,
        TestClient(rig.app) as client,
        client.websocket_connect("/ws/chat") as tab,
    ):
        first = hello(tab)
        reply = ask(tab)
        store.full = True
        assert vote(tab, reply["id"])["code"] == "unavailable"
        tab.send_json({"type": "message", "client_id": "a2", "text": "Anybody?"})
        refused = receive(tab, "error", "ack")
        assert (refused["code"], refused["client_id"]) == ("unavailable", "a2")
        assert rig.store.signals(first["conversation_id"]) == []
        store.full = False
        assert vote(tab, reply["id"])["type"] == "ack"
        assert ask(tab, "Anybody?", "a2")["text"] == "In five days."


@pytest.mark.parametrize(
    ("crash", "code"), [(ModelError("the engine is gone"), "unavailable"), (KeyError("bug"), "error")]
)
def test_a_failed_reply_is_told_and_the_next_one_works(
    tab: WebSocketTestSession, rig: Rig, crash: Exception, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The person learns which message it was; a bug's details stay in the log."""
    hello(tab)
    rig.replier.crash = crash
    tab.send_json({"type": "message", "client_id": "a1", "text": "Where is my card?"})
    frame = receive(tab, "error")
    assert (frame["code"], frame["client_id"]) == (code, "a1")
    assert "bug" not in frame["message"]
    rig.replier.crash = None
    assert ask(tab, "And now?", "a2")["text"] == "In five days."


def test_a_new_version_is_told_without_a_reload(tab: WebSocketTestSession, rig: Rig) -> None:
    """And the next reply comes from it."""
    hello(tab)
    rig.policy.champion = "v000001"
    assert receive(tab, "version")["version"] == "v000001"
    assert ask(tab)["version"] == "v000001"
