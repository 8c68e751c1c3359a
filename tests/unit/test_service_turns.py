"""Turns and places: nobody crowds out the others, nothing grows without end, and whoever leaves gives back."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from bot.errors import TooMuch
from bot.limits import Places, Turns
from bot.wire_errors import Busy
from tests.service_rig import Clock


class Line:
    """People who wait for turns, one slot by default; `served` says in which order they had theirs."""

    def __init__(self, max_running: int = 1, max_waiting: int = 100) -> None:
        self.clock = Clock()
        self.turns = Turns(max_running, max_waiting, self.clock)
        self.served: list[str] = []
        self.leave = asyncio.Semaphore(0)
        self.tasks: list[asyncio.Task[None]] = []

    async def come(self, *names: str) -> None:
        """`home/ann` is Ann, who comes from there. Returns when all stand in line."""
        for name in names:
            self.tasks.append(asyncio.create_task(self._one(name)))
            await asyncio.sleep(0)

    async def _one(self, name: str) -> None:
        address, person = name.split("/")
        async with self.turns.turn(address, person):
            self.served.append(name)
            await self.leave.acquire()

    async def let_all(self) -> None:
        """Everybody has their turn."""
        for _ in self.tasks:
            self.leave.release()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_addresses_take_turns_whatever_they_ask() -> None:
    """Five from the abuser's address wait; Ann comes last from her own, and is served second. The control: in the order
    they came she would have been the seventh."""
    line = Line()
    await line.come(*["mall/a"] * 6, "home/ann")
    await line.let_all()

    assert line.served == ["mall/a", "mall/a", "home/ann", *["mall/a"] * 4]


async def test_people_of_one_address_take_turns() -> None:
    """A household: the one who asks a lot does not delay the other by more than one turn."""
    line = Line()
    await line.come("home/x", "home/bob", "home/bob", "home/bob", "home/ann")
    await line.let_all()

    assert line.served == ["home/x", "home/bob", "home/ann", "home/bob", "home/bob"]


async def test_so_many_run_at_once_and_a_persons_own_stay_in_order() -> None:
    """Three slots: the fourth waits until one leaves."""
    line = Line(max_running=3)
    await line.come(*(f"home{i}/p" for i in range(5)))
    assert (len(line.served), line.turns.num_running, line.turns.num_waiting) == (3, 3, 2)
    line.leave.release()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert line.served == [f"home{i}/p" for i in range(4)]
    await line.let_all()
    assert (line.turns.num_running, line.turns.num_waiting) == (0, 0)


async def test_a_full_line_refuses_with_an_estimate_of_the_wait() -> None:
    """Turns take 4 s; with 2 slots and 4 in line one that comes now would wait about 5 * 4 / 2 s."""
    line = Line(max_running=2, max_waiting=4)
    await line.come("a/a", "b/b")
    line.clock.now += 4
    await line.let_all()
    assert line.turns.wait_s == 0
    line.tasks.clear()
    await line.come(*(f"home{i}/p" for i in range(6)))
    with pytest.raises(Busy, match="at most 4 messages waiting") as refused:
        line.turns.check("").give_back()
    assert refused.value.retry_after_s == pytest.approx(10.0)
    await line.let_all()
    line.turns.check("").give_back()


async def test_who_gives_up_is_passed_over_and_leaves_no_gap() -> None:
    """Cancelled while waiting, and at the very moment of being let in: the slot goes to the next."""
    line = Line()
    async with AsyncExitStack() as first:
        await first.enter_async_context(line.turns.turn("a", "a"))
        await line.come("b/b", "c/c", "d/d")
        line.tasks[0].cancel()
        await asyncio.sleep(0)
    line.tasks[1].cancel()  # c was let in just now, and has not woken up yet
    await line.let_all()

    assert line.served == ["d/d"]
    assert (line.turns.num_running, line.turns.num_waiting) == (0, 0)


async def test_who_waits_can_be_dismissed_and_who_runs_goes_on() -> None:
    """As a server does that is told to stop."""
    line = Line()
    await line.come("a/a", "b/b", "c/c")
    line.turns.dismiss()
    await line.let_all()

    assert [task.cancelled() for task in line.tasks] == [False, True, True]
    assert (line.served, line.turns.num_running, line.turns.num_waiting) == (["a/a"], 0, 0)


def test_places_are_counted_for_each_address_and_given_back() -> None:
    """Two each; another address has its own."""
    places = Places("open chats", 2)
    places.take("a")
    places.take("a")
    places.take("b")
    with pytest.raises(TooMuch, match="open chats: expected at most 2 at the same time"):
        places.take("a")
    places.leave("a")
    places.take("a")
