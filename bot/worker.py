"""The other end of `bot.jobs`: how a worker process takes its task, tells how far it is, and ends."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from bot.errors import RejoinderError

T = TypeVar("T")

NICENESS = 10
"""Replies come first wherever both want a core."""
TELL_S = 0.2
"""Between two lines about progress."""


class Progress:
    """Tells how far the work is, and whether somebody asked it to end early."""

    def __init__(self, say: Callable[[Mapping[str, Any]], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._told_at = float("-inf")
        self.stopped = threading.Event()

    def tell(self, done: int, total: int) -> None:
        """Say it, unless that was done a moment ago."""
        if self._clock() - self._told_at >= TELL_S or done >= total:
            self._told_at = self._clock()
            self._say({"done": done, "total": total})

    def through(self, items: Iterable[T], total: int, size: Callable[[T], int]) -> Iterator[T]:
        """The items, until the end or until stopped; each counts for its size."""
        done = 0
        for item in items:
            if self.stopped.is_set():
                return
            yield item
            done += size(item)
            self.tell(done, total)


def work(do: Callable[[Mapping[str, Any], Progress], Mapping[str, Any]]) -> int:
    """Read the task, do it, say the result. Returns the exit code."""
    progress = Progress(say)
    signal.signal(signal.SIGTERM, lambda *_: progress.stopped.set())
    with suppress(OSError):  # a sandbox may forbid it
        os.nice(NICENESS)
    try:
        say({"result": do(json.load(sys.stdin), progress)})
    except RejoinderError as error:
        say({"error": str(error)})
        return 1
    return 0


def say(message: Mapping[str, Any]) -> None:
    """One line for the server."""
    print(json.dumps(message), flush=True)
