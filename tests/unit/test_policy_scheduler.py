"""Micro-batches: everything that waits goes together, in order, and nobody pays for another's leaving."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from bot.policy.scheduler import MicroBatcher


class Worker:
    """Squares numbers; waits before each batch for `gate` when it is held. Fails at -1."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Semaphore(10_000)
        self.entered = threading.Semaphore(0)

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.entered.release()
        assert self.gate.acquire(timeout=10)
        self.batches.append(list(items))
        if -1 in items:
            raise ValueError("minus one")
        return [item * item for item in items]


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    """One thread."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def worker() -> Worker:
    """A worker whose first batch waits for the test."""
    held = Worker()
    held.gate = threading.Semaphore(0)
    return held


async def submit_behind_one(
    batcher: MicroBatcher[int, int], worker: Worker, items: Sequence[int]
) -> list[asyncio.Task[int]]:
    """Start item 0, and queue the rest while it is being worked on."""
    tasks = [asyncio.create_task(batcher.submit(0))]
    await asyncio.to_thread(worker.entered.acquire, timeout=10)
    tasks += [asyncio.create_task(batcher.submit(item)) for item in items]
    await asyncio.sleep(0)
    return tasks


async def test_one_request_alone_runs_at_once(executor: ThreadPoolExecutor) -> None:
    """No waiting for company."""
    worker = Worker()
    assert await MicroBatcher(executor, worker).submit(3) == 9
    assert worker.batches == [[3]]


async def test_what_waits_goes_together_in_order(executor: ThreadPoolExecutor, worker: Worker) -> None:
    """At most `max_batch` at a time; each waiter gets its own result."""
    batcher = MicroBatcher(executor, worker, max_batch=4)
    tasks = await submit_behind_one(batcher, worker, range(1, 7))
    worker.gate.release(10)
    assert await asyncio.gather(*tasks) == [0, 1, 4, 9, 16, 25, 36]
    assert worker.batches == [[0], [1, 2, 3, 4], [5, 6]]
    assert (batcher.num_batches, batcher.num_items) == (3, 7)


async def test_a_cancelled_request_is_dropped_from_its_batch(executor: ThreadPoolExecutor, worker: Worker) -> None:
    """One that is being worked on is finished for nobody; the others do not notice."""
    batcher = MicroBatcher(executor, worker)
    tasks = await submit_behind_one(batcher, worker, [1, 2, 3])
    tasks[0].cancel()
    tasks[2].cancel()
    worker.gate.release(10)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [results[1], results[3]] == [1, 9]
    assert worker.batches == [[0], [1, 3]]


async def test_an_error_reaches_each_of_its_batch_and_nobody_else(executor: ThreadPoolExecutor, worker: Worker) -> None:
    """And the next batch runs."""
    batcher = MicroBatcher(executor, worker, max_batch=2)
    tasks = await submit_behind_one(batcher, worker, [-1, 2, 3])
    worker.gate.release(10)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(result) for result in results] == ["0", "minus one", "minus one", "9"]


async def test_a_batcher_serves_again_after_it_was_idle(executor: ThreadPoolExecutor) -> None:
    """Many times over, from many tasks at once."""
    batcher = MicroBatcher(executor, Worker(), max_batch=8)
    for start in (0, 100):
        results = await asyncio.gather(*(batcher.submit(start + i) for i in range(50)))
        assert results == [(start + i) ** 2 for i in range(50)]
