"""What a person may do beside talking: another answer, rating the chat, taking it along, having it forgotten."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from bot.conversation import Message, SignalKind
from bot.feedback.store import Store
from bot.room import Room
from tests.builders import make_conversation, make_message
from tests.service_rig import Live, Rig, Tab, live, open_rig

SHOP = "https://shop.example"
"""Named in `allowed_origins` of the rig."""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with open_rig(tmp_path) as rig:
        yield rig


@pytest.fixture
async def server(rig: Rig) -> AsyncIterator[Live]:
    async with live(rig.app) as server:
        yield server


@pytest.fixture
def client(rig: Rig) -> Iterator[TestClient]:
    with TestClient(rig.app, base_url="http://localhost:7860") as client:
        yield client


async def ask(tab: Tab, client_id: str = "a1") -> dict[str, Any]:
    await tab.send(type="message", client_id=client_id, text="Where is my card?")
    return await tab.next_reply()


def kinds(rig: Rig, tab: Tab) -> list[tuple[str, float, bool]]:
    """(kind, value, about a reply) of the conversation's signals."""
    found = rig.store.signals(tab.hello["conversation_id"])
    return [(signal.kind.value, signal.value, bool(signal.decision_id)) for signal in found]


async def test_a_retry_is_a_signal_about_the_reply_and_brings_another_reply(server: Live, rig: Rig) -> None:
    """Two decisions, one question; the same key again, as after a reconnect, is acknowledged and brings nothing more."""
    async with server.tab() as tab:
        first = await ask(tab)
        assert first["can_retry"]
        await tab.send(type="retry", key="r1", message_id=first["id"])
        ack = await tab.next("ack")
        second = await tab.next_reply()
        await tab.send(type="retry", key="r1", message_id=first["id"])
        assert (await tab.next("ack", "message"))["seq"] == ack["seq"]
        assert kinds(rig, tab) == [("retry", 1.0, True)]
        stored = rig.store.messages(tab.hello["conversation_id"])
        assert [line.role for line in stored] == ["bot", "user", "bot", "bot"]
        assert stored[-1].id == second["id"]
        assert stored[-1].decision_id != stored[-2].decision_id


async def test_another_answer_comes_while_one_waits_for_a_person_and_opens_what_was_closed(
    server: Live, rig: Rig
) -> None:
    """As a message would. While a person speaks it is only stored: the control."""
    async with server.tab() as tab:
        reply, name = await ask(tab), tab.hello["conversation_id"]
        for status, after in (("waiting", "waiting"), ("resolved", "bot")):
            rig.store.update_conversation(name, status=status)
            await tab.send(type="retry", key=status, message_id=reply["id"])
            reply = await tab.next_reply()
            assert rig.store.conversation(name).status == after
        rig.store.update_conversation(name, status="person")
        await tab.send(type="retry", key="person", message_id=reply["id"])
        await acknowledged(tab, "person")
        await end_of_reply(rig.hub.rooms[name])
        assert rig.replier.num_replies == 3


async def acknowledged(tab: Tab, key: str) -> None:
    while (await tab.next("ack"))["key"] != key:
        pass


async def end_of_reply(room: Room) -> None:
    """Of the one that is being made, if any."""
    task = room.stop_after_this()
    if task is not None:
        await asyncio.wait({task})


class LateStore(Store):
    """The next whole transcript that is read comes late: what happens meanwhile is not in it."""

    is_late = False

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.was_read, self.may_come = threading.Event(), threading.Event()

    def messages(self, conversation_id: str, after_seq: int = 0) -> list[Message]:
        found = super().messages(conversation_id, after_seq)
        if self.is_late and not after_seq:
            self.is_late = False
            self.was_read.set()
            assert self.may_come.wait(20)
        return found


async def test_another_answer_asked_for_in_two_tabs_at_once_is_one(tmp_path: Path) -> None:
    """The second tab's wish is weighed just when the first one's reply ends: it is stored, and brings nothing more."""
    store = LateStore(tmp_path / "late.db")
    with open_rig(tmp_path, store=store) as rig:
        async with live(rig.app) as server, server.tab() as one:
            reply, room = await ask(one), rig.hub.rooms[one.hello["conversation_id"]]
            async with server.tab(**one.credentials) as two:
                rig.policy.hold()
                await one.send(type="retry", key="r1", message_id=reply["id"])
                await acknowledged(one, "r1")
                store.is_late = True
                await two.send(type="retry", key="r2", message_id=reply["id"])
                assert await asyncio.to_thread(store.was_read.wait, 20)
                rig.policy.step(99)
                await end_of_reply(room)
                store.may_come.set()
                await acknowledged(two, "r2")
                await end_of_reply(room)
                assert rig.replier.num_replies == 2
                assert kinds(rig, one) == [("retry", 1.0, True)] * 2


async def test_what_cannot_be_retried_is_refused_in_one_line(server: Live, rig: Rig) -> None:
    """The greeting, an action that was run, a reply while a form asks; somebody else's reply."""
    async with server.tab() as tab, server.tab() as stranger:
        reply, conversation_id = await ask(tab), tab.hello["conversation_id"]
        greeting = tab.hello["messages"][0]["id"]
        await tab.send(type="retry", key="r1", message_id=greeting)
        assert (await tab.next("error", "ack"))["code"] == "bad_frame"
        await stranger.send(type="retry", key="r1", message_id=reply["id"])
        assert (await stranger.next("error", "ack"))["code"] == "bad_frame"
        note = make_message(id="form", conversation_id=conversation_id, role="system", text="-")
        rig.store.add_reply(note, None, tracker={"active_form": "freeze_form"})
        await tab.send(type="retry", key="r2", message_id=reply["id"])
        assert (await tab.next("error", "ack"))["message"] == "message_id: expected no form in progress, got one"
        assert kinds(rig, tab) == []


async def test_a_rating_of_the_chat_is_a_signal_and_comes_back_with_hello(server: Live, rig: Rig) -> None:
    """Changed, the newest counts; whether it was solved comes back too."""
    async with server.tab() as tab:
        assert (tab.hello["csat"], tab.hello["solved"]) == (None, None)
        for key, value in (("c1", 2), ("c2", 5)):
            await tab.send(type="csat", key=key, value=value)
            await tab.next("ack")
        await tab.send(type="outcome", key="o1", solved=False)
        await tab.next("ack")
        assert kinds(rig, tab) == [("csat", 2.0, False), ("csat", 5.0, False), ("outcome", 0.0, False)]
        async with server.tab(**tab.credentials) as again:
            assert (again.hello["csat"], again.hello["solved"]) == (5, False)


async def test_those_who_wait_are_told_their_place_and_move_up(server: Live, rig: Rig) -> None:
    """Third in a queue of three; then the first is taken over by a person."""
    for number, asked_at in (("early", 10.0), ("late", 20.0)):
        rig.store.add_conversation(make_conversation(id=number, created_at=asked_at, status="waiting"))
    async with server.tab() as tab:
        await tab.send(type="handover", key="h1")
        while (status := await tab.next("status")).get("position") is None:
            pass
        assert (status["status"], status["position"]) == ("waiting", 3)
        async with server.tab(**tab.credentials) as other:
            assert other.hello["position"] == 3
        rig.store.update_conversation("early", status="person")
        assert (await tab.next("status"))["position"] == 2


def talk(client: TestClient) -> tuple[str, dict[str, str], str]:
    """A conversation with one rated reply: (its id, its person's header, the reply's id)."""
    with client.websocket_connect("/ws/chat") as tab:
        tab.send_json({"type": "hello", "protocol": 1})
        hello = next(frame for frame in iter(tab.receive_json, None) if frame["type"] == "hello")
        tab.send_json({"type": "message", "client_id": "a", "text": "my marmalade card"})
        while (frame := tab.receive_json())["type"] != "message" or frame["message"]["role"] != "bot":
            pass
        tab.send_json({"type": "feedback", "key": "k", "message_id": frame["message"]["id"], "thumb": 1})
        while tab.receive_json()["type"] != "ack":
            pass
    return hello["conversation_id"], {"Authorization": f"Bearer {hello['token']}"}, frame["message"]["id"]


def test_a_download_holds_what_was_said_and_the_persons_own_votes(client: TestClient) -> None:
    """As an attachment with a name; nothing of decisions and rewards."""
    conversation_id, headers, reply_id = talk(client)
    answer = client.get(f"/v1/conversations/{conversation_id}/download", headers=headers)
    assert answer.headers["content-disposition"] == f'attachment; filename="conversation-{conversation_id}.json"'
    got = answer.json()
    assert [line["text"] for line in got["messages"]] == [
        "Hello, how can I help?",
        "my marmalade card",
        "In five days.",
    ]
    assert got["votes"] == {reply_id: {"thumb": 1, "reasons": [], "comment": ""}}
    assert set(got) == {"conversation", "messages", "votes", "solved", "csat", "downloaded_at"}


def test_an_erased_conversation_is_gone_and_its_person_may_start_another(client: TestClient, rig: Rig) -> None:
    """A second time it is not found; a hello with its id is refused; the same token opens a new one."""
    conversation_id, headers, _ = talk(client)
    answer = client.delete(f"/v1/conversations/{conversation_id}", headers=headers)
    assert answer.json() == {"conversation_id": conversation_id, "messages": 3, "decisions": 1, "versions": []}
    assert client.delete(f"/v1/conversations/{conversation_id}", headers=headers).status_code == 404
    assert rig.store.messages(conversation_id) == []
    token = headers["Authorization"].split()[1]
    with client.websocket_connect("/ws/chat") as tab:
        tab.send_json({"type": "hello", "protocol": 1, "token": token, "conversation_id": conversation_id})
        while (frame := tab.receive_json())["type"] != "error":
            pass
        assert frame["code"] == "not_found"
        tab.send_json({"type": "hello", "protocol": 1, "token": token})
        while (frame := tab.receive_json())["type"] != "hello":
            pass
        assert frame["conversation_id"] != conversation_id


def test_no_signal_reaches_a_conversation_that_is_gone(client: TestClient, rig: Rig) -> None:
    """A vote that was on its way is refused and leaves no row."""
    conversation_id, headers, reply_id = talk(client)
    client.delete(f"/v1/conversations/{conversation_id}", headers=headers)
    vote = client.post("/v1/feedback", headers=headers, json={"key": "late", "message_id": reply_id, "thumb": 1})
    assert vote.status_code == 404
    assert [s for s in rig.store.signals(conversation_id) if s.kind is SignalKind.THUMB] == []


@pytest.mark.parametrize(("origin", "allowed"), [(SHOP, SHOP), ("https://evil.example", None)])
def test_other_pages_may_read_answers_only_if_they_are_named(
    client: TestClient, origin: str, allowed: str | None
) -> None:
    """The widget opens sources from the page it is on; the browser keeps answers from pages nobody named."""
    answer = client.get("/v1/articles/card_arrival", headers={"Origin": origin})
    assert answer.status_code == 200
    assert answer.headers.get("access-control-allow-origin") == allowed


async def test_a_reply_under_way_when_its_conversation_is_erased_disturbs_nobody(
    server: Live, rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """It ends, and no fault is logged; another chat on the same server goes on."""
    rig.policy.hold()
    async with server.tab() as tab, server.tab() as other:
        await tab.send(type="message", client_id="a1", text="Where is my card?")
        rig.policy.step()
        await tab.next("delta")
        conversation_id = tab.hello["conversation_id"]
        room = rig.hub.rooms[conversation_id]
        room.stop()
        await asyncio.to_thread(rig.store.erase_conversation, conversation_id, author="person", at=1.0)
        rig.policy.step(99)
        await end_of_reply(room)
        assert (await ask(other))["text"] == "In five days."
    assert [record.message for record in caplog.records if record.exc_info] == []
