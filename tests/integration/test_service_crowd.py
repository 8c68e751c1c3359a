"""A crowd on the real service: bounded, fair between addresses, told what is going on; and how a real process stops."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bot.limits import Turns
from bot.policy.types import ActRequest
from tests.service_rig import Live, Tab, live, open_rig

TOKENS = ("In", " five", " days.")
ELSEWHERE = {"local_addr": ("127.0.0.2", 0)}
"""Another address of this machine: the whole of 127/8 is."""


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that is told by no frame."""
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110  what is waited for is the state of several parts, not one event
            await asyncio.sleep(0.005)


async def ask(tab: Tab, number: int = 0) -> None:
    await tab.send(type="message", client_id=f"a{number}", text="Where is my card?")


async def test_a_crowd_from_one_address_delays_another_by_one_turn(tmp_path: Path) -> None:
    """One slot, three chats of the crowd wait for it; whoever comes from elsewhere is answered before two of them."""
    with open_rig(tmp_path, tokens=TOKENS, max_replies=1) as rig:
        rig.policy.hold()
        async with live(rig.app) as server, AsyncExitStack() as tabs_open:
            crowd = [await opened(tabs_open, server) for _ in range(4)]
            other = await opened(tabs_open, server, **ELSEWHERE)
            for number, tab in enumerate([*crowd, other]):
                await tab.send(type="message", client_id="a", text="other" if tab is other else f"crowd {number}")
                await until(lambda n=number: rig.hub.turns.num_running + rig.hub.turns.num_waiting > n)  # type: ignore[misc]
            rig.policy.step(len(TOKENS) * 5)
            for tab in [*crowd, other]:
                await tab.next_reply()
        asked = [request.query for request in rig.policy.requests if isinstance(request, ActRequest)]
        assert asked == ["crowd 0", "crowd 1", "other", "crowd 2", "crowd 3"]


async def test_over_the_bound_messages_are_refused_as_busy_and_kept_nowhere(tmp_path: Path) -> None:
    """One reply is made and one message waits: the third is refused, and its person may send it again."""
    with open_rig(tmp_path, tokens=TOKENS, max_replies=1, max_waiting=1) as rig:
        rig.policy.hold()
        async with live(rig.app) as server, AsyncExitStack() as tabs_open:
            tabs = [await opened(tabs_open, server) for _ in range(3)]
            for number, tab in enumerate(tabs[:2]):
                await ask(tab)
                await tab.next("ack")
                await until(lambda n=number: rig.hub.turns.num_running + rig.hub.turns.num_waiting > n)  # type: ignore[misc]
            await ask(tabs[2])
            refused = await tabs[2].next("error")
            assert (refused["code"], refused["client_id"]) == ("busy", "a0")
            assert refused["retry_after_s"] > 0
            assert len(rig.store.messages(tabs[2].hello["conversation_id"])) == 1  # the greeting
            rig.policy.step(len(TOKENS) * 3)
            for tab in tabs[:2]:
                await tab.next_reply()
            await ask(tabs[2])
            await tabs[2].next_reply()


async def test_the_replies_of_who_asks_in_haste_begin_after_those_of_others(tmp_path: Path) -> None:
    """Eve's second message at once finds Kim's reply beginning. Bob's, who came after her and asks his first, begins at
    once; hers is acknowledged, her page goes on hearing, and it is answered when both have theirs. The control is Bob."""
    with open_rig(tmp_path, tokens=TOKENS, messages_at_once=2.0) as rig:
        rig.hub.turns = turns = Turns(64, 512, rig.hub.clock, longest_gap_s=1e6)
        async with live(rig.app) as server, AsyncExitStack() as tabs_open:
            eve, kim, bob = [await opened(tabs_open, server) for _ in range(3)]
            await eve.send(type="message", client_id="1", text="eve 1")
            await eve.next_reply()
            rig.policy.hold()
            await kim.send(type="message", client_id="1", text="kim")
            await until(lambda: turns.num_running == 1)
            await eve.send(type="message", client_id="2", text="eve 2")
            await until(lambda: turns.num_waiting == 1)
            await bob.send(type="message", client_id="1", text="bob")
            await until(lambda: turns.num_running == 2)
            assert "eve 2" in [line.text for line in rig.store.messages(eve.hello["conversation_id"])]
            await eve.send(type="ping")
            await eve.next("pong")
            rig.policy.step(len(TOKENS) * 3)
            for tab in (kim, bob, eve):
                await tab.next_reply()
        asked = [request.query for request in rig.policy.requests if isinstance(request, ActRequest)]
        assert asked == ["eve 1", "kim", "bob", "eve 2"]


@pytest.mark.parametrize(("pause_s", "heard"), [(3600.0, ["too_much"]), (0.0, ["too_much"] * 3)])
async def test_a_tab_that_was_refused_is_not_read_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pause_s: float, heard: list[str]
) -> None:
    """It goes on sending, and nothing of that is looked at, while another person is answered. The control: without the
    pause each of its frames is read and refused."""
    monkeypatch.setattr("bot.routes.chat.PAUSE_S", pause_s)
    with open_rig(tmp_path, tokens=TOKENS, messages_per_min=1.0) as rig:
        async with live(rig.app) as server, AsyncExitStack() as tabs_open:
            eve, bob = [await opened(tabs_open, server) for _ in range(2)]
            for number in range(4):
                await ask(eve, number)
            told = [(await eve.next("error"))["code"] for _ in heard]
            await ask(bob)
            await bob.next_reply()
            assert told == heard
            assert rig.app.state.service.metrics.by_label(rig.app.state.service.metrics.errors) == {
                "too_much": float(len(heard))
            }


async def test_one_address_has_so_many_sockets_and_no_more(tmp_path: Path) -> None:
    """The third is refused with 429; another address has its own; who leaves makes room."""
    with open_rig(tmp_path, address_sockets=2) as rig:
        async with live(rig.app) as server, AsyncExitStack() as tabs_open:
            first, _ = await opened(tabs_open, server), await opened(tabs_open, server)
            with pytest.raises(InvalidStatus) as refused:
                await opened(tabs_open, server)
            assert refused.value.response.status_code == 429
            await opened(tabs_open, server, **ELSEWHERE)
            await first.socket.close()
            await until(lambda: rig.app.state.service.num_sockets == 2)
            await opened(tabs_open, server)


async def test_one_address_sends_so_many_messages_a_minute_whoever_they_are(tmp_path: Path) -> None:
    """Two people of one address share two messages a minute; a third elsewhere is not concerned."""
    with open_rig(tmp_path, tokens=TOKENS, address_messages_per_min=2.0) as rig:
        async with live(rig.app) as server, AsyncExitStack() as tabs_open:
            here, there = (
                [await opened(tabs_open, server) for _ in range(2)],
                await opened(tabs_open, server, **ELSEWHERE),
            )
            for tab in here:
                await ask(tab)
                await tab.next_reply()
            await ask(here[0], 1)
            assert (await here[0].next("error"))["code"] == "too_much"
            await ask(there)
            await there.next_reply()


async def test_a_server_that_stops_lets_go_of_those_who_wait(tmp_path: Path) -> None:
    """The running reply ends; the waiting message stays unanswered and is answered when its person comes back."""
    with open_rig(tmp_path, tokens=TOKENS, max_replies=1) as rig:
        rig.policy.hold()
        async with live(rig.app) as server, AsyncExitStack() as tabs_open:
            first, second = [await opened(tabs_open, server) for _ in range(2)]
            for number, tab in enumerate((first, second)):
                await ask(tab)
                await until(lambda n=number: rig.hub.turns.num_running + rig.hub.turns.num_waiting > n)  # type: ignore[misc]
            stopping = asyncio.create_task(rig.hub.drain())
            await until(lambda: rig.hub.turns.num_waiting == 0)
            rig.policy.step(len(TOKENS))
            await first.next_reply()
            await stopping
            chat = second.hello["conversation_id"]
        assert [message.role for message in rig.store.messages(chat)] == ["bot", "user"]


# --- stopping, as a real process --------------------------------------------------------------------------------------
@pytest.mark.timeout(300)
async def test_sigterm_lets_running_streams_end_and_the_process_leaves_with_0(tmp_path: Path) -> None:
    """Not ready at once, no new chats, the stream goes on to its end, 1012, everything closed, exit code 0. The child is
    `tests/draining_child.py`: it writes one token for each line it reads."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.draining_child", str(tmp_path)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdin is not None
    assert child.stdout is not None
    async with asyncio.timeout(240):
        try:
            server = Live(int(await child.stdout.readline()), server=None)  # type: ignore[arg-type]
            async with server.tab() as tab, httpx.AsyncClient(base_url=server.http) as http:
                await ask(tab)
                child.stdin.write(b"\n")
                await tab.next("delta")
                child.terminate()
                while (ready := await http.get("/health/ready")).status_code != 503:
                    pass
                assert ready.json()["reason"] == "draining"
                child.stdin.write(b"\n" * 2)
                assert (await tab.next_reply())["text"] == "In five days."
                with pytest.raises(ConnectionClosed) as closed:
                    await tab.next()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1012
            assert (await child.stdout.readline()).decode().strip() == "closed"
            assert await child.wait() == 0
        finally:
            if child.returncode is None:
                child.kill()


async def opened(stack: AsyncExitStack, server: Live, **options: Any) -> Tab:
    """A page that said hello."""
    tab = await stack.enter_async_context(server.socket(**options))
    await tab.say_hello()
    return tab
