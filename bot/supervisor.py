"""Keeps server and learner running: starts them, restarts one that crashes, stops both cleanly. Stdlib only.

1. each child has a keeper thread: start, copy its lines to the terminal and to HOME/logs, wait, back off, start again;
2. a child that crashes `give_up_after` times within `window_s` is given up (a marker beside its log says so, until it is
   started again); without an `essential` one all is over;
3. SIGINT and SIGTERM become SIGTERM for every child, then patience, then SIGKILL.

The learner's death never touches serving. Children die with us, also when we are killed: before it becomes the child,
the started process asks the kernel for a SIGTERM at its parent's death (`python -m bot.supervisor PARENT COMMAND...`).
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import FrameType

LOG_BYTES = 5 << 20
LOG_FILES = 3
POLL_S = 0.1
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Child:
    """A process to keep running."""

    name: str
    command: tuple[str, ...]
    essential: bool = True
    """Whether everything stops once it is given up."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often and how long to try."""

    first_delay_s: float = 0.5
    max_delay_s: float = 30.0
    give_up_after: int = 5
    window_s: float = 600.0
    stop_s: float = 30.0
    """From SIGTERM to SIGKILL."""


@dataclass
class Crashes:
    """Counts crashes within a window and says how long to wait before the next start."""

    patience: Patience
    clock: Callable[[], float] = time.monotonic
    _times: deque[float] = field(default_factory=deque)

    def next_delay_s(self) -> float | None:
        """Note a crash now. The delay doubles with every crash in the window; None: give up."""
        now = self.clock()
        self._times.append(now)
        while now - self._times[0] > self.patience.window_s:
            self._times.popleft()
        if len(self._times) >= self.patience.give_up_after:
            return None
        delay_s = self.patience.first_delay_s * 2.0 ** (len(self._times) - 1)
        return min(delay_s, self.patience.max_delay_s)


def given_up_marker(logs: Path, name: str) -> Path:
    """A file that is there once a child was given up, as old as that."""
    return logs / f"{name}.given_up"


class Supervisor:
    """Runs the children until told to stop. `say` gets every line for the terminal."""

    def __init__(
        self,
        children: Sequence[Child],
        logs: Path,
        say: Callable[[str], None],
        patience: Patience | None = None,
    ) -> None:
        self._patience = patience or Patience()
        self._say = say
        self._logs = logs
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._given_up: set[str] = set()
        self._keepers = [threading.Thread(target=self._keep, args=(child,), name=child.name) for child in children]

    @property
    def stopping(self) -> threading.Event:
        """Set once the end has begun."""
        return self._stop

    def run(self, asked: Sequence[int] = ()) -> bool:
        """Start everything, return when all children are gone; False when an essential one was given up.

        `asked` grows with every signal that asks for the end (see `signals_seen`): one ends the children in order,
        a second one kills them.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        for keeper in self._keepers:
            keeper.start()
        while not asked and any(keeper.is_alive() for keeper in self._keepers):
            if self._stop.wait(POLL_S):
                break
        self.stop()
        self._end_children(asked)
        return not self._given_up

    def stop(self) -> None:
        """Begin the end. Not for signal handlers: the event's lock may be held by the interrupted thread."""
        self._stop.set()

    def pids(self) -> dict[str, int]:
        """Process ids of the children that run now."""
        with self._lock:
            return {name: process.pid for name, process in self._running.items()}

    def _keep(self, child: Child) -> None:
        crashes = Crashes(self._patience)
        given_up_marker(self._logs, child.name).unlink(missing_ok=True)
        with _log_file(self._logs / f"{child.name}.log") as log:
            while not self._stop.is_set():
                code = self._live(child, log)
                if self._stop.is_set() or code == 0:
                    break
                if not self._wait_before_restart(child, code, crashes):
                    return
        if not self._stop.is_set():
            self._say(f"{child.name} has ended")
            self._stop_if_needed(child)

    def _live(self, child: Child, log: logging.Handler) -> int:
        """One life of the child; its exit code (negative: the signal that ended it)."""
        with self._lock:
            if self._stop.is_set():
                return 0
            process = self._running[child.name] = _start(child)
        assert process.stdout is not None
        with process:
            for line in process.stdout:
                log.handle(logging.makeLogRecord({"msg": line.rstrip("\n")}))
                self._say(f"[{child.name}] {line.rstrip()}")
        with self._lock:
            del self._running[child.name]
        return process.returncode

    def _wait_before_restart(self, child: Child, code: int, crashes: Crashes) -> bool:
        delay_s = crashes.next_delay_s()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        if delay_s is None:
            minutes = self._patience.window_s / 60
            with suppress(OSError):  # A full disk must not keep us from ending.
                given_up_marker(self._logs, child.name).touch()
            if child.essential:
                self._given_up.add(child.name)
            # Said last: whoever hears it finds the marker there.
            self._say(
                f"{child.name} {how}: {self._patience.give_up_after} times in {minutes:g} min, so it is not started "
                f"again; see {self._logs / child.name}.log"
            )
            self._stop_if_needed(child)
            return False
        self._say(f"{child.name} {how}; starting it again in {delay_s:g} s")
        self._stop.wait(delay_s)
        return True

    def _stop_if_needed(self, child: Child) -> None:
        if child.essential:
            self._stop.set()

    def _end_children(self, asked: Sequence[int]) -> None:
        """SIGTERM to all, SIGKILL to those that are still there when patience ends."""
        self._signal_all(signal.SIGTERM)
        deadline = time.monotonic() + self._patience.stop_s
        for keeper in self._keepers:
            while keeper.is_alive() and len(asked) < 2 and time.monotonic() < deadline:
                keeper.join(POLL_S)
        if any(keeper.is_alive() for keeper in self._keepers):
            self._signal_all(signal.SIGKILL)
        for keeper in self._keepers:
            keeper.join()

    def _signal_all(self, number: signal.Signals) -> None:
        with self._lock:
            for process in self._running.values():
                process.send_signal(number)


def _start(child: Child) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bot.supervisor", str(os.getpid()), *child.command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches us alone; we then stop the children in order
    )


@contextmanager
def _log_file(path: Path) -> Iterator[logging.Handler]:
    handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    try:
        yield handler
    finally:
        handler.close()


@contextmanager
def signals_seen() -> Iterator[list[int]]:
    """While inside, SIGINT and SIGTERM do nothing but enter this list."""
    seen: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        seen.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _become(parent: int, command: Sequence[str]) -> None:
    """Turn this process into the command, bound to its parent's life (on Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit(f"parent {parent} is gone")
    os.execvp(command[0], list(command))  # noqa: S606 - the command is our own


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
