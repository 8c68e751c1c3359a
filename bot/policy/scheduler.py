"""Who is computed for next. No tensors.

`MicroBatcher`, for choices: requests that arrive while a worker thread is busy are one batch. One request alone runs at
once; under load batches grow by themselves up to `max_batch`. A request that is cancelled before its batch starts is
dropped from it. An error in a batch goes to each of its requests.

`Scheduler`, for replies that are written token by token: who waits, who runs, what the next step holds.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, TypeVar

from bot.policy.tally import SIZES, Tally

In = TypeVar("In")
Out = TypeVar("Out")


class MicroBatcher(Generic[In, Out]):
    """Runs `work(items) -> results` on `executor`; results stand in the order of items."""

    def __init__(
        self, executor: Executor, work: Callable[[Sequence[In]], Sequence[Out]], *, max_batch: int = 32
    ) -> None:
        self._executor = executor
        self._work = work
        self._max_batch = max_batch
        self._waiting: deque[tuple[In, asyncio.Future[Out]]] = deque()
        self._runner: asyncio.Task[None] | None = None
        self.num_batches = 0
        self.num_items = 0
        self.sizes = Tally(SIZES)

    async def submit(self, item: In) -> Out:
        """Wait for this item's result. Raises whatever `work` raised for its batch."""
        future: asyncio.Future[Out] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        while batch := self._take():
            items = [item for item, _ in batch]
            try:
                results = await asyncio.get_running_loop().run_in_executor(self._executor, self._work, items)
            except Exception as error:  # noqa: BLE001 - the worker's boundary: each request gets the error as its own
                for _, future in batch:
                    _settle(future, error=error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                _settle(future, result=result)

    def _take(self) -> list[tuple[In, asyncio.Future[Out]]]:
        batch: list[tuple[In, asyncio.Future[Out]]] = []
        while self._waiting and len(batch) < self._max_batch:
            item, future = self._waiting.popleft()
            if not future.cancelled():
                batch.append((item, future))
        if batch:
            self.num_batches += 1
            self.num_items += len(batch)
            self.sizes.add(len(batch))
        return batch


def _settle(future: asyncio.Future[Out], *, result: Out | None = None, error: Exception | None = None) -> None:
    if future.cancelled():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)  # type: ignore[arg-type]


@dataclass(slots=True, eq=False)
class Job:
    """A reply to be written, as the scheduler sees it."""

    chat: str
    """Whose turn it is, is decided between conversations."""
    num_prompt: int
    deadline_at: float | None = None
    """By the scheduler's clock, seconds."""
    slot: int | None = None
    """None: it waits."""
    num_read: int = 0
    """Prompt tokens that are in the slot."""

    @property
    def is_writing(self) -> bool:
        """Whether the whole prompt was read."""
        return self.num_read >= self.num_prompt


@dataclass(frozen=True, slots=True)
class Reading:
    """A piece of a job's prompt that the next step reads."""

    job: Job
    start: int
    end: int


class Scheduler:
    """Who is written next: conversations take turns, running replies go before prompts, slots stay without gaps.

    A step holds one token of every running reply and prompt tokens up to `step_tokens` in all, but always a quarter of
    that for prompts: many running replies must not starve those that wait to begin. So a long prompt delays a running
    reply by a step of that size, or by a quarter of it more, at most. When nobody is being written for, `idle_tokens` are read at once.
    """

    def __init__(self, num_slots: int, step_tokens: int = 128, idle_tokens: int = 512) -> None:
        self._num_slots = num_slots
        self._step_tokens = step_tokens
        self._idle_tokens = idle_tokens
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()
        self._running: list[Job] = []

    @property
    def num_waiting(self) -> int:
        """Jobs without a slot."""
        return sum(map(len, self._waiting.values()))

    @property
    def running(self) -> Sequence[Job]:
        """By slot."""
        return self._running

    def add(self, job: Job) -> None:
        """Queue a job behind those of its own conversation."""
        self._waiting.setdefault(job.chat, deque()).append(job)

    def expired(self, now: float) -> list[Job]:
        """Jobs past their deadline, waiting or running; the caller removes them."""
        jobs = [*self._running, *(job for queue in self._waiting.values() for job in queue)]
        return [job for job in jobs if job.deadline_at is not None and job.deadline_at <= now]

    def admit(self) -> list[Job]:
        """Give free slots to the conversations whose turn it is."""
        admitted = []
        while self._waiting and len(self._running) < self._num_slots:
            chat, queue = self._waiting.popitem(last=False)
            job = queue.popleft()
            if queue:
                self._waiting[chat] = queue  # Behind all others: its next reply waits for theirs.
            job.slot = len(self._running)
            self._running.append(job)
            admitted.append(job)
        return admitted

    def plan(self, later: Collection[Job] = ()) -> tuple[list[Job], list[Reading]]:
        """Jobs that go on by one token, and pieces of prompts but for those that had better read `later`; counts the
        pieces as read."""
        writing = [job for job in self._running if job.is_writing]
        left = max(self._step_tokens - len(writing), self._step_tokens // 4, 1) if writing else self._idle_tokens
        reading = []
        for job in self._running:
            size = 0 if job in later else min(left, job.num_prompt - job.num_read)
            if size > 0:
                reading.append(Reading(job, job.num_read, job.num_read + size))
                job.num_read += size
                left -= size
        return writing, reading

    def remove(self, job: Job) -> tuple[int, int] | None:
        """Forget a job. Returns (from, to) when the job of the last slot takes over the one that became free."""
        if job.slot is None:
            queue = self._waiting.get(job.chat, deque())
            if job in queue:
                queue.remove(job)
            if not queue:
                self._waiting.pop(job.chat, None)
            return None
        slot, job.slot = job.slot, None
        last = self._running.pop()
        if last is job:
            return None
        self._running[slot], moved_from = last, len(self._running)
        last.slot = slot
        return moved_from, slot
