"""Rooms: every open conversation, its tabs, and the reply being made in it.

A reply belongs to the room, not to a socket, so a dropped connection loses and doubles nothing:

1. a socket enters the room and joins: it gets one snapshot (hello), then everything that happens after it;
2. a user message is stored, then told, then waits its turn: one reply at a time in a room, and so many in all rooms
   (`bot.limits.Turns`: address by address, so that nobody crowds out the others);
3. a reply's deltas are told as they come; the whole message is told once it is on disk;
4. nobody listening for `reconnect_grace_s`: the reply is cancelled; nobody left and nothing running: the room is freed.

Whole messages are told from the store's tail and in its order, so whoever holds `seq` n has been told everything up to
n. Knows nothing of HTTP, sockets or how a reply is made (`Replier`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Protocol

from bot.conversation import Conversation, Delta, Message, public_name
from bot.domain import Domain
from bot.feedback.store import Store
from bot.limits import Turns
from bot.listener import Listener
from bot.metrics import Metrics
from bot.room import Room
from bot.settings import LimitSettings
from bot.tracing import Span, no_span
from bot.wire import (
    ServerFrame,
    ShownName,
    VersionOut,
)

DRAIN_S = 20.0
"""How long running replies may go on after the server was told to stop."""
GOING_AWAY = 1012
"""Close code "service restart": come back."""
GOODBYE_S = 2.0
"""How long cancelled replies may take to be stored, and queued frames to be sent."""


class Replier(Protocol):
    """Makes replies (the session)."""

    def reply(self, conversation: Conversation, message: Message) -> AsyncIterator[Delta | Message]:
        """Deltas, then the stored bot message; nothing at all when the bot should stay silent.

        Cancelling or closing the iterator ends the reply; what was written so far is stored by the replier.
        """

    def greeting(self) -> str:
        """The bot's first words in a conversation."""

    async def handover(self, conversation: Conversation) -> Message:
        """Ask for a person: changes the conversation's status and stores the message that says so."""


class Hub:
    """All rooms of this process. Everything here runs on one event loop."""

    def __init__(
        self,
        *,
        store: Store,
        replier: Replier,
        domain: Domain,
        limits: LimitSettings,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        span: Span = no_span,
        shown_name: ShownName = public_name,
        is_hasty: Callable[[str, str], bool] = lambda _person_id, _address: False,
    ) -> None:
        self.span = span
        self.shown_name = shown_name
        self.is_hasty = is_hasty
        """Whether a person, or their address, is so now."""
        self.store = store
        self.replier = replier
        self.domain = domain
        self.limits = limits
        self.metrics = metrics
        self.clock = clock
        self.draining = False
        self._ends_at = math.inf
        """When running replies are cut: `time.monotonic`, seconds."""
        self.turns = Turns(limits.max_replies, limits.max_waiting, clock)
        self.num_replies: Counter[str] = Counter()
        """Person -> conversations in which a reply is being made."""
        self.num_coming: Counter[str] = Counter()
        """Person -> messages that are being stored."""
        self.rooms: dict[str, Room] = {}

    def enter(self, conversation: Conversation, address: str) -> Room:
        """The conversation's room, held until `leave`. Its replies are made in the turns of this address."""
        room = self.rooms.get(conversation.id)
        if room is None:
            room = self.rooms[conversation.id] = Room(self, conversation, address)
            self.metrics.rooms.set(len(self.rooms))
        room.num_holders += 1
        room.keep()
        return room

    def leave(self, room: Room, listener: Listener) -> None:
        """A socket is gone."""
        room.listeners.discard(listener)
        room.num_holders -= 1
        if room.num_holders == 0:
            if room.is_replying:
                room.expire_later()
            else:
                self.free(room)

    def free(self, room: Room) -> None:
        """Forget an empty room."""
        room.keep()
        if self.rooms.get(room.conversation.id) is room:
            del self.rooms[room.conversation.id]
        self.metrics.rooms.set(len(self.rooms))

    def turn(self, conversation_id: str) -> AbstractAsyncContextManager[None]:
        """Hold off other incoming things of a conversation while one is stored and told."""
        room = self.rooms.get(conversation_id)
        return nullcontext() if room is None else room.entry

    def tell(self, conversation_id: str, frame: ServerFrame) -> None:
        """Tell every tab of a conversation, if any is open."""
        room = self.rooms.get(conversation_id)
        if room is not None:
            room.tell(frame)

    async def change_speaker(self, conversation_id: str, change: Callable[[], None]) -> None:
        """Run `change`, a write that says who speaks, while the bot makes no reply there; then tell every tab.

        A reply that is being made ends first, and what was written of it is kept. What `change` raises is raised.
        """
        room = self.rooms.get(conversation_id)
        if room is None:
            await asyncio.to_thread(change)
        else:
            await room.change_speaker(change)

    async def tell_positions(self) -> None:
        """Tell those who wait for a person where in the queue they are now."""
        rooms = [room for room in self.rooms.values() if room.conversation.status == "waiting"]
        if rooms:
            place = {name: i for i, name in enumerate(await asyncio.to_thread(self.store.desk.waiting), 1)}
            for room in rooms:
                room.tell_position(place.get(room.conversation.id, 0))

    def count_reply_in(self, person_id: str) -> None:
        """A reply begins."""
        self.num_replies[person_id] += 1
        self.metrics.replies_running.inc()

    def count_reply_out(self, person_id: str) -> None:
        """A reply ended."""
        self.num_replies -= Counter([person_id])
        self.metrics.replies_running.dec()

    def tell_version(self, version: str) -> None:
        """New replies come from this version."""
        for room in self.rooms.values():
            room.tell(VersionOut(version=version))

    async def drain(self, deadline_s: float = DRAIN_S) -> None:
        """Refuse new messages, let running replies end (at most `deadline_s`), then close every socket with 1012. Called again,
        it gives no more time."""
        self.draining = True
        self._ends_at = min(self._ends_at, time.monotonic() + deadline_s)
        self.turns.dismiss()  # Their messages are stored: they are answered when their people come back.
        tasks = {room.stop_after_this() for room in self.rooms.values()} - {None}
        await _end([task for task in tasks if task is not None], max(0.0, self._ends_at - time.monotonic()))
        listeners = [listener for room in self.rooms.values() for listener in room.listeners]
        for listener in listeners:
            listener.finish(GOING_AWAY)
        with suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                for listener in listeners:
                    await listener.done.wait()


async def _end(tasks: Sequence[asyncio.Task[None]], deadline_s: float) -> None:
    """Wait for the tasks; cancel those that are late."""
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=deadline_s)
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late, timeout=GOODBYE_S)
