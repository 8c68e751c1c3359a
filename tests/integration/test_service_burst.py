"""Many messages at the same moment: as many wait as may, the others are refused; and a place in line is always given back."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest

from bot.conversation import Message
from bot.errors import ConflictError
from bot.limits import Ticket, Turns
from bot.room import MAX_REPLIES_PER_PERSON, Room
from bot.wire_errors import Busy
from tests.builders import make_conversation
from tests.integration.test_service_crowd import until
from tests.service_rig import Rig, live, open_rig


class Looking(Turns):
    """Turns as they were: who checks looks, and holds nothing."""

    def ticket(self, address: str, *, hasty: bool = False) -> Ticket:
        ticket = super().ticket(address, hasty=hasty)
        ticket.give_back()
        return ticket


def room_of(rig: Rig, number: int, person: str = "") -> Room:
    """A conversation of its own, from an address of its own."""
    conversation = make_conversation(id=f"c{number}", person_id=person or f"p{number}")
    rig.store.add_conversation(conversation)
    room: Room = rig.hub.enter(conversation, f"10.0.{number}")
    return room


def question(room: Room, text: str = "Where is my card?", client_id: str = "a") -> Message:
    chat = room.conversation.id
    return Message(f"{chat}-{client_id}-{text}", chat, 0, "user", text, 1.0, client_id=client_id)


async def at_once(rooms: list[Room]) -> list[Message | BaseException]:
    """One message in each, all in one step of the loop."""
    return await asyncio.gather(*(room.accept(question(room)) for room in rooms), return_exceptions=True)


@pytest.mark.parametrize("is_kept", [True, False])
async def test_of_a_burst_as_many_wait_as_may_and_the_rest_are_told_when(tmp_path: Path, is_kept: bool) -> None:
    """200 at once, two replies made, ten may wait: 188 hear `busy` with an estimate, and nothing of theirs is stored. The
    control: where the check keeps no place for what it let in, they all wait."""
    with open_rig(tmp_path, max_replies=2, max_waiting=10) as rig:
        rig.hub.turns = turns = (Turns if is_kept else Looking)(2, 10, rig.hub.clock)
        rig.policy.hold()
        rooms = [room_of(rig, number) for number in range(200)]
        came = await at_once(rooms)
        await until(lambda: turns.num_running == 2)
        refused = [answer for answer in came if isinstance(answer, Busy)]
        await until(lambda: turns.num_running + turns.num_waiting == 200 - len(refused))

        assert (turns.num_waiting == 10, len(refused) == 188) == (is_kept, is_kept)
        assert all(answer.retry_after_s > 0 for answer in refused)
        assert sum(len(rig.store.messages(room.conversation.id)) for room in rooms) == 200 - len(refused)
        await rig.hub.drain(0)


async def test_as_many_as_there_are_places_come_at_once_and_nobody_is_refused(tmp_path: Path) -> None:
    """64 places and a line of one: who finds a place does not wait, so it takes nothing of the line."""
    with open_rig(tmp_path, max_replies=64, max_waiting=1) as rig:
        rig.policy.hold()
        came = await at_once([room_of(rig, number) for number in range(64)])

        assert all(isinstance(answer, Message) for answer in came)
        await until(lambda: rig.hub.turns.num_running == 64)
        await rig.hub.drain(0)


async def test_what_waits_for_its_own_conversation_takes_nothing_of_the_line(tmp_path: Path) -> None:
    """Two chatty people hold two of four places and have a message more each; a line of two is free for somebody else."""
    with open_rig(tmp_path, max_replies=4, max_waiting=2) as rig:
        rig.policy.hold()
        chatty = [room_of(rig, number) for number in range(2)]
        for room in chatty:
            await room.accept(question(room))
        await until(lambda: rig.hub.turns.num_running == 2)
        for room in chatty:
            await room.accept(question(room, text="And how long does it take?", client_id="b"))

        assert isinstance(await room_of(rig, 9).accept(question(room_of(rig, 9))), Message)
        await until(lambda: rig.hub.turns.num_running == 3)
        await rig.hub.drain(0)


async def test_one_person_in_many_conversations_at_once_has_so_many_replies(tmp_path: Path) -> None:
    """The fifth conversation is refused although none of the four replies has begun when it is looked at."""
    with open_rig(tmp_path) as rig:
        rig.policy.hold()
        came = await at_once([room_of(rig, number, "ann") for number in range(9)])

        assert sum(isinstance(answer, Message) for answer in came) == MAX_REPLIES_PER_PERSON
        await rig.hub.drain(0)


async def test_whatever_becomes_of_a_message_its_place_in_line_is_given_back(tmp_path: Path) -> None:
    """One runs and one may wait: refused by the store, sent twice, cancelled while it is stored, dropped with its room."""
    with open_rig(tmp_path, max_replies=1, max_waiting=2) as rig, ExitStack() as gone:
        turns = rig.hub.turns
        rig.policy.hold()
        rooms = [room_of(rig, number) for number in range(4)]
        gone.callback(rig.policy.step, 100)
        await rooms[0].accept(question(rooms[0]))
        await until(lambda: turns.num_running == 1)

        with pytest.raises(ConflictError):
            await rooms[0].accept(question(rooms[0], text="Another text"))
        await rooms[0].accept(question(rooms[0]))
        storing = asyncio.create_task(rooms[1].accept(question(rooms[1])))
        await asyncio.sleep(0)
        storing.cancel()
        await asyncio.wait({storing})
        await rooms[0].accept(question(rooms[0], client_id="b"))
        rooms[0].stop_after_this()

        for room in rooms[2:]:
            await room.accept(question(room))
        await until(lambda: turns.num_waiting == 2)
        with pytest.raises(Busy):
            turns.check("elsewhere")
        await rig.hub.drain(0)
        assert turns.num_waiting == turns.num_running == 0
        assert turns.wait_s == 0


@pytest.mark.parametrize(("waits_s", "begins"), [(0.0, False), (60.0, True)])
async def test_what_a_hasty_person_left_waiting_gives_way_when_they_come_back(
    tmp_path: Path, waits_s: float, begins: bool
) -> None:
    """Eve asks in haste, leaves and comes back at once: her message waits until Kim's reply has begun, as before. The
    control: when her bucket has filled meanwhile, it is a message like any other."""
    with open_rig(tmp_path, messages_at_once=2.0, reconnect_grace_s=0.0) as rig:
        rig.hub.turns = turns = Turns(64, 512, rig.hub.clock, longest_gap_s=1e6)
        async with live(rig.app) as server, server.tab() as kim:
            async with server.tab() as eve:
                await eve.send(type="message", client_id="1", text="eve 1")
                await eve.next_reply()
                rig.policy.hold()
                await kim.send(type="message", client_id="1", text="kim")
                await until(lambda: turns.num_running == 1)
                await eve.send(type="message", client_id="2", text="eve 2")
                await until(lambda: turns.num_waiting == 1)
            await until(lambda: len(rig.hub.rooms) == 1)
            assert (turns.num_running, turns.num_waiting) == (1, 0)
            rig.ticks.now += waits_s
            async with server.tab(**eve.credentials):
                await until(lambda: turns.num_running + turns.num_waiting == 2)
                assert (turns.num_running == 2) is begins
                rig.policy.step(100)
                await kim.next_reply()
