"""Who computes with how many threads: it is settled once, by the thread itself, and whoever begins later has one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from bot.policy.threads import use_threads


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def in_a_new_thread(call: Callable[[], int]) -> int:
    with ThreadPoolExecutor(1) as alone:
        return alone.submit(call).result()


def test_a_thread_keeps_its_number_and_later_ones_have_one() -> None:
    """The thread with three looks again after another has asked for two, and after one that never asked."""
    with ThreadPoolExecutor(1, initializer=use_threads, initargs=(3,)) as first:
        assert first.submit(torch.get_num_threads).result() == 3
        assert in_a_new_thread(torch.get_num_threads) == 1
        with ThreadPoolExecutor(1, initializer=use_threads, initargs=(2,)) as second:
            assert second.submit(torch.get_num_threads).result() == 2
        assert first.submit(torch.get_num_threads).result() == 3


def test_without_it_the_last_who_asks_decides_for_all_that_have_not_looked_yet() -> None:
    """The control: what torch does by itself."""
    asked, others_asked, seen = threading.Event(), threading.Event(), list[int]()

    def asks_and_looks_later() -> None:
        torch.set_num_threads(3)
        asked.set()
        others_asked.wait(60)
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=asks_and_looks_later)
    thread.start()
    assert asked.wait(60)
    torch.set_num_threads(2)
    others_asked.set()
    thread.join()
    assert seen == [2]
