"""How a connection to the replay store is opened: version floor, durability and limits, each read back.

The only importer of the sqlite3 module; everything else takes a `Connection`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bot.errors import StoreError

if TYPE_CHECKING:
    import sqlite3
else:
    try:
        import pysqlite3 as sqlite3
    except ImportError:
        import sqlite3

Connection = sqlite3.Connection
Row = sqlite3.Row
SqliteError = sqlite3.Error

BUSY_TIMEOUT_S = 5.0
"""How long a write waits for the other process's transaction."""
SWITCH_RETRY_S = 0.01
_CREATING = threading.Lock()
"""A second thread that opens a new file waits until the first has closed the descriptor that made it."""


def check_sqlite_version(version: tuple[int, ...]) -> None:
    """Refuse SQLite builds that can corrupt a WAL file shared by two processes (fixed in 3.51.3, 3.50.7, 3.44.6)."""
    fixed_backport = version[:2] in ((3, 50), (3, 44)) and version >= {50: (3, 50, 7), 44: (3, 44, 6)}[version[1]]
    if version < (3, 51, 3) and not fixed_backport:
        got = ".".join(map(str, version))
        raise StoreError(f"expected SQLite 3.51.3 or newer (or 3.50.7, 3.44.6), got {got}: install the pysqlite3 wheel")


def check_durable(conn: Connection) -> None:
    """Raise StoreError unless a commit on this connection survives a power failure."""
    mode = conn.execute("PRAGMA journal_mode").fetchone()[0]
    synchronous = conn.execute("PRAGMA synchronous").fetchone()[0]
    if (mode, synchronous) != ("wal", 2):
        raise StoreError(f"expected journal_mode wal and synchronous 2 (FULL), got {mode} and {synchronous}")


def open_writer(path: Path, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Connection:
    """The one connection of this process that writes. Creates the file, for its owner only. Raises StoreError."""
    check_sqlite_version(sqlite3.sqlite_version_info)
    with store_errors(f"cannot open {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        _create(path)
        conn = _connect(path, "rw", busy_timeout_s)
        _switch_to_wal(conn, time.monotonic() + busy_timeout_s)
        conn.execute("PRAGMA synchronous = FULL")
        conn.execute("PRAGMA secure_delete = ON")  # what is erased is overwritten
        conn.execute("PRAGMA recursive_triggers = ON")  # or REPLACE would delete without asking the triggers
        check_durable(conn)
    return conn


def _create(path: Path) -> None:
    """For its owner only. A file that is there is not touched.

    Closing any descriptor of a file drops all POSIX locks that this process has on it, those of SQLite's own descriptors
    too (https://www.sqlite.org/howtocorrupt.html, 2.2). Somebody who then looks into the live store and closes it (seen with
    SQLite 3.40) takes himself for the last and deletes the WAL that this process goes on writing to: what is acknowledged
    after that is lost. So nobody here opens the file but SQLite, and the one descriptor that creates it is closed before
    SQLite has it.
    """
    with _CREATING:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            return


def _switch_to_wal(conn: Connection, deadline: float) -> None:
    """SQLite does not wait for its timeout here: two who switch a new file at once would wait for each other."""
    while True:
        try:
            conn.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(SWITCH_RETRY_S)
        else:
            return


def open_reader(path: Path) -> Connection:
    """A connection that cannot write. Raises StoreError."""
    check_sqlite_version(sqlite3.sqlite_version_info)
    with store_errors(f"cannot open {path}"):
        conn = _connect(path, "ro", BUSY_TIMEOUT_S)
        conn.execute("PRAGMA query_only = ON")
    return conn


def _connect(path: Path, mode: str, busy_timeout_s: float) -> Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    conn = sqlite3.connect(uri, uri=True, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
    conn.row_factory = sqlite3.Row
    conn.execute("PRAGMA foreign_keys = ON")
    return conn


@contextmanager
def store_errors(what: str) -> Iterator[None]:
    """Turn SQLite's and the file system's errors into one StoreError line."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{what}: {error}") from error


@contextmanager
def transaction(conn: Connection) -> Iterator[None]:
    """BEGIN IMMEDIATE ... COMMIT; any error rolls back."""
    conn.execute("BEGIN IMMEDIATE")
    try:
        yield
        conn.execute("COMMIT")
    finally:
        if conn.in_transaction:
            conn.execute("ROLLBACK")


class ReaderPool:
    """Read connections, one per read in progress: no two threads share one, and none waits for the writer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._closed = False

    @contextmanager
    def borrow(self) -> Iterator[Connection]:
        """A connection for the length of the block. Raises StoreError once closed."""
        conn = self._take() or open_reader(self._path)
        try:
            yield conn
        finally:
            self._give(conn)

    def close(self) -> None:
        """Close idle connections; borrowed ones close when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for conn in idle:
            conn.close()

    def _take(self) -> Connection | None:
        with self._lock:
            if self._closed:
                raise StoreError("the replay store is closed")
            return self._idle.pop() if self._idle else None

    def _give(self, conn: Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(conn)
                return
        conn.close()
