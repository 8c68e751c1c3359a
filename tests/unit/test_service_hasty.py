"""The hasty wait for gaps: they are told by their buckets, one of them begins at a time, and none waits for ever."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest

from bot.errors import TooMuch
from bot.limits import TokenBuckets, Turns
from bot.wire_errors import Busy
from tests.service_rig import Clock

NEVER_S = 1e6


class Floor:
    """Turns of named people, the hasty ones with a `!`. `let_in` says who had a turn, in order; they stay until told."""

    def __init__(self, longest_gap_s: float = NEVER_S, max_running: int = 64) -> None:
        self.turns = Turns(max_running, 100, Clock(), longest_gap_s)
        self.let_in: list[str] = []
        self.say: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, *names: str) -> None:
        for name in names:
            self.tasks[name] = asyncio.create_task(self._one(name))
            await settled()

    async def _one(self, name: str) -> None:
        async with self.turns.turn(name, name, hasty=name.endswith("!")) as begun:
            self.let_in.append(name)
            await self.say[name].wait()
            begun()
            await asyncio.Event().wait()

    async def until(self, num_let_in: int) -> None:
        """A timer lets them in, which tells nobody else."""
        async with asyncio.timeout(60):
            while len(self.let_in) < num_let_in:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def hear_from(self, name: str) -> None:
        """The first piece of their reply is there; the rest is still to come."""
        self.say[name].set()
        await settled()

    async def leave(self, name: str) -> None:
        self.tasks[name].cancel()
        await settled()


async def settled() -> None:
    """Whoever can go on has gone on."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_hasty_persons_reply_begins_when_no_other_is_beginning() -> None:
    """Ann's reply goes on when its first piece is there: that is a gap. The control: a calm one begins beside hers."""
    floor = Floor()
    await floor.come("ann", "eve!", "bob")
    assert floor.let_in == ["ann", "bob"]
    await floor.hear_from("ann")
    assert floor.let_in == ["ann", "bob"]
    await floor.hear_from("bob")
    assert floor.let_in == ["ann", "bob", "eve!"]


async def test_of_the_hasty_one_begins_at_a_time_and_the_calm_need_not_wait_for_it() -> None:
    """Mal waits for Eve's reply to begin; Kim does not."""
    floor = Floor()
    await floor.come("eve!", "mal!", "kim")
    assert floor.let_in == ["eve!", "kim"]
    await floor.leave("eve!")
    await floor.leave("kim")
    assert floor.let_in == ["eve!", "kim", "mal!"]


async def test_the_hasty_do_not_wait_for_ever() -> None:
    """Ann's reply never begins, and after the longest gap Eve's does; Mal, who came after her, a gap later."""
    floor = Floor(longest_gap_s=0.01)
    await floor.come("ann", "eve!", "mal!")
    await floor.until(3)
    assert floor.let_in == ["ann", "eve!", "mal!"]


async def test_hasty_people_whose_replies_take_long_leave_places_to_the_calm() -> None:
    """Of eight places they hold two, however long and however many come; the calm have the other six. The control: with
    the two gone the next two begin."""
    floor = Floor(longest_gap_s=0.001, max_running=8)
    hasty = [f"mal {i}!" for i in range(6)]
    await floor.come(*hasty)
    await floor.until(2)
    await floor.come(*(f"kim {i}" for i in range(6)))
    assert floor.let_in[2:] == [f"kim {i}" for i in range(6)]
    await asyncio.sleep(0.01)
    assert floor.turns.num_running == 8
    await floor.leave(hasty[0])
    await floor.leave(hasty[1])
    await floor.until(10)
    assert floor.let_in[8:] == hasty[2:4]


async def test_where_the_calm_hold_all_places_one_of_the_hasty_is_served_beside_them() -> None:
    """One more than there are places, and only one."""
    floor = Floor(longest_gap_s=0.001, max_running=2)
    await floor.come("ann", "bob", "kim", "eve!", "mal!")
    await floor.until(3)
    assert floor.let_in == ["ann", "bob", "eve!"]
    await asyncio.sleep(0.01)
    assert floor.turns.num_running == 3


async def test_who_gives_up_at_the_moment_of_being_let_in_leaves_the_gap_to_the_next() -> None:
    """Eve is let in and cancelled before she wakes up: Mal begins."""
    floor = Floor()
    await floor.come("ann", "eve!", "mal!")
    floor.tasks["ann"].cancel()
    while floor.turns.num_waiting > 1:  # noqa: ASYNC110  up to the very step in which she is let in
        await asyncio.sleep(0)
    floor.tasks["eve!"].cancel()
    await settled()
    assert floor.let_in == ["ann", "mal!"]


async def test_one_address_has_half_of_the_line_and_others_the_rest() -> None:
    """Four may wait, of one address two: the third is told that its network has so many, somebody else may wait."""
    turns, leave = Turns(1, 4, Clock()), asyncio.Event()

    async def one(address: str) -> None:
        async with turns.turn(address, "p"):
            await leave.wait()

    tasks = [asyncio.create_task(one("mall")) for _ in range(3)]
    await settled()
    with pytest.raises(Busy, match="at most 2 messages of your network waiting"):
        turns.check("mall")
    turns.check("home")
    leave.set()
    await asyncio.gather(*tasks)
    turns.check("mall")


def test_whoever_used_half_of_their_bucket_is_hasty_until_it_fills() -> None:
    """Six at once, 20 a minute: with the fourth less than three are left; six seconds later there are four again."""
    clock = Clock()
    buckets = TokenBuckets("messages", 20.0, clock, burst=6.0)
    assert [buckets.take("p") for _ in range(4)] == [False, False, False, True]
    clock.now += 6
    assert buckets.take("p") is False


def test_a_burst_is_no_more_than_a_minutes_worth_and_no_less_than_a_seconds() -> None:
    """Two a minute: two at once, not six. A million a minute: whoever asks six at once is not hasty."""
    slow, fast = TokenBuckets("messages", 2.0, Clock(), burst=6.0), TokenBuckets("messages", 1e6, Clock(), burst=6.0)
    slow.take("p")
    slow.take("p")
    with pytest.raises(TooMuch):
        slow.take("p")
    assert not any(fast.take("p") for _ in range(100))


@pytest.mark.parametrize(
    ("address_gap_s", "others_come", "let_in"),
    [
        (NEVER_S, True, ["eve", "mal"]),
        (0.01, True, ["eve", "eve again", "mal"]),
        (NEVER_S, False, ["eve", "eve again", "mal"]),
    ],
)
async def test_of_one_hasty_address_the_next_begins_a_gap_later_while_others_come(
    address_gap_s: float, others_come: bool, let_in: list[str]
) -> None:
    """Eve's second message finds nothing beginning and waits nevertheless; Mal's, from elsewhere, does not. The controls:
    after the gap hers begins too, and at once where nobody calm has come for a second."""
    clock, begun_names = Clock(), set[str]()
    turns = Turns(64, 100, clock, NEVER_S, address_gap_s)

    async def one(address: str, name: str, *, hasty: bool = True) -> None:
        async with turns.turn(address, name, hasty=hasty) as begun:
            begun_names.add(name)
            begun()

    await one("10.0.0.3", "kim", hasty=False)
    clock.now += 0.5 if others_come else 1.5
    arrivals = (("10.0.0.1", "eve"), ("10.0.0.1", "eve again"), ("10.0.0.2", "mal"))
    tasks = [asyncio.create_task(one(*arrival)) for arrival in arrivals]
    async with asyncio.timeout(60):
        while len(begun_names) < 1 + len(let_in):  # noqa: ASYNC110  a timer lets them in, which tells nobody else
            await asyncio.sleep(0.001)
    await settled()
    assert sorted(begun_names) == sorted(["kim", *let_in])
    for task in tasks:
        task.cancel()
