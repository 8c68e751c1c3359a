"""Jobs: work in processes of its own, followed, ended early, remembered for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from bot.errors import NotFound, TooMuch
from bot.jobs import Job, Jobs, JobState
from bot.worker import Progress

WORKER = "tests.scripted_worker"


@pytest.fixture
async def jobs() -> AsyncIterator[Jobs]:
    """Two at a time, one remembered."""
    made = Jobs(lambda: 5.0, max_running=2, num_kept=1)
    yield made
    await made.close()


async def until(holds: Callable[[], bool]) -> None:
    """Let the event loop go on until it holds: what a worker says comes from another process."""
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - a job has no event: pages ask again too
            await asyncio.sleep(0.01)


async def ended(jobs: Jobs, job: Job) -> Job:
    """The job once its worker is gone."""
    return await jobs.wait(job.id, 60)


async def start(jobs: Jobs, how: str, **task: Any) -> Job:
    return await jobs.start("test", WORKER, {"how": how} | task, "operator:local")


async def test_a_worker_tells_how_far_it_is_and_what_it_found(jobs: Jobs) -> None:
    """The last word on each stands."""
    job = await ended(jobs, await start(jobs, "answer", say=[{"done": 1, "total": 4}, {"done": 3, "total": 4}]))
    assert (job.state, job.done, job.total, job.by, job.started_at) == (JobState.DONE, 3, 4, "operator:local", 5.0)
    assert job.result == {"answer": 42, "complete": True}


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("refuse", "task: expected another one"),
        ("crash", "the worker ended without a result: something terrible"),
    ],
)
async def test_a_worker_that_fails_says_why(jobs: Jobs, how: str, error: str) -> None:
    """A refusal is one line; of a crash its last words are kept."""
    job = await ended(jobs, await start(jobs, how))
    assert (job.state, job.error, job.result) == (JobState.FAILED, error, None)


async def test_a_job_that_is_stopped_gives_what_it_has(jobs: Jobs) -> None:
    """SIGTERM is a request: the worker answers before it ends."""
    job = await start(jobs, "wait", say=[{"done": 1, "total": 9}])
    await until(lambda: job.done == 1)
    stopped = await jobs.stop(job.id)
    assert (stopped.state, stopped.result) == (JobState.DONE, {"answer": 42, "complete": False})


async def test_closing_ends_every_worker(jobs: Jobs) -> None:
    """A server that stops leaves no process behind."""
    job = await start(jobs, "wait", say=[{"done": 1, "total": 9}])
    await until(lambda: job.done == 1)
    await jobs.close()
    assert job.state is JobState.FAILED


async def test_a_third_job_waits_for_its_turn(jobs: Jobs) -> None:
    """Two cores are all there may be."""
    running = [await start(jobs, "wait") for _ in range(2)]
    with pytest.raises(TooMuch, match="expected at most 2 at a time"):
        await start(jobs, "answer")
    assert [job.state for job in running] == [JobState.RUNNING] * 2


async def test_only_the_newest_finished_jobs_are_remembered(jobs: Jobs) -> None:
    """One is kept here; asking for an older one is answered plainly."""
    first = await ended(jobs, await start(jobs, "answer"))
    second = await ended(jobs, await start(jobs, "answer"))
    third = await start(jobs, "answer")
    assert jobs.get(second.id) is second
    assert jobs.get(third.id) is third
    with pytest.raises(NotFound, match="keeps the newest 1"):
        jobs.get(first.id)


def test_progress_is_told_a_few_times_a_second_and_at_the_end() -> None:
    """A line for each of 100,000 decisions would be more work than the work."""
    told: list[Mapping[str, Any]] = []
    now = [0.0]
    progress = Progress(told.append, lambda: now[0])
    for done in range(1, 11):
        now[0] += 0.0625
        progress.tell(done, 10)
    assert [line["done"] for line in told] == [1, 5, 9, 10]


def test_stopping_ends_the_items_in_between() -> None:
    """What was begun is finished."""
    progress, seen = Progress(lambda _: None), []
    for item in progress.through([2, 2, 2], 6, lambda size: size):
        seen.append(item)
        progress.stopped.set()
    assert seen == [2]
