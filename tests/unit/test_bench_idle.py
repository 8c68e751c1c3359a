"""`rejoinder bench idle`: memory is read where it is, and files are allowed or asked for in one line."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from bot.errors import ConfigError, RejoinderError
from online_learning.bench.idle import allow_files, measure, resident_mib
from tests.service_rig import live, open_rig


def test_memory_of_a_process_is_read_in_mib() -> None:
    """This one holds between 10 MiB and 10 GiB; a process that is not there is one clear line."""
    assert 10 < resident_mib(os.getpid()) < 10240
    with pytest.raises(RejoinderError, match="expected /proc/999999999/status"):
        resident_mib(999_999_999)


def test_more_files_than_the_machine_allows_are_asked_for_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the hard limit the soft one is raised, and only then."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    allow_files(1000)
    allow_files(3256)
    assert asked == [(3256, 4096)]
    with pytest.raises(ConfigError, match="expected a limit of at least 5000, got 4096"):
        allow_files(5000)


async def test_sockets_are_opened_measured_and_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven on a server in this very process; none is left open."""
    monkeypatch.setattr("online_learning.bench.idle.SETTLE_S", 0.0)
    with open_rig(tmp_path, messages_per_min=1e6) as rig:
        async with live(rig.app) as server:
            report = await measure(server.port, os.getpid(), 7, ["Where is my card?"])

    assert report["sockets"] == 7
    assert set(report) == {"sockets", "mib", "kib_each", "mib_before", "mib_after_closing"}
    assert rig.app.state.service.num_sockets == 0
