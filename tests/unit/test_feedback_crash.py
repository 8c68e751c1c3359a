"""kill -9 and two processes on one file: nothing acknowledged is lost, nothing is there twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.feedback.store import Store
from bot.feedback.store_connection import open_reader
from tests.builders import make_conversation, make_decision, make_message, make_signal

NUM_CRASHES = int(os.environ.get("REJOINDER_CRASHES", "5"))
ROOT = Path(__file__).parents[2]

CHILD = """
import json, sys, threading
from pathlib import Path
from bot.feedback.store import Store
from tests.builders import make_signal

path, author, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
store, printing = Store(path), threading.Lock()

def add(worker):
    for i in range(count):
        stored = store.add_signal(make_signal(author=author, key=f"{worker}-{i}"))
        with printing:
            print(json.dumps([stored.key, stored.seq]), flush=True)

workers = [threading.Thread(target=add, args=[worker]) for worker in range(4)]
for worker in workers: worker.start()
for worker in workers: worker.join()
store.close()
"""
"""Four threads add signals and print each one's key once it is acknowledged."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with conversation c1 and decision d1, closed."""
    path = tmp_path / "rejoinder.db"
    with Store(path) as store:
        store.add_conversation(make_conversation())
        store.add_reply(make_message(role="bot", decision_id="d1"), make_decision())
    return path


def start_child(path: Path, author: str, count: int) -> subprocess.Popen[str]:
    """A second process that writes `4 * count` signals of `author`."""
    command = [sys.executable, "-c", CHILD, str(path), author, str(count)]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ, cwd=ROOT)


def acknowledged(lines: Iterator[str]) -> dict[str, int]:
    """Key -> seq of whole lines; a kill may cut the last one."""
    return dict(json.loads(line) for line in lines if line.endswith("]\n"))


@pytest.mark.parametrize("run", range(NUM_CRASHES))
def test_a_killed_writer_loses_nothing_it_acknowledged(path: Path, run: int) -> None:
    """Killed after a random number of acknowledgements, with writes in flight; then every key is sent again."""
    child = start_child(path, "p1", 1_000_000)
    assert child.stdout is not None
    num_before_kill = random.Random(run).randint(1, 400)
    before = [child.stdout.readline() for _ in range(num_before_kill)]
    child.send_signal(signal.SIGKILL)
    acks = acknowledged(iter([*before, *child.stdout]))
    child.wait()
    child.stdout.close()

    assert len(acks) >= num_before_kill
    with Store(path) as store:
        stored = {found.key: found.seq for found in store.signals("c1")}
        assert stored.items() >= acks.items()
        assert store.counts()["signals"] == len(stored)
        for key, seq in stored.items():
            assert store.add_signal(make_signal(key=key)).seq == seq
        assert store.counts()["signals"] == len(stored)
    assert_sound(path)


def test_two_processes_write_to_one_file(path: Path) -> None:
    """Server and learner: both get every write through, and sequences have no gap."""
    child = start_child(path, "child", 50)
    assert child.stdout is not None
    with Store(path) as store:
        mine = {key: store.add_signal(make_signal(key=key)).seq for key in (f"own-{i}" for i in range(200))}
        theirs = acknowledged(iter(child.stdout))
        assert child.wait() == 0
        child.stdout.close()
        assert sorted([*mine.values(), *theirs.values()]) == list(range(1, 401))
        assert [found.seq for found in store.signals("c1")] == list(range(1, 401))
    assert_sound(path)


def assert_sound(path: Path) -> None:
    """SQLite's own check of the whole file."""
    conn = open_reader(path)
    assert conn.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    assert conn.execute("PRAGMA foreign_key_check").fetchall() == []
    conn.close()
