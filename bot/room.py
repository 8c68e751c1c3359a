"""A room: one conversation, its tabs, the messages that wait in it, and the reply being made.

Everything that happens in it is told in one order: whole messages from the store's tail, deltas as they come. Who takes a
room, lets go of it and has a turn is decided by the hub.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bot.conversation import Conversation, Delta, Message, Signal, Standing
from bot.errors import NotFound, RejoinderError, TurnTaken
from bot.limits import Ticket
from bot.listener import Listener
from bot.wire import (
    DeltaOut,
    ErrorOut,
    MessageFrame,
    MessageOut,
    PartialOut,
    ServerFrame,
    SettingsOut,
    StatusOut,
    encode,
)
from bot.wire_errors import Unavailable

if TYPE_CHECKING:
    from bot.hub import Hub

logger = logging.getLogger(__name__)

MAX_WAITING = 4
"""Messages of one conversation that may wait for their turn."""
MAX_REPLIES_PER_PERSON = 4
"""Conversations of one person in which a reply may be made at the same time."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a tab must know when it joins: everything up to one instant."""

    conversation: Conversation
    messages: Sequence[Message]
    signals: Sequence[Signal]
    partial: PartialOut | None
    standing: Standing


class Room:
    """One conversation: its tabs, its waiting messages, its running reply."""

    def __init__(self, hub: Hub, conversation: Conversation, address: str) -> None:
        self._hub = hub
        self._address = address
        self.conversation = conversation
        self.listeners: set[Listener] = set()
        self.num_holders = 0
        self._partial: PartialOut | None = None
        self._waiting: deque[tuple[Message, Ticket]] = deque()
        self._current: Message | None = None
        self._task: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._told_seq = 0
        self._standing = Standing()
        self._is_hushed = False
        # Reading the store's tail and telling it is one step: messages are told once and in order.
        self._tail = asyncio.Lock()
        # One incoming thing at a time, so that what is checked still holds when it is stored.
        self.entry = asyncio.Lock()

    @property
    def is_replying(self) -> bool:
        """Whether a reply is being made."""
        return self._task is not None

    # --- telling ------------------------------------------------------------------------------------------------------
    async def join(self, listener: Listener, hello: Callable[[Snapshot], ServerFrame]) -> None:
        """Give a new tab the snapshot, then everything after it. A message left without a reply gets one now."""
        async with self._tail:
            store, conversation_id = self._hub.store, self.conversation.id
            messages, signals, conversation, standing = await asyncio.to_thread(
                lambda: (
                    store.messages(conversation_id),
                    store.signals(conversation_id),
                    store.conversation(conversation_id),
                    store.desk.standing(conversation_id),
                )
            )
            self._tell_tail(messages)
            self._set(conversation, standing)
            listener.send(hello(Snapshot(self.conversation, messages, signals, self._partial, standing)))
            self.listeners.add(listener)
        self._answer_what_waits(messages)

    def _answer_what_waits(self, messages: Sequence[Message]) -> None:
        """Unless a person speaks or has closed the conversation. Who was hasty when they asked may not be so any more."""
        if self.conversation.status not in ("person", "resolved"):
            hasty = self._hub.is_hasty(self.conversation.person_id, self._address)
            for message in _unanswered(messages):
                self._enqueue(message, self._hub.turns.ticket(self._address, hasty=hasty))

    def tell(self, frame: ServerFrame) -> None:
        """Tell every tab."""
        text = encode(frame)
        for listener in self.listeners:
            listener.send_text(text)

    async def publish(self) -> None:
        """Tell every tab the messages that the store holds and they were not told yet, in order."""
        async with self._tail:
            self._tell_tail(await asyncio.to_thread(self._hub.store.messages, self.conversation.id, self._told_seq))

    def _tell_tail(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if message.seq > self._told_seq:
                self._told_seq = message.seq
                self.tell(MessageFrame(message=MessageOut.of(message, self._hub.domain, self._hub.shown_name)))
            if self._partial is not None and message.id == self._partial.message_id:
                self._partial = None

    async def refresh(self) -> None:
        """Read the conversation again and tell a change of who is speaking."""
        store, conversation_id = self._hub.store, self.conversation.id
        self._set(
            *await asyncio.to_thread(
                lambda: (store.conversation(conversation_id), store.desk.standing(conversation_id))
            )
        )

    def _set(self, conversation: Conversation, standing: Standing) -> None:
        before = (self.conversation.status, self._standing)
        self.conversation, self._standing = conversation, standing
        if (conversation.status, standing) != before:
            self.tell(StatusOut.of(conversation.status, standing, self._hub.shown_name))

    def tell_position(self, position: int) -> None:
        """The queue may have moved."""
        if position and position != self._standing.position:
            self._set(self.conversation, Standing(position=position))

    # --- who speaks ---------------------------------------------------------------------------------------------------
    async def change_speaker(self, change: Callable[[], None]) -> None:
        """See `Hub.change_speaker`. The store refuses what slips through (`store_desk.check_turn`)."""
        async with self.entry:
            self._is_hushed = True
            try:
                if self._task is not None:
                    self.stop()
                    await asyncio.wait({self._task})
                await asyncio.to_thread(change)
            finally:
                self._is_hushed = False
            await self.publish()
            await self.refresh()
            messages = await asyncio.to_thread(self._hub.store.messages, self.conversation.id)
        if self.conversation.status == "person":
            self._forget_waiting()
        self._answer_what_waits(messages)
        self._start_next()

    # --- messages in --------------------------------------------------------------------------------------------------
    async def accept(self, message: Message, *, hasty: bool = False) -> Message:
        """Store a user message, tell it, and let it wait its turn, behind others' where its person is hasty
        (`bot.limits`). A resent one is given back as stored.

        Raises Busy, Unavailable (draining), StoreError, ConflictError.
        """
        async with self.entry:
            with self._capacity(hasty=hasty) as ticket:
                stored, is_new = await asyncio.to_thread(self._hub.store.add_user_message, message)
                await self.publish()
                if is_new:
                    self._hub.metrics.messages.inc()
                if is_new or await self._lacks_reply(stored):
                    self._enqueue(stored, ticket)
                else:
                    ticket.give_back()
            return stored

    @contextmanager
    def _capacity(self, *, hasty: bool) -> Iterator[Ticket]:
        """Check that one more may wait, before anything is stored. The block hands the ticket on, or gives it back; what
        is raised in it gives it back."""
        turns, coming, person_id = self._hub.turns, self._hub.num_coming, self.conversation.person_id
        if self._hub.draining:
            raise Unavailable("the server is restarting: send it again in a few seconds")
        if len(self._waiting) >= MAX_WAITING:
            raise turns.busy(MAX_WAITING, "messages waiting for a reply")
        if not self.is_replying and self._hub.num_replies[person_id] + coming[person_id] >= MAX_REPLIES_PER_PERSON:
            raise turns.busy(MAX_REPLIES_PER_PERSON, "replies at once")
        ticket, coming[person_id] = turns.check(self._address, hasty=hasty), coming[person_id] + 1
        try:
            yield ticket
        except BaseException:
            ticket.give_back()
            raise
        finally:
            self._hub.num_coming -= Counter([person_id])

    async def _lacks_reply(self, stored: Message) -> bool:
        later = await asyncio.to_thread(self._hub.store.messages, self.conversation.id, stored.seq)
        return all(message.role in ("user", "system") for message in later)

    def _enqueue(self, message: Message, ticket: Ticket) -> None:
        known = [waiting.id for waiting, _ in self._waiting] + [self._current.id if self._current else ""]
        if message.id in known:
            ticket.give_back()
        else:
            if self._task is not None:
                ticket.give_back()  # It waits for its own conversation, not for a place.
            self._waiting.append((message, ticket))
            self._start_next()

    def _forget_waiting(self) -> None:
        """They are stored, and answered when their person comes back."""
        while self._waiting:
            self._waiting.popleft()[1].give_back()

    async def handover(self, signal: Signal) -> Signal:
        """Store the wish for a person and hand over, unless a person is called already."""
        async with self.entry:
            stored = await asyncio.to_thread(self._hub.store.add_signal, signal)
            await self.refresh()
            if self.conversation.status not in ("waiting", "person"):
                await self._hub.replier.handover(self.conversation)
                await self.publish()
                await self.refresh()
            return stored

    async def retry(self, signal: Signal, reply: Message, *, hasty: bool = False) -> Signal:
        """Store the wish for another answer; while `reply` is the newest, its question waits for one, and what was
        closed is open.

        Sent twice, after something else was said, or while a person speaks, it is only stored. Raises Busy, Unavailable,
        StoreError.
        """
        async with self.entry:
            with self._capacity(hasty=hasty) as ticket:
                stored, messages = await asyncio.to_thread(
                    lambda: (self._hub.store.add_signal(signal), self._hub.store.messages(self.conversation.id))
                )
                await self.refresh()
                if self._is_newest(reply, messages) and self.conversation.status != "person":
                    if self.conversation.status == "resolved":
                        await self._reopen()
                    self._enqueue(next(message for message in reversed(messages) if message.role == "user"), ticket)
                else:
                    ticket.give_back()
            return stored

    def _is_newest(self, reply: Message, messages: Sequence[Message]) -> bool:
        """Whether nothing but events came after it; `messages` may be out of date: a reply may have ended since."""
        said = [message for message in messages if message.role != "system"]
        return said[-1].id == reply.id and messages[-1].seq >= self._told_seq

    async def _reopen(self) -> None:
        await asyncio.to_thread(self._hub.store.update_conversation, self.conversation.id, status="bot")
        await self.refresh()

    async def change(self, reply: str | None, learn: bool | None) -> None:
        """Store settings of the conversation and tell every tab."""
        async with self.entry:
            store = self._hub.store
            changed = await asyncio.to_thread(
                store.update_conversation, self.conversation.id, reply_mode=reply, learn_ok=learn
            )
            self._set(changed, self._standing)
            self.tell(SettingsOut.of(self.conversation))

    # --- the reply ----------------------------------------------------------------------------------------------------
    def _start_next(self) -> None:
        if self._task is None and self._waiting and not self._hub.draining and not self._is_hushed:
            self._current, ticket = self._waiting.popleft()
            if ticket.is_given_back:
                ticket = self._hub.turns.ticket(self._address, hasty=ticket.hasty)
            self._hub.count_reply_in(self.conversation.person_id)
            self._task = asyncio.create_task(self._reply_to(self._current, ticket))
            self._task.add_done_callback(lambda _: ticket.give_back())

    async def _reply_to(self, message: Message, ticket: Ticket) -> None:
        end, asked = "cancelled", self._hub.clock()
        try:
            async with self._hub.turns.turn(self._address, self.conversation.person_id, ticket=ticket) as begun:
                self._hub.metrics.queue_s.observe(self._hub.clock() - asked)
                await self.refresh()
                if self.conversation.status != "person":
                    with self._hub.span("reply", queue_s=self._hub.clock() - asked):
                        await self._stream(message, begun)
            end = "done"
        except TurnTaken:
            # A person took over while the reply was made; theirs is the word now, and nobody needs to hear of it.
            end = "cancelled"
        except RejoinderError as error:
            end = "failed"
            self._tell_error(error, message)
        except Exception:
            # The boundary of one reply: its crash must reach neither the room nor other conversations.
            logger.exception("reply to %s failed", message.id)
            end = "failed"
            self._tell_error(RejoinderError("the reply failed; please send your message again"), message)
        finally:
            self._hub.metrics.replies.labels(end).inc()
            await self._end_reply()

    async def _stream(self, message: Message, begun: Callable[[], None]) -> None:
        metrics, clock = self._hub.metrics, self._hub.clock
        started, first_s, told = clock(), 0.0, 0.0
        stream = self._hub.replier.reply(self.conversation, message)
        try:
            async for item in stream:
                if not told:
                    begun()
                    first_s = clock() - started
                    metrics.first_text_s.observe(first_s)
                elif isinstance(item, Delta):
                    metrics.piece_s.observe(clock() - told)
                told = clock()
                if isinstance(item, Delta):
                    self._tell_delta(item)
                else:
                    metrics.version_replies.labels(item.version or "none").inc()
                    if item.stop_reason:  # It was generated, and shown as such.
                        metrics.first_token_s.observe(first_s)
                    await self.publish()
        finally:
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()
        metrics.reply_s.observe(clock() - started)

    def _tell_delta(self, delta: Delta) -> None:
        written = self._partial.text if self._partial and self._partial.message_id == delta.message_id else ""
        self._partial = PartialOut(message_id=delta.message_id, text=written + delta.text, version=delta.version)
        self.tell(DeltaOut(message_id=delta.message_id, index=delta.index, text=delta.text, version=delta.version))

    def _tell_error(self, error: RejoinderError, message: Message) -> None:
        frame = ErrorOut.of(error, client_id=message.client_id)
        self._hub.metrics.errors.labels(frame.code).inc()
        self.tell(frame)

    async def _end_reply(self) -> None:
        try:
            # A cancelled reply stored what it had written: that is told here.
            await self.publish()
            await self.refresh()
        except NotFound:
            logger.info("the conversation was erased while a reply was made in it")
        except RejoinderError:
            logger.exception("could not read the end of the reply in %s", self.conversation.id)
        finally:
            self._partial = self._current = self._task = None
            self._hub.count_reply_out(self.conversation.person_id)
            self._start_next()
            if self.num_holders == 0 and self._task is None:
                self._hub.free(self)

    def stop(self) -> None:
        """Cancel the reply being made. Once: a second cancel would cut short the telling of what was written."""
        if self._task is not None and not self._task.cancelling():
            self._task.cancel()

    def stop_after_this(self) -> asyncio.Task[None] | None:
        """Forget waiting messages; the running reply."""
        self._forget_waiting()
        return self._task

    # --- nobody listening ---------------------------------------------------------------------------------------------
    def expire_later(self) -> None:
        """Cancel the reply unless somebody comes back in time."""
        self.keep()
        loop = asyncio.get_running_loop()
        self._expiry = loop.call_later(self._hub.limits.reconnect_grace_s, self._expire)

    def keep(self) -> None:
        """Somebody is here: do not expire."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def _expire(self) -> None:
        self._expiry = None
        self._forget_waiting()
        self.stop()


def _unanswered(messages: Sequence[Message]) -> list[Message]:
    """User messages after the last reply; that somebody came or went is none."""
    said = [message for message in messages if message.role != "system"]
    last_reply = max((i for i, message in enumerate(said) if message.role != "user"), default=-1)
    return said[last_reply + 1 :]
