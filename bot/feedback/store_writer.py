"""One writer thread with group commit: many concurrent writes, one fsync.

1. Callers queue an operation and wait for its answer.
2. The writer takes all that wait (bounded), opens one transaction, runs each in its own savepoint, commits once.
3. Only after the commit are callers answered. An operation that raises undoes itself alone; a failed commit fails the
   whole batch with StoreError, so nobody is told "stored" who is not, and the next batch starts afresh.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bot.errors import StoreError
from bot.feedback.store_connection import Connection, SqliteError

T = TypeVar("T")

MAX_WAITING = 4096
"""Operations that may queue before callers are told `busy`."""
MAX_BATCH = 512
"""Operations that share one commit at most, so that the first of them is not kept waiting for long."""


@dataclass(slots=True)
class _Pending:
    operation: Callable[[Connection], Any]
    answer: Future[Any] = field(default_factory=Future)
    outcome: Any = None
    error: Exception | None = None

    def settle(self) -> None:
        if self.error is not None:
            self.answer.set_exception(self.error)
        else:
            self.answer.set_result(self.outcome)


class Writer:
    """Owns the connection it is given, and the thread that uses it."""

    def __init__(self, conn: Connection, *, max_waiting: int = MAX_WAITING, max_batch: int = MAX_BATCH) -> None:
        self._conn = conn
        self._max_waiting = max_waiting
        self._max_batch = max_batch
        self._waiting: deque[_Pending] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.num_commits = 0
        """Transactions committed so far: each cost one fsync."""
        self._thread = threading.Thread(target=self._run, name="replay-store-writer", daemon=True)
        self._thread.start()

    def submit(self, operation: Callable[[Connection], T]) -> T:
        """Run `operation` on the writer thread; returns its result once it is on disk.

        Raises whatever the operation raised, or StoreError when the queue is full or the commit failed.
        """
        pending = _Pending(operation)
        with self._changed:
            if self._closed:
                raise StoreError("the replay store is closed")
            if len(self._waiting) >= self._max_waiting:
                raise StoreError(f"the replay store is busy: {len(self._waiting)} writes are waiting")
            self._waiting.append(pending)
            self._changed.notify()
        return pending.answer.result()  # type: ignore[no-any-return]

    def close(self) -> None:
        """Finish what waits, then close the connection."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._take():
            self._write(batch)
            for pending in batch:
                pending.settle()
        self._conn.close()

    def _take(self) -> list[_Pending]:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_batch))]

    def _write(self, batch: list[_Pending]) -> None:
        try:
            self._roll_back()
            self._conn.execute("BEGIN IMMEDIATE")
            for pending in batch:
                self._attempt(pending)
            self._conn.execute("COMMIT")
            self.num_commits += 1
        except SqliteError as error:
            for pending in batch:
                pending.error = StoreError(f"not stored: {error}")

    def _attempt(self, pending: _Pending) -> None:
        """Run one operation in a savepoint. Raises SqliteError when the whole transaction is gone (disk full, I/O)."""
        self._conn.execute("SAVEPOINT operation")
        try:
            pending.outcome = pending.operation(self._conn)
        except Exception as error:  # the boundary between callers and the thread: theirs to raise, not ours to die of
            if not self._conn.in_transaction:
                raise
            self._conn.execute("ROLLBACK TO operation")
            pending.error = StoreError(f"not stored: {error}") if isinstance(error, SqliteError) else error
        self._conn.execute("RELEASE operation")

    def _roll_back(self) -> None:
        """Drop what a failed batch left behind."""
        if self._conn.in_transaction:
            self._conn.execute("ROLLBACK")
