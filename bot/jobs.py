"""Long work asked for by a page, in worker processes of their own: the server's event loop never waits for it.

1. the worker reads its task, one JSON object, from stdin;
2. it writes JSON lines: `{"done": 3, "total": 10}` as it goes on, at last `{"result": {...}}` or `{"error": "one line"}`;
3. SIGTERM asks it to end early with what it has; it dies with the server.

Jobs are kept in memory, the newest few. Knows nothing of what the work is.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bot.errors import NotFound, TooMuch

MAX_RUNNING = 2
"""Workers at a time: replies want the cores too."""
NUM_KEPT = 20
"""Finished jobs that can still be asked about."""
LINE_BYTES = 32 << 20
"""The longest line that a worker may write: a whole report."""
PATIENCE_S = 10.0
"""From SIGTERM to SIGKILL."""


class JobState(StrEnum):
    """How a job stands."""

    RUNNING = "running"
    DONE = "done"
    """With a result; of what was seen until then, if it was stopped early."""
    FAILED = "failed"


@dataclass(slots=True)
class Job:
    """One piece of work; only `Jobs` changes it."""

    id: str
    kind: str
    by: str
    started_at: float
    """Epoch seconds."""
    state: JobState = JobState.RUNNING
    done: int = 0
    total: int = 0
    seconds: float = 0.0
    result: Mapping[str, Any] | None = None
    error: str = ""


class Jobs:
    """Starts workers, follows them, remembers what they found. Lives on one event loop."""

    def __init__(
        self, clock: Callable[[], float] = time.time, *, max_running: int = MAX_RUNNING, num_kept: int = NUM_KEPT
    ) -> None:
        self._clock = clock
        self._max_running = max_running
        self._num_kept = num_kept
        self._jobs: dict[str, Job] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._following: dict[str, asyncio.Task[None]] = {}

    async def start(self, kind: str, module: str, task: Mapping[str, Any], by: str) -> Job:
        """Run `python -m module` on a task. Raises TooMuch when enough of them run already."""
        if len(self._following) >= self._max_running:
            raise TooMuch(f"jobs: expected at most {self._max_running} at a time, got one more; wait for them", 5.0)
        job = Job(secrets.token_hex(8), kind, by, self._clock())
        self._jobs[job.id] = job
        self._following[job.id] = asyncio.create_task(self._follow(job, module, json.dumps(task).encode()))
        self._forget_old()
        return job

    def get(self, job_id: str) -> Job:
        """Raises NotFound."""
        try:
            return self._jobs[job_id]
        except KeyError:
            raise NotFound(f"no job {job_id[:64]!r}: the server keeps the newest {self._num_kept}") from None

    async def wait(self, job_id: str, timeout_s: float) -> Job:
        """The job once it has ended, or as it stands after `timeout_s`."""
        job = self.get(job_id)
        if following := self._following.get(job_id):
            await asyncio.wait({following}, timeout=timeout_s)
        return job

    async def stop(self, job_id: str) -> Job:
        """Ask the worker to end with what it has, and wait for that."""
        job, following = self.get(job_id), self._following.get(job_id)
        if following is None:
            return job
        if (process := self._processes.get(job_id)) is None:
            following.cancel()
        else:
            _signal(process, "terminate")
        if not (await asyncio.wait({following}, timeout=PATIENCE_S))[0]:
            following.cancel()
            await asyncio.wait({following})
        return job

    async def close(self) -> None:
        """End every worker."""
        for following in list(self._following.values()):
            following.cancel()
        await asyncio.gather(*self._following.values(), return_exceptions=True)

    def _forget_old(self) -> None:
        finished = [job_id for job_id in self._jobs if job_id not in self._following]
        for job_id in finished[: max(0, len(finished) - self._num_kept)]:
            del self._jobs[job_id]

    async def _follow(self, job: Job, module: str, task: bytes) -> None:
        started = time.monotonic()
        try:
            last_words = await self._listen(job, await self._launch(job.id, module, task))
            if job.result is None and not job.error:
                job.error = f"the worker ended without a result: {last_words or 'it said nothing'}"
        except (OSError, ValueError) as error:  # no process to be had; a line of more than LINE_BYTES
            job.error = str(error)
        except asyncio.CancelledError:
            job.error = "ended before it had a result"
            raise
        finally:
            _signal(process := self._processes.pop(job.id, None), "kill")
            if process is not None:
                await process.wait()
            job.seconds = time.monotonic() - started
            job.state = JobState.FAILED if job.error else JobState.DONE
            self._following.pop(job.id, None)

    async def _launch(self, job_id: str, module: str, task: bytes) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *_command(module),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=LINE_BYTES,
        )
        self._processes[job_id] = process
        assert process.stdin is not None
        with suppress(ConnectionError):  # it died at once: what it said tells why
            process.stdin.write(task)
            await process.stdin.drain()
        process.stdin.close()
        return process

    @staticmethod
    async def _listen(job: Job, process: asyncio.subprocess.Process) -> str:
        """Note what the worker says until its end; returns the last line that was no message of ours."""
        assert process.stdout is not None
        last_words = ""
        async for line in process.stdout:
            said = _message(line)
            if said is None:
                last_words = line.decode(errors="replace").strip() or last_words
                continue
            job.done, job.total = int(said.get("done", job.done)), int(said.get("total", job.total))
            job.result, job.error = said.get("result", job.result), str(said.get("error", job.error))
        return last_words


def _command(module: str) -> Sequence[str]:
    """Through the supervisor's door: the kernel ends the worker when the server dies."""
    python = sys.executable
    return (python, "-m", "bot.supervisor", str(os.getpid()), python, "-m", module)


def _message(line: bytes) -> dict[str, Any] | None:
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, dict) and said.keys() & {"done", "result", "error"} else None


def _signal(process: asyncio.subprocess.Process | None, name: str) -> None:
    if process is not None and process.returncode is None:
        with suppress(ProcessLookupError):
            getattr(process, name)()
