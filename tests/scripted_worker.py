"""A worker process that does what its task says: `python -m tests.scripted_worker` (see `bot.jobs`)."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from bot.errors import ConfigError
from bot.worker import Progress, say, work


def act(task: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """`say`: lines to write; then `how`: answer, refuse, crash or wait (until it is asked to end)."""
    for line in task.get("say", ()):
        say(line)
    if task["how"] == "refuse":
        raise ConfigError("task: expected another one")
    if task["how"] == "crash":
        print("something terrible", flush=True)
        os._exit(3)
    if task["how"] == "wait":
        progress.stopped.wait()
    return {"answer": 42, "complete": not progress.stopped.is_set()}


if __name__ == "__main__":
    sys.exit(work(act))
