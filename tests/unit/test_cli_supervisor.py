"""The supervisor with tiny children: restart, give up, clean stop, and no orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.supervisor import Child, Crashes, Patience, Supervisor, given_up_marker

ROOT = Path(__file__).parents[2]
QUICK = Patience(first_delay_s=0.01, max_delay_s=0.02, give_up_after=3, stop_s=5.0)
LIVES = "import time; print('alive', flush=True); time.sleep(60)"
DIES = "import sys; print('dying', flush=True); sys.exit(3)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('alive', flush=True); time.sleep(60)"


class Heard:
    """Collects lines; `until` waits for one."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._more = threading.Condition()

    def __call__(self, line: str) -> None:
        with self._more:
            self.lines.append(line)
            self._more.notify_all()

    def until(self, part: str, times: int = 1) -> None:
        with self._more:
            came = self._more.wait_for(lambda: sum(part in line for line in self.lines) >= times, timeout=20)
        assert came, f"{part!r} did not come {times} times: {self.lines}"


def a_child(name: str, code: str, *, essential: bool = True) -> Child:
    return Child(name, (sys.executable, "-c", code), essential)


class Running:
    """A supervisor at work in a thread."""

    def __init__(self, logs: Path, *children: Child, patience: Patience = QUICK) -> None:
        self.heard = Heard()
        self.asked: list[int] = []
        self.supervisor = Supervisor(children, logs, self.heard, patience)
        self._kept: list[bool] = []
        self._thread = threading.Thread(target=lambda: self._kept.append(self.supervisor.run(self.asked)))
        self._thread.start()

    def join(self) -> bool:
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self._kept[0]

    def end(self) -> bool:
        self.asked.append(signal.SIGTERM)
        return self.join()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[list[Running]]:
    started: list[Running] = []
    yield started
    for one in started:
        one.supervisor.stop()
        one.join()


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie that nobody has read counts as ended)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_delays_double_and_the_window_forgets() -> None:
    """0.5, 1, 2, 4, then no more; after a quiet window it starts again at 0.5."""
    now = [0.0]
    crashes = Crashes(Patience(), clock=lambda: now[0])
    assert [crashes.next_delay_s() for _ in range(5)] == [0.5, 1.0, 2.0, 4.0, None]
    now[0] = 601.0
    assert crashes.next_delay_s() == 0.5


def test_delays_are_bounded() -> None:
    """With more patience the delay stops growing at its maximum."""
    crashes = Crashes(Patience(give_up_after=20), clock=lambda: 0.0)
    assert [crashes.next_delay_s() for _ in range(9)][-2:] == [30.0, 30.0]


def test_a_killed_child_comes_back(tmp_path: Path, running: list[Running]) -> None:
    """kill -9 of the child: said in one line, and another one lives."""
    one = Running(tmp_path, a_child("serve", LIVES))
    running.append(one)
    one.heard.until("[serve] alive")
    first = one.supervisor.pids()["serve"]
    os.kill(first, signal.SIGKILL)
    one.heard.until("serve was ended by SIGKILL; starting it again in 0.01 s")
    one.heard.until("[serve] alive", times=2)
    assert one.supervisor.pids()["serve"] != first


def test_a_learner_that_keeps_crashing_is_given_up_and_the_server_goes_on(
    tmp_path: Path, running: list[Running]
) -> None:
    """Three crashes are enough for this patience; the server is the same process as before."""
    one = Running(tmp_path, a_child("serve", LIVES), a_child("learn", DIES, essential=False))
    running.append(one)
    one.heard.until("[serve] alive")
    before = one.supervisor.pids()["serve"]
    one.heard.until("learn exited with 3: 3 times in 10 min, so it is not started again")
    assert sum("[learn] dying" in line for line in one.heard.lines) == 3
    assert one.supervisor.pids() == {"serve": before}
    assert given_up_marker(tmp_path, "learn").exists()
    assert not given_up_marker(tmp_path, "serve").exists()
    assert one.end() is True


def test_a_child_that_is_started_again_is_no_longer_given_up(tmp_path: Path, running: list[Running]) -> None:
    """The marker of an earlier run goes."""
    given_up_marker(tmp_path, "learn").touch()
    one = Running(tmp_path, a_child("learn", LIVES, essential=False))
    running.append(one)
    one.heard.until("[learn] alive")
    assert not given_up_marker(tmp_path, "learn").exists()


def test_a_server_that_keeps_crashing_ends_everything(tmp_path: Path) -> None:
    """Nothing is left to supervise: the learner is stopped too and the run has failed."""
    one = Running(tmp_path, a_child("serve", DIES), a_child("learn", LIVES, essential=False))
    assert one.join() is False
    assert one.supervisor.pids() == {}


def test_a_stop_ends_all_children_without_a_restart(tmp_path: Path) -> None:
    """SIGTERM reaches each; nobody is called crashed for it."""
    one = Running(tmp_path, a_child("serve", LIVES), a_child("learn", LIVES, essential=False))
    one.heard.until("[serve] alive")
    one.heard.until("[learn] alive")
    pids = one.supervisor.pids().values()
    assert one.end() is True
    assert all(map(gone, pids))
    assert not [line for line in one.heard.lines if "again" in line]


def test_a_child_that_ignores_sigterm_is_killed_when_patience_ends(tmp_path: Path) -> None:
    """The end comes in bounded time."""
    one = Running(tmp_path, a_child("serve", STUBBORN), patience=Patience(stop_s=0.2))
    one.heard.until("alive")
    assert one.end() is True


def test_asking_twice_does_not_wait(tmp_path: Path) -> None:
    """A second Ctrl-C kills at once, whatever the patience (here a minute)."""
    one = Running(tmp_path, a_child("serve", STUBBORN), patience=Patience(stop_s=60.0))
    one.heard.until("alive")
    one.asked += [signal.SIGINT, signal.SIGINT]
    assert one.join() is True


def test_every_line_is_also_in_the_childs_log(tmp_path: Path) -> None:
    """One file a child."""
    one = Running(tmp_path / "logs", a_child("serve", LIVES), a_child("learn", LIVES, essential=False))
    one.heard.until("[serve] alive")
    one.heard.until("[learn] alive")
    one.end()
    assert (tmp_path / "logs" / "serve.log").read_text().endswith(" alive\n")
    assert (tmp_path / "logs" / "learn.log").read_text().endswith(" alive\n")


def test_children_die_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    """kill -9 of the supervisor leaves no orphan; the pipe's end tells when the last of them has gone."""
    code = (
        "import sys; from pathlib import Path; from bot.supervisor import *\n"
        f"children = [Child('serve', (sys.executable, '-c', {LIVES!r}))]\n"
        "def say(line): print(line, supervisor.pids()['serve'], flush=True)\n"
        "supervisor = Supervisor(children, Path(sys.argv[1]), say)\n"
        "supervisor.run()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline().split()[-1])
        watcher = os.pidfd_open(child)
        parent.kill()
    ended = threading.Thread(target=_wait_for_end, args=(watcher,))
    ended.start()
    ended.join(10)
    assert not ended.is_alive()
    assert gone(child)


def _wait_for_end(watcher: int) -> None:
    import select

    select.select([watcher], [], [], 15)
    os.close(watcher)
