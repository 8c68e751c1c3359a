"""What one person, or one address, may take of the server. From the event loop only.

- `TokenBuckets`: how often. Fails closed: when it cannot keep count, it refuses.
- `Places`: how many at the same time.
- `Turns`: replies in the making are so many at most; who must wait is served in turn, address by address.
"""

from __future__ import annotations

import asyncio
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
    """One bucket per key: `per_min` tokens a minute, at most `burst` at once (default: a minute's worth).

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
        self._burst = max(1.0, per_min if burst is None else burst)
        self._per_min = per_min
        self._clock = clock
        self._max_keys = max_keys
        self._buckets: dict[str, _Bucket] = {}

    def take(self, key: str) -> None:
        """Use one token. Raises TooMuch with `retry_after_s` when there is none, or no room to count."""
        bucket = self._bucket(key)
        if bucket.tokens < 1:
            wait_s = (1 - bucket.tokens) / self._per_s if self._per_s else 60.0
            raise TooMuch(f"{self._what}: expected at most {self._per_min:g} a minute, got more", wait_s)
        bucket.tokens -= 1

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


RETRY_S = 10.0
"""When to try again for a place: nobody knows when one gets free."""
SMOOTHING = 0.1
"""Weight of the newest turn in the mean length of turns."""


class Turns:
    """At most `max_running` turns at the same time, and `max_waiting` that wait for one.

    Those who wait are served address by address, within an address person by person, and a person's own in order: who
    asks a thousand things delays whoever comes from elsewhere by one turn. `clock` is monotonic seconds.
    """

    def __init__(self, max_running: int, max_waiting: int, clock: Callable[[], float]) -> None:
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._clock = clock
        self._lanes: OrderedDict[str, OrderedDict[str, deque[asyncio.Future[None]]]] = OrderedDict()
        self._mean_s: float | None = None
        self.num_running = 0
        self.num_waiting = 0

    @property
    def wait_s(self) -> float:
        """How long one that comes now will about wait, if everybody were one queue; 0 while there is room."""
        if self.num_running < self._max_running:
            return 0.0
        return (self.num_waiting + 1) * (self._mean_s or 1.0) / self._max_running

    def check(self) -> None:
        """Raises Busy, with an estimate of the wait, when as many wait as may."""
        if self.num_waiting >= self._max_waiting:
            raise Busy(f"expected at most {self._max_waiting} messages waiting for a reply, got another", self.wait_s)

    @asynccontextmanager
    async def turn(self, address: str, person: str) -> AsyncIterator[None]:
        """Wait for one's turn and hold it for the length of the block."""
        await self._wait(address, person)
        started = self._clock()
        try:
            yield
        finally:
            took_s = self._clock() - started
            self._mean_s = took_s if self._mean_s is None else self._mean_s + SMOOTHING * (took_s - self._mean_s)
            self._end()

    def dismiss(self) -> None:
        """Everybody who waits is cancelled; who has a turn keeps it."""
        for people in self._lanes.values():
            for waiting in people.values():
                for future in waiting:
                    future.cancel()

    async def _wait(self, address: str, person: str) -> None:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lanes.setdefault(address, OrderedDict()).setdefault(person, deque()).append(mine)
        self.num_waiting += 1
        self._admit()
        try:
            await mine
        except asyncio.CancelledError:
            if mine.cancelled():
                self.num_waiting -= 1  # What is left of it in its lane is passed over.
            else:  # It was let in at this very moment.
                self._end()
            raise

    def _end(self) -> None:
        self.num_running -= 1
        self._admit()

    def _admit(self) -> None:
        while self.num_running < self._max_running and (future := self._next()) is not None:
            self.num_waiting -= 1
            self.num_running += 1
            future.set_result(None)

    def _next(self) -> asyncio.Future[None] | None:
        """The next that still waits; its lane and its person go to the end of theirs."""
        while self._lanes:
            address, people = self._lanes.popitem(last=False)
            person, waiting = people.popitem(last=False)
            future = waiting.popleft()
            if waiting:
                people[person] = waiting
            if people:
                self._lanes[address] = people
            if not future.cancelled():
                return future
        return None
