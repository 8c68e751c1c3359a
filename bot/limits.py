"""What one person, or one address, may take of the server. From the event loop only.

- `TokenBuckets`: how often. Fails closed: when it cannot keep count, it refuses.
- `Places`: how many at the same time.
- `Turns`: replies in the making are so many at most; who must wait is served in turn, address by address, and those of
  the hasty are begun in the gaps. How many may wait is kept by tickets: one is taken when it is checked, before the
  message is even stored, so that of those who come at the same moment no more get in than may wait.

Who has used up half of a bucket is *hasty*: nobody is refused for it, and what they ask gives way to what others ask.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bot.errors import TooMuch
from bot.wire_errors import Busy


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class TokenBuckets:
    """One bucket per key: `per_min` tokens a minute, at most `burst` at once (a minute's worth by default and at most, a
    second's at least).

    A full bucket is the same as none, so full ones are dropped to make room. `clock` is monotonic seconds.
    Used from the event loop only.
    """

    def __init__(
        self,
        what: str,
        per_min: float,
        clock: Callable[[], float],
        burst: float | None = None,
        max_keys: int = 100_000,
    ) -> None:
        self._what = what
        self._per_s = per_min / 60
        self._burst = max(1.0, per_min if burst is None else min(per_min, max(burst, self._per_s)))
        self._per_min = per_min
        self._clock = clock
        self._max_keys = max_keys
        self._buckets: dict[str, _Bucket] = {}

    def take(self, key: str) -> bool:
        """Use one token; whether this key is hasty. Raises TooMuch with `retry_after_s` when there is none, or no room
        to count."""
        bucket = self._bucket(key)
        if bucket.tokens < 1:
            wait_s = (1 - bucket.tokens) / self._per_s if self._per_s else 60.0
            raise TooMuch(f"{self._what}: expected at most {self._per_min:g} a minute, got more", wait_s)
        bucket.tokens -= 1
        return bucket.tokens < CALM_SHARE * self._burst

    def give_back(self, key: str) -> None:
        """Return a token that was taken."""
        bucket = self._bucket(key)
        bucket.tokens = min(self._burst, bucket.tokens + 1)

    def is_hasty(self, key: str) -> bool:
        """Whether this key is hasty now; uses nothing."""
        bucket = self._buckets.get(key)
        return bucket is not None and self._filled(bucket, self._clock()) < CALM_SHARE * self._burst

    def _bucket(self, key: str) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._max_keys:
                self._drop_full(now)
            bucket = self._buckets[key] = _Bucket(self._burst, now)
        bucket.tokens = self._filled(bucket, now)
        bucket.at = now
        return bucket

    def _filled(self, bucket: _Bucket, now: float) -> float:
        return min(self._burst, bucket.tokens + (now - bucket.at) * self._per_s)

    def _drop_full(self, now: float) -> None:
        self._buckets = {key: b for key, b in self._buckets.items() if self._filled(b, now) < self._burst}
        if len(self._buckets) >= self._max_keys:
            raise TooMuch(f"{self._what}: expected at most {self._max_keys} people at once, got more", 60.0)


class Places:
    """So many at the same time for one key."""

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._most = most
        self._taken: Counter[str] = Counter()

    def take(self, key: str) -> None:
        """Take a place until `leave`. Raises TooMuch."""
        if self._taken[key] >= self._most:
            raise TooMuch(f"{self._what}: expected at most {self._most} at the same time, got another", RETRY_S)
        self._taken[key] += 1

    def leave(self, key: str) -> None:
        """Give a place back."""
        self._taken[key] -= 1
        if not self._taken[key]:
            del self._taken[key]


BUSY_S = 2.0
"""Shortest wait that somebody who is refused is told."""
RETRY_S = 10.0
"""When to try again for a place: nobody knows when one gets free."""
SMOOTHING = 0.1
"""Weight of the newest turn in the mean length of turns."""
CALM_SHARE = 0.5
"""Of a bucket: with less left, its owner is hasty."""
LONGEST_GAP_S = 0.25
"""One reply of the hasty begins at least so often, however many of others are beginning."""
ADDRESS_GAP_S = 0.25
"""Between two replies of the hasty of one address, while others come too."""
ALONE_S = 1.0
"""Without a reply of the calm: there are no others."""
HASTY_PLACES = 0.25
"""Of all places: the hasty hold no more, however long their replies take."""


class _Lanes:
    """Those who wait: address by address, within an address person by person, and a person's own in order."""

    def __init__(self) -> None:
        self._addresses: OrderedDict[str, OrderedDict[str, deque[asyncio.Future[None]]]] = OrderedDict()

    def push(self, address: str, person: str, future: asyncio.Future[None]) -> None:
        """To the end of the person's own."""
        self._addresses.setdefault(address, OrderedDict()).setdefault(person, deque()).append(future)

    def pop(self, may_pass: Callable[[str], bool] = lambda _: True) -> tuple[str, asyncio.Future[None]] | None:
        """The next that still waits, of an address that may pass; its address and its person go to the end of theirs."""
        while (address := next(filter(may_pass, self._addresses), None)) is not None:
            people = self._addresses.pop(address)
            person, waiting = people.popitem(last=False)
            future = waiting.popleft()
            if waiting:
                people[person] = waiting
            if people:
                self._addresses[address] = people
            if not future.cancelled():
                return address, future
        return None

    def dismiss(self) -> None:
        """Cancel everybody."""
        for people in self._addresses.values():
            for waiting in people.values():
                for future in waiting:
                    future.cancel()

    def __bool__(self) -> bool:
        return bool(self._addresses)


class Ticket:
    """The right to wait for one turn, from the check until the wait begins."""

    def __init__(self, give_back: Callable[[], None], *, hasty: bool) -> None:
        self.hasty = hasty
        self._give_back = give_back
        self._is_held = True

    @property
    def is_given_back(self) -> bool:
        """Whether it holds nothing any more."""
        return not self._is_held

    def give_back(self) -> None:
        """It is used up, or not wanted any more. Once: further calls do nothing."""
        if self._is_held:
            self._is_held = False
            self._give_back()


class Turns:
    """At most `max_running` turns at the same time, and `max_waiting` that wait for one, of one address half as many.

    Those who wait are served address by address, within an address person by person, and a person's own in order: who
    asks a thousand things delays whoever comes from elsewhere by one turn. The hasty wait until nobody else does, and for
    a gap: one of them begins when nothing is beginning, or when none of them has begun for `longest_gap_s`; of the same
    address the next one `address_gap_s` later, so that others who come meanwhile rarely find the server at work; while
    there are no others (none of the calm has begun for a second), at once. They hold a share of the places, and one more
    than there are while they have none. `clock` is monotonic seconds.
    """

    def __init__(
        self,
        max_running: int,
        max_waiting: int,
        clock: Callable[[], float],
        longest_gap_s: float = LONGEST_GAP_S,
        address_gap_s: float = ADDRESS_GAP_S,
    ) -> None:
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._clock = clock
        self._longest_gap_s = longest_gap_s
        self._address_gap_s = address_gap_s
        self._resting: set[str] = set()
        """Addresses of which one of the hasty began less than a gap ago."""
        self._calm_at = -math.inf
        """When a reply of the calm began."""
        self._calm = _Lanes()
        self._hasty = _Lanes()
        self._overdue: asyncio.TimerHandle | None = None
        self._mean_s: float | None = None
        self._waiting_by_address: Counter[str] = Counter()
        """With the tickets of those who will have to wait."""
        self._num_tickets: Counter[bool] = Counter()
        """Of the hasty (True) and of the calm."""
        self.num_running = 0
        self.num_waiting = 0
        self.num_hasty = 0
        """Of those that run."""
        self.num_beginning = 0
        """Turns of which nothing was heard yet."""

    @property
    def wait_s(self) -> float:
        """How long one that comes now will about wait, if everybody were one queue; 0 while there is room."""
        if self._num_free > 0:
            return 0.0
        return (self._num_to_wait + 1) * (self._mean_s or 1.0) / self._max_running

    @property
    def _num_free(self) -> int:
        """Places that nobody has or is about to take."""
        return max(0, self._max_running - self.num_running) - self._num_tickets[False]

    @property
    def _num_to_wait(self) -> int:
        """Those who wait, and tickets for which there is no place yet; those of the hasty wait in any case."""
        return self.num_waiting + self._num_tickets[True] + max(0, -self._num_free)

    def busy(self, most: int, what: str) -> Busy:
        """The refusal of one more than `most`, with an estimate of the wait."""
        return Busy(f"expected at most {most} {what}, got another", max(BUSY_S, self.wait_s))

    def check(self, address: str, *, hasty: bool = False) -> Ticket:
        """A ticket for `turn`. Raises Busy when as many wait, or will, as may."""
        if self._num_to_wait >= self._max_waiting:
            raise self.busy(self._max_waiting, "messages waiting for a reply")
        most = max(1, self._max_waiting // 2)
        if self._waiting_by_address[address] >= most:
            raise self.busy(most, "messages of your network waiting for a reply")
        return self.ticket(address, hasty=hasty)

    def ticket(self, address: str, *, hasty: bool = False) -> Ticket:
        """One for a message that is stored already and cannot be refused."""
        waits = int(hasty or self._num_free <= 0)
        self._num_tickets[hasty] += 1
        self._waiting_by_address[address] += waits
        return Ticket(lambda: self._take_back(address, waits, hasty=hasty), hasty=hasty)

    def _take_back(self, address: str, waits: int, *, hasty: bool) -> None:
        self._num_tickets[hasty] -= 1
        self._leave_line(address, waits)

    def _leave_line(self, address: str, number: int = 1) -> None:
        self._waiting_by_address[address] -= number
        if not self._waiting_by_address[address]:
            del self._waiting_by_address[address]

    @asynccontextmanager
    async def turn(
        self, address: str, person: str, *, hasty: bool = False, ticket: Ticket | None = None
    ) -> AsyncIterator[Callable[[], None]]:
        """Wait for one's turn, in exchange for the ticket if there is one, and hold it for the length of the block, which
        calls what it is given when the costly beginning is over."""
        if ticket is not None:
            hasty = ticket.hasty
            ticket.give_back()
        await self._wait(address, person, hasty=hasty)
        started, turn = self._clock(), _Turn(self._begun)
        try:
            yield turn.begun
        finally:
            turn.begun()
            took_s = self._clock() - started
            self._mean_s = took_s if self._mean_s is None else self._mean_s + SMOOTHING * (took_s - self._mean_s)
            self._end(hasty=hasty)

    def dismiss(self) -> None:
        """Everybody who waits is cancelled; who has a turn keeps it."""
        self._calm.dismiss()
        self._hasty.dismiss()

    async def _wait(self, address: str, person: str, *, hasty: bool) -> None:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._hasty if hasty else self._calm).push(address, person, mine)
        self.num_waiting += 1
        self._waiting_by_address[address] += 1
        self._admit()
        try:
            await mine
        except asyncio.CancelledError:
            if mine.cancelled():
                self.num_waiting -= 1  # What is left of it in its lane is passed over.
            else:  # It was let in at this very moment.
                self._begun()
                self._end(hasty=hasty)
            raise
        finally:
            self._leave_line(address)

    def _begun(self) -> None:
        self.num_beginning -= 1
        self._admit()

    def _end(self, *, hasty: bool) -> None:
        self.num_running -= 1
        self.num_hasty -= hasty
        self._admit()

    def _admit(self) -> None:
        while self.num_running < self._max_running and self._admit_one(self._calm) is not None:
            self._calm_at = self._clock()
        if not self.num_beginning:
            self._admit_hasty()
        if self._hasty and self._overdue is None:
            self._overdue = asyncio.get_running_loop().call_later(self._longest_gap_s, self._admit_overdue)

    def _admit_one(self, lanes: _Lanes, may_pass: Callable[[str], bool] = lambda _: True) -> str | None:
        """The address of who is let in."""
        found = lanes.pop(may_pass)
        if found is None:
            return None
        address, future = found
        self.num_waiting -= 1
        self.num_running += 1
        self.num_beginning += 1
        future.set_result(None)
        return address

    def _admit_hasty(self, most_running: int = 0) -> None:
        most_hasty = max(1, int(HASTY_PLACES * self._max_running))
        if self.num_running >= (most_running or self._max_running) or self.num_hasty >= most_hasty:
            return
        is_alone = self._clock() - self._calm_at >= ALONE_S
        address = self._admit_one(self._hasty, lambda address: is_alone or address not in self._resting)
        if address is not None:
            self.num_hasty += 1
            self._resting.add(address)
            asyncio.get_running_loop().call_later(self._address_gap_s, self._has_rested, address)

    def _has_rested(self, address: str) -> None:
        self._resting.discard(address)
        self._admit()

    def _admit_overdue(self) -> None:
        self._overdue = None
        self._admit_hasty(self._max_running + (not self.num_hasty))
        self._admit()


class _Turn:
    """Says once that it has begun."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell
        self._has_begun = False

    def begun(self) -> None:
        """What it costs from here on is shared out elsewhere: words are written in turns of their own."""
        if not self._has_begun:
            self._has_begun = True
            self._tell()
