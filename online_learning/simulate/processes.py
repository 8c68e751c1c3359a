"""The real server and the real learner as child processes of a simulation, and the lockstep between them."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bot.errors import RejoinderError
from bot.feedback.store import Store
from bot.settings import Settings

START_TIMEOUT_S = 180.0
BARRIER_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Running:
    """Both processes of one home."""

    port: int
    server: subprocess.Popen[bytes]
    learner: subprocess.Popen[bytes]

    def check(self) -> None:
        """Raises RejoinderError when one of them has ended."""
        for name, process in (("server", self.server), ("learner", self.learner)):
            if process.poll() is not None:
                raise RejoinderError(f"the {name} ended with exit code {process.returncode}; see the logs of this home")


@contextmanager
def both(settings: Settings, options: Mapping[str, str]) -> Iterator[Running]:
    """Start server and learner on `settings.home`; stop them at the end."""
    port = free_port()
    logs = settings.home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    server = _spawn(settings, "serve", {**options, "port": str(port)}, logs)
    learner = _spawn(settings, "learn", options, logs)
    running = Running(port, server, learner)
    try:
        _wait_until_ready(running)
        yield running
    finally:
        for process in (learner, server):
            process.terminate()
        for process in (learner, server):
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _spawn(settings: Settings, command: str, options: Mapping[str, str], logs: Path) -> subprocess.Popen[bytes]:
    pairs = [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
    bound_to_us = (sys.executable, "-m", "bot.supervisor", str(os.getpid()))
    words = [
        *bound_to_us,
        sys.executable,
        "-m",
        "bot.cli",
        "--home",
        str(settings.home),
        "--domain",
        settings.domain,
        *pairs,
        command,
    ]
    with (logs / f"{command}.log").open("ab") as log:
        return subprocess.Popen(words, stdout=log, stderr=log)


def _wait_until_ready(running: Running) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        running.check()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/health/ready", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RejoinderError(f"expected a ready server within {START_TIMEOUT_S:.0f} s, got none; see the logs of this home")


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Lockstep:
    """Lets the learner work only between turns: everything acknowledged is settled, judged and, if published, served."""

    def __init__(self, store: Store, running: Running) -> None:
        self._store = store
        self._running = running
        self._ticket = 0

    async def pass_barrier(self) -> str:
        """Wait for the learner; returns the champion's version."""
        self._ticket += 1
        self._store.put_status("lockstep", {"ticket": self._ticket})
        deadline = time.monotonic() + BARRIER_TIMEOUT_S
        while time.monotonic() < deadline:
            self._running.check()
            said = self._store.status("learner") or {}
            if said.get("ticket") == self._ticket:
                return str(said["version"])
            await asyncio.sleep(0.05)
        raise RejoinderError(f"expected the learner to finish within {BARRIER_TIMEOUT_S:.0f} s, got no answer")
