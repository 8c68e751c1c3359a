"""Taking over live: one voice at a time, the customer is told, the context is kept, the queue moves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from bot.errors import TurnTaken
from bot.feedback import store_desk, store_writes
from bot.feedback.desk import Doing
from bot.feedback.store import Store
from tests.builders import make_conversation, make_decision, make_message
from tests.service_rig import OPERATOR_KEY, Live, Rig, live, open_rig

TOKENS = ("In", " five", " working", " days.")
ANA = Doing("operator:ana", 2000.0)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with open_rig(tmp_path, tokens=TOKENS) as rig:
        yield rig


class Operator:
    """The key's holder, over HTTP."""

    def __init__(self, client: httpx.AsyncClient, conversation_id: str) -> None:
        self._client = client
        self._path = f"/v1/conversations/{conversation_id}"

    async def do(self, what: str, **body: Any) -> Any:
        answer = await self._client.post(f"{self._path}/{what}", json=body)
        return answer.status_code, answer.json()


def operator_on(server: Live, conversation_id: str) -> tuple[httpx.AsyncClient, Operator]:
    headers = {"Authorization": f"Bearer {OPERATOR_KEY}"}
    client = httpx.AsyncClient(base_url=server.http, headers=headers, trust_env=False)
    return client, Operator(client, conversation_id)


async def test_the_customer_is_told_who_speaks_and_the_bot_is_silent_until_it_is_handed_back(rig: Rig) -> None:
    """Status frames, an event in the transcript, the operator's name on the message; then the bot answers again."""
    async with live(rig.app) as server, server.tab() as tab:
        client, operator = operator_on(server, tab.hello["conversation_id"])
        async with client:
            assert (await operator.do("takeover"))[0] == 200
            event = (await tab.next("message"))["message"]
            assert (event["role"], "now talking with a person" in event["text"]) == ("system", True)
            assert await tab.next("status") == {"type": "status", "status": "person", "operator": "local"}
            await tab.send(type="message", client_id="a1", text="Is somebody there?")
            await tab.next("ack")
            status, said = await operator.do("say", key="k1", text="Yes, I am.")
            assert (status, said["message"]["author"]) == (200, "local")
            assert (await operator.do("say", key="k1", text="Yes, I am."))[1] == said
            shown = (await tab.next("message"))["message"]
            while shown["role"] != "operator":
                shown = (await tab.next("message"))["message"]
            assert (shown["text"], shown["author"]) == ("Yes, I am.", "local")
            assert rig.replier.num_replies == 0
            assert (await operator.do("handback"))[0] == 200
            assert (await tab.next("status"))["status"] == "bot"
            await tab.send(type="message", client_id="a2", text="And now?")
            assert (await tab.next_reply())["text"] == "".join(TOKENS)
            refused, error = await operator.do("say", key="k2", text="Me again")
            assert (refused, "taken over" in error["error"]["message"]) == (409, True)
    roles = [line.role for line in rig.store.messages(tab.hello["conversation_id"])]
    assert roles == ["bot", "system", "user", "operator", "system", "user", "bot"]


async def test_a_reply_that_is_being_written_ends_before_the_person_speaks(rig: Rig) -> None:
    """What was written is kept, as stopped; nothing of the bot's comes after the event."""
    rig.policy.hold()
    async with live(rig.app) as server, server.tab() as tab:
        await tab.send(type="message", client_id="a1", text="Where is my card?")
        rig.policy.step(2)
        await tab.next("delta")
        await tab.next("delta")
        client, operator = operator_on(server, tab.hello["conversation_id"])
        async with client:
            assert (await operator.do("takeover"))[0] == 200
        rig.policy.step(10)
    lines = rig.store.messages(tab.hello["conversation_id"])
    assert [(line.role, line.stop_reason) for line in lines[1:]] == [("user", ""), ("bot", "cancelled"), ("system", "")]
    assert lines[2].text == "In five"


async def test_another_operator_cannot_speak_over_the_first(rig: Rig) -> None:
    """Not without saying that they insist."""
    async with live(rig.app) as server, server.tab() as tab:
        client, operator = operator_on(server, tab.hello["conversation_id"])
        rig.store.desk.take_over(ANA, tab.hello["conversation_id"])
        async with client:
            assert (await operator.do("say", key="k1", text="Hello"))[0] == 409
            assert (await operator.do("takeover"))[0] == 409
            assert (await operator.do("handback"))[0] == 409
            assert (await operator.do("takeover", force=True))[0] == 200
            assert (await operator.do("say", key="k1", text="Hello"))[0] == 200


async def test_what_was_asked_before_the_hand_back_is_answered_after_it(rig: Rig) -> None:
    """By the bot, once, though the last line is that the person left; what a person closed stays closed."""
    async with live(rig.app) as server, server.tab() as tab, server.tab() as closed:
        for open_tab, ending in ((tab, "handback"), (closed, "resolve")):
            client, operator = operator_on(server, open_tab.hello["conversation_id"])
            async with client:
                await operator.do("takeover")
                await open_tab.send(type="message", client_id="a1", text="Where is my card?")
                await open_tab.next("ack")
                assert (await operator.do(ending))[0] == 200
        assert (await tab.next_reply())["text"] == "".join(TOKENS)
        async with server.tab(**closed.credentials) as again:
            assert again.hello["status"] == "resolved"
    assert rig.replier.num_replies == 1
    roles = [line.role for line in rig.store.messages(tab.hello["conversation_id"])]
    assert roles == ["bot", "system", "user", "system", "bot"]


async def test_a_claim_is_no_way_to_speak(rig: Rig) -> None:
    """While somebody else speaks, even by force: only a take-over changes who does, and tells the customer."""
    async with live(rig.app) as server, server.tab() as tab:
        where = tab.hello["conversation_id"]
        client, _ = operator_on(server, where)
        rig.store.desk.take_over(ANA, where)
        async with client:
            answer = await client.patch(f"/v1/conversations/{where}", json={"claimed": True, "force": True})
            assert (answer.status_code, "take it over" in answer.text) == (403, True)
            assert rig.store.desk.standing(where).operator == "ana"
            rig.store.desk.end_turn(ANA, where, "bot")
            rig.store.desk.claim(ANA, where)
            answer = await client.patch(f"/v1/conversations/{where}", json={"claimed": True, "force": True})
            assert answer.json()["assignee"] == "local"


async def test_positions_move_when_somebody_is_served(rig: Rig) -> None:
    """Two wait; the second hears that it is next, also in a hello."""
    async with live(rig.app) as server, server.tab() as first, server.tab() as second:
        for tab in (first, second):
            rig.clock.now += 1
            await tab.send(type="handover", key="h1")
            await tab.next("ack")
        async with server.tab(**second.credentials) as again:
            assert (again.hello["status"], again.hello["position"]) == ("waiting", 2)
            rig.store.desk.take_over(ANA, first.hello["conversation_id"])
            await rig.hub.tell_positions()
            moved = await again.next("status")
            assert (moved["status"], moved["position"]) == ("waiting", 1)


# --- the lock ---------------------------------------------------------------------------------------------------------
def bots(name: str) -> Any:
    """A reply of the bot's with its decision."""
    decision = make_decision(id=f"d{name}")
    return make_message(id=name, role="bot", text="In 5 days.", decision_id=decision.id), decision


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "rejoinder.db") as store:
        store.add_conversation(make_conversation())
        yield store


async def race(store: Store) -> list[str]:
    """Twenty replies of the bot's and a take-over at once, then the operator's word; the roles in the order stored."""

    async def bot(i: int) -> None:
        with contextlib.suppress(TurnTaken):
            await asyncio.to_thread(store.add_reply, *bots(f"b{i}"))

    async def person() -> None:
        await asyncio.to_thread(store.desk.take_over, ANA, "c1")
        said = make_message(id="o", role="operator", text="Hello", author="operator:ana")
        await asyncio.to_thread(store.add_reply, said, None)

    await asyncio.gather(*(bot(i) for i in range(10)), person(), *(bot(i) for i in range(10, 20)))
    await bot(99)
    return [line.role for line in store.messages("c1")]


async def test_in_a_race_the_bot_never_speaks_after_the_person_took_over(store: Store) -> None:
    """Whoever comes first: before the take-over replies are stored, after it none, and the operator's is the last word."""
    roles = await race(store)
    assert roles[-1] == "operator"
    assert roles.count("operator") == 1


async def test_without_the_lock_the_bot_would_speak_over_the_person(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the same race with the check switched off."""
    monkeypatch.setattr(store_writes, "check_turn", lambda conn, message: None)
    assert (await race(store))[-1] == "bot"


def test_a_retry_of_what_is_stored_is_no_second_word(store: Store) -> None:
    """A reply stored before the take-over may be sent again after it: it is the same row."""
    message, decision = bots("b")
    stored = store.add_reply(message, decision)
    store.desk.take_over(ANA, "c1")
    assert store.add_reply(message, decision) == stored
    with pytest.raises(TurnTaken):
        store.add_reply(replace(message, id="b2"), None)


def test_an_operators_word_needs_the_take_over_and_their_own_name(store: Store) -> None:
    """Neither before it, nor under somebody else's, nor after it was handed back."""
    said = make_message(id="o", role="operator", text="Hello", author="operator:ana")
    with pytest.raises(TurnTaken):
        store.add_reply(said, None)
    store.desk.take_over(ANA, "c1")
    for author in ("operator:ben", "ana", ""):
        with pytest.raises(TurnTaken):
            store.add_reply(replace(said, author=author), None)
    store.add_reply(said, None)
    store.desk.end_turn(ANA, "c1", "bot")
    with pytest.raises(TurnTaken):
        store.add_reply(replace(said, id="o2"), None)
    assert store_desk.check_turn is store_writes.check_turn
