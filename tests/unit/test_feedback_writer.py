"""The writer: many writes share a commit, a failed commit never acknowledges, and the next write works."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bot.errors import ConflictError, StoreError
from bot.feedback.store import Store
from bot.feedback.store_connection import (
    Connection,
    SqliteError,
    check_durable,
    check_sqlite_version,
    open_reader,
    open_writer,
    transaction,
)
from bot.feedback.store_erasure import fold_log
from bot.feedback.store_writer import Writer
from tests.builders import make_conversation, make_decision, make_message, make_signal


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with conversation c1 and decision d1; a write waits at most 50 ms for another process."""
    with Store(tmp_path / "rejoinder.db", busy_timeout_s=0.05) as opened:
        opened.add_conversation(make_conversation())
        opened.add_reply(make_message(role="bot", decision_id="d1"), make_decision())
        yield opened


def writer_of(store: Store) -> Writer:
    """The store's writer, to hold it up or to break its connection."""
    assert store._writer is not None
    return store._writer


@contextmanager
def held_up(writer: Writer, num_waiting: int) -> Iterator[None]:
    """The writer is inside an operation until `num_waiting` more wait (or the block raises)."""
    entered, released = threading.Event(), threading.Event()

    def hold(conn: Connection) -> None:
        entered.set()
        released.wait()

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(writer.submit, hold)
        entered.wait()
        try:
            yield
            with writer._changed:
                writer._changed.wait_for(lambda: len(writer._waiting) >= num_waiting)
        finally:
            released.set()
        holding.result()


def outcome_of(future: Future[Any]) -> object:
    """Its result, or the class of its error."""
    return type(future.exception()) if future.exception() else future.result()


# --- group commit -----------------------------------------------------------------------------------------------------
def test_writes_that_wait_share_one_commit(store: Store) -> None:
    """40 threads, one fsync; the control, one after the other, pays one each."""
    writer = writer_of(store)
    with ThreadPoolExecutor(40) as pool:
        with held_up(writer, 40):
            before = writer.num_commits
            signals = [make_signal(key=f"k{i}") for i in range(40)]
            futures = [pool.submit(store.add_signal, signal) for signal in signals]
        assert sorted(future.result().seq for future in futures) == list(range(1, 41))
    assert store.num_commits - before == 2  # the operation that held the writer up, and all forty
    for i in range(5):
        store.add_signal(make_signal(key=f"alone{i}"))
    assert store.num_commits - before == 2 + 5


async def test_concurrent_calls_from_the_event_loop_share_commits(store: Store) -> None:
    """As the server calls it: `asyncio.to_thread` is this with the default executor."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(20))
    with held_up(writer_of(store), 20):
        before = store.num_commits
        signals = [make_signal(key=f"k{i}") for i in range(20)]
        calls = [loop.run_in_executor(None, store.add_signal, signal) for signal in signals]
    stored = await asyncio.gather(*calls)
    assert sorted(signal.seq for signal in stored) == list(range(1, 21))
    assert store.num_commits - before == 2


def test_a_batch_is_bounded(tmp_path: Path) -> None:
    """The first of many is not kept waiting for all: 10 operations at 4 a batch are 3 commits."""
    writer = Writer(open_writer(tmp_path / "x.db"), max_batch=4)
    with ThreadPoolExecutor(10) as pool:
        with held_up(writer, 10):
            before = writer.num_commits
            futures = [pool.submit(writer.submit, lambda conn: None) for _ in range(10)]
        for future in futures:
            future.result()
    assert writer.num_commits - before == 1 + 3
    writer.close()


def test_an_operation_that_raises_undoes_itself_alone(store: Store) -> None:
    """A conflict amid good writes of the same batch: they are stored, it is not."""
    store.add_signal(make_signal(key="taken"))
    batch = [make_signal(key="a"), make_signal(key="taken", value=-1.0), make_signal(key="b")]
    with ThreadPoolExecutor(3) as pool:
        with held_up(writer_of(store), 3):
            futures = [pool.submit(store.add_signal, signal) for signal in batch]
        outcomes = [outcome_of(future) for future in futures]
    assert outcomes[1] is ConflictError
    assert sorted(signal.key for signal in store.signals("c1")) == ["a", "b", "taken"]


def test_half_an_operation_is_no_operation(store: Store) -> None:
    """What it wrote before it raised is undone."""

    def half(conn: Connection) -> None:
        conn.execute("UPDATE conversations SET status = 'resolved'")
        raise KeyError("a bug in the caller's code")

    with pytest.raises(KeyError):
        writer_of(store).submit(half)
    assert store.conversation("c1").status == "bot"


def test_a_full_queue_says_busy(tmp_path: Path) -> None:
    """It refuses at once instead of growing; what was queued is stored."""
    with Store(tmp_path / "x.db", max_waiting=2) as store, ThreadPoolExecutor(2) as pool:
        conversations = [make_conversation(id=f"c{i}") for i in range(3)]
        with held_up(writer_of(store), 2):
            futures = [pool.submit(store.add_conversation, conversation) for conversation in conversations[:2]]
            with writer_of(store)._changed:
                writer_of(store)._changed.wait_for(lambda: len(writer_of(store)._waiting) == 2)
            with pytest.raises(StoreError, match="busy: 2 writes are waiting"):
                store.add_conversation(conversations[2])
        for future in futures:
            future.result()
        assert store.counts()["conversations"] == 2


def test_closing_finishes_what_waits(tmp_path: Path) -> None:
    """Nobody who queued in time is left without an answer."""
    store = Store(tmp_path / "x.db")
    with ThreadPoolExecutor(5) as pool:
        with held_up(writer_of(store), 4):
            conversations = [make_conversation(id=f"c{i}") for i in range(4)]
            futures = [pool.submit(store.add_conversation, conversation) for conversation in conversations]
            with writer_of(store)._changed:
                writer_of(store)._changed.wait_for(lambda: len(writer_of(store)._waiting) == 4)
            closed = pool.submit(store.close)
        closed.result()
        assert [future.result() for future in futures] == [None] * 4
    with Store(tmp_path / "x.db", readonly=True) as store:
        assert store.counts()["conversations"] == 4


def test_reads_do_not_wait_for_the_writer(store: Store) -> None:
    """While a transaction is open they see what was committed before."""
    with held_up(writer_of(store), 0):
        assert store.counts()["signals"] == 0
        assert store.conversation("c1").status == "bot"


# --- failures: never a false acknowledgement --------------------------------------------------------------------------
def assert_refused_then_works(store: Store, breaking: Callable[[], Any], mending: Callable[[], Any]) -> None:
    """While broken nothing is acknowledged and nothing is stored; reads go on; mended, the same call succeeds."""
    breaking()
    with pytest.raises(StoreError, match="not stored"):
        store.add_signal(make_signal(comment="x" * 100_000))
    assert store.signals("c1") == []
    mending()
    assert store.add_signal(make_signal(comment="x" * 100_000)).seq == 1
    assert [signal.key for signal in store.signals("c1")] == ["s1"]


def test_a_full_disk_is_an_error_and_not_an_end(store: Store) -> None:
    """SQLITE_FULL, from a real page limit."""

    def limit(num_pages: int) -> Callable[[], Any]:
        return lambda: writer_of(store).submit(lambda conn: conn.execute(f"PRAGMA max_page_count = {num_pages}"))

    assert_refused_then_works(store, limit(1), limit(1_000_000))


def test_a_write_error_of_the_system_is_an_error_and_not_an_end(store: Store) -> None:
    """The kernel refuses to let any file grow past 4 KiB (EFBIG), as it would at a quota."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(num_bytes: int) -> Callable[[], Any]:
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))

    try:
        assert_refused_then_works(store, limit(4096), limit(hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def test_a_read_only_file_is_an_error_and_not_an_end(store: Store) -> None:
    """SQLITE_READONLY."""

    def query_only(value: str) -> Callable[[], Any]:
        return lambda: writer_of(store)._conn.execute(f"PRAGMA query_only = {value}")

    assert_refused_then_works(store, query_only("ON"), query_only("OFF"))


def test_a_busy_file_is_an_error_and_not_an_end(store: Store) -> None:
    """Another process keeps its transaction open for longer than we wait."""
    other = open_writer(store.path)
    begin, commit = "BEGIN IMMEDIATE", "COMMIT"
    assert_refused_then_works(store, lambda: other.execute(begin), lambda: other.execute(commit))
    other.close()


def test_a_failed_commit_fails_the_whole_batch(store: Store) -> None:
    """COMMIT itself fails (a foreign key checked late): good writes of the batch are not acknowledged either."""

    def poison(conn: Connection) -> None:
        conn.execute("PRAGMA defer_foreign_keys = ON")
        conn.execute("UPDATE conversations SET id = 'gone'")

    with ThreadPoolExecutor(4) as pool:
        with held_up(writer_of(store), 4):
            futures = [pool.submit(store.add_signal, make_signal(key=f"k{i}")) for i in range(3)]
            poisoned = pool.submit(writer_of(store).submit, poison)
        assert [outcome_of(future) for future in futures] == [StoreError] * 3
        assert outcome_of(poisoned) is StoreError
    assert store.signals("c1") == []
    assert store.add_signal(make_signal(key="k0")).key == "k0"


# --- what is refused at opening ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "version", [(3, 51, 3), (3, 51, 10), (3, 52, 0), (3, 53, 4), (3, 50, 7), (3, 44, 6), (4, 0, 0)]
)
def test_a_sound_sqlite_is_accepted(version: tuple[int, int, int]) -> None:
    """3.51.3 and later, and the two backports."""
    check_sqlite_version(version)


@pytest.mark.parametrize(
    "version", [(3, 51, 2), (3, 51, 0), (3, 50, 6), (3, 49, 9), (3, 45, 0), (3, 44, 5), (3, 40, 1)]
)
def test_an_sqlite_that_can_corrupt_a_shared_wal_is_refused(version: tuple[int, int, int]) -> None:
    """One line that says what to install."""
    with pytest.raises(StoreError, match=r"expected SQLite 3\.51\.3 or newer .* install the pysqlite3 wheel"):
        check_sqlite_version(version)


def test_a_connection_that_is_not_durable_is_refused(tmp_path: Path) -> None:
    """Memory cannot be WAL; NORMAL loses acknowledged rows at a power failure; ours, the control, passes."""
    with (
        closing(sqlite3.connect(":memory:")) as memory,
        pytest.raises(StoreError, match="expected journal_mode wal and synchronous 2"),
    ):
        check_durable(memory)
    conn = open_writer(tmp_path / "x.db")
    check_durable(conn)
    conn.execute("PRAGMA synchronous = NORMAL")
    with pytest.raises(StoreError, match=r"got wal and 1"):
        check_durable(conn)
    conn.close()


def test_foreign_keys_hold_on_every_connection(tmp_path: Path) -> None:
    """SQLite forgets them otherwise."""
    writer = open_writer(tmp_path / "x.db")
    reader = open_reader(tmp_path / "x.db")
    assert [conn.execute("PRAGMA foreign_keys").fetchone()[0] for conn in (writer, reader)] == [1, 1]
    with pytest.raises(SqliteError, match="readonly"), transaction(reader):
        reader.execute("CREATE TABLE t (x)")
    writer.close()
    reader.close()


_LOCK = """
import fcntl, os, sys
shared_first, shared_size = 0x40000002, 510  # https://www.sqlite.org/fileformat2.html, "The Lock-Byte Page"
try:
    fcntl.lockf(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB, shared_size, shared_first)
except OSError:
    print("in use")
else:
    print("free")
"""


def as_others_see(path: Path) -> str:
    """Whether another process would find the store in use. One that does not, and closes it, deletes the log."""
    return subprocess.run(
        [sys.executable, "-c", _LOCK, path], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize("also", [Store, fold_log])
def test_a_store_is_in_use_whatever_else_this_process_does_with_it(
    store: Store, tmp_path: Path, also: Callable[[Path], Store | None]
) -> None:
    """It opens the file once more, or empties its log. A log deleted under the writer would take later writes with it."""
    path = tmp_path / "rejoinder.db"
    again = also(path)
    try:
        assert as_others_see(path) == "in use"
    finally:
        if again is not None:
            again.close()


def test_a_descriptor_that_is_closed_gives_the_store_away(store: Store, tmp_path: Path) -> None:
    """The control: POSIX locks are the process's, and end with any descriptor of the file."""
    path = tmp_path / "rejoinder.db"
    assert as_others_see(path) == "in use"
    os.close(os.open(path, os.O_RDWR))
    assert as_others_see(path) == "free"
