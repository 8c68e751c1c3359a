"""A developer's own scorers: Python functions of one reply, each run in a process of its own.

1. The child starts with the first call, imports `package.module:function` (beside the rules file first) and says so.
2. A call is one JSON line there and one number back. Who takes longer than `timeout_s`, dies, or gives no finite number
   has failed: one ScorerError, the child is ended, and the next call starts a new one.
3. After MAX_FAILURES in a row a scorer is left alone until a new `Scorers` is made.

The child gets no environment but PATH and LANG, no descriptor of ours, and bounded memory; an alarm of its own ends it
should we be gone before it has answered. It is no sandbox: it is the
developer's own code, on the developer's own machine, kept from taking the learner down with it.
"""

from __future__ import annotations

import json
import math
import os
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bot.errors import RejoinderError
from bot.feedback.rules_records import Rules, ScorerSpec

START_S = 20.0
"""How long a child may take to import its function."""
MAX_FAILURES = 3
"""In a row."""
MAX_ANSWER_BYTES = 1 << 16
CHILD = Path(__file__).with_name("scorer_child.py")


class ScorerError(RejoinderError):
    """A scorer that took too long, died or gave no number. The rewards of other rules are not touched by it."""


class ScorerOff(ScorerError):
    """A scorer that failed too often before; said once, when it happened."""


class Scorers:
    """The children of one rules file; `close()` when done, or use it as a context manager."""

    def __init__(self, rules: Rules) -> None:
        self._specs = rules.scorers
        self._folder = rules.folder or "."
        self._children: dict[str, _Child] = {}
        self._failures: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the children."""
        for child in self._children.values():
            child.end()
        self._children.clear()

    def try_out(self) -> list[str]:
        """One line for each scorer that does not start."""
        failures = []
        for name in self._specs:
            try:
                self._child(name)
            except ScorerError as error:
                failures.append(str(error))
        return failures

    def score(self, name: str, reply: Mapping[str, Any]) -> float:
        """What the scorer `name` gives for a reply (plain values). Raises ScorerError."""
        if self._failures[name] >= MAX_FAILURES:
            raise ScorerOff(f"scorer {name}: off after {MAX_FAILURES} failures in a row")
        try:
            found = self._child(name).ask(reply)
        except ScorerError:
            self._failures[name] += 1
            if (failed := self._children.pop(name, None)) is not None:
                failed.end()
            raise
        self._failures[name] = 0
        return found

    def _child(self, name: str) -> _Child:
        """The process of a scorer, started if there is none. Raises ScorerError."""
        if name not in self._children:
            self._children[name] = _Child(name, self._specs[name], self._folder)
        return self._children[name]


class _Child:
    """One running process, ready to be asked."""

    def __init__(self, name: str, spec: ScorerSpec, folder: str) -> None:
        self._name, self._spec = name, spec
        self._buffer = b""
        self._process = subprocess.Popen(
            [sys.executable, "-B", str(CHILD), spec.entry, folder, str(START_S), str(spec.timeout_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
            start_new_session=True,
        )
        try:
            self._expect(self._line(START_S), "ready")
        except ScorerError:
            self.end()
            raise

    def ask(self, reply: Mapping[str, Any]) -> float:
        """One call."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(dict(reply)).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._failed(f"a number, got no process: {error}") from error
        found = self._expect(self._line(self._spec.timeout_s), "score")
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            raise self._failed(f"a finite number, got {found!r}")
        return float(found)

    def end(self) -> None:
        """Kill it and take its exit status."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue  # what it had not read is lost with it

    def _failed(self, expected: str) -> ScorerError:
        return ScorerError(f"scorer {self._name} ({self._spec.entry}): expected {expected}")

    def _expect(self, line: bytes, key: str) -> Any:
        try:
            said = json.loads(line)
            return said[key]
        except (ValueError, TypeError):
            raise self._failed(f"JSON, got {line[:80]!r}") from None
        except KeyError:
            raise self._failed(f"a number, got {said.get('error', said)}") from None

    def _line(self, timeout_s: float) -> bytes:
        """The next line it says. Raises ScorerError when there is none in time."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise self._failed(f"an answer within {timeout_s:g} s, got none")
                read = os.read(self._process.stdout.fileno(), MAX_ANSWER_BYTES)
                self._buffer += read
                if not read or len(self._buffer) > MAX_ANSWER_BYTES:
                    raise self._failed("an answer, got the end of its process" if not read else "a short answer")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line
