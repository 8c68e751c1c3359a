"""The chat over real sockets: dropped connections, several tabs, slow readers, stopping the server, nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from bot import hub
from bot.listener import Listener
from bot.room import MAX_WAITING
from bot.routes import chat
from bot.service import DrainingServer
from bot.wire import PongOut
from tests.service_rig import Live, Rig, Tab, live, open_rig

TOKENS = ("In", " five", " working", " days.")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with open_rig(tmp_path, tokens=TOKENS) as rig:
        yield rig


@contextlib.asynccontextmanager
async def heard(caplog: pytest.LogCaptureFixture, name: str) -> AsyncIterator[None]:
    """What a logger says that passes nothing on to the root's."""
    logging.getLogger(name).addHandler(caplog.handler)
    try:
        yield
    finally:
        logging.getLogger(name).removeHandler(caplog.handler)


@pytest.mark.parametrize("path", ["/ws/chat", "/ws/operator"])
async def test_a_refused_handshake_is_no_crash_in_the_log(
    rig: Rig, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    """The control: a route that ends without an answer is one."""

    async def silent(websocket: WebSocket) -> None:
        """Says nothing."""

    rig.app.add_api_websocket_route("/ws/silent", silent)
    async with live(rig.app) as server, heard(caplog, "uvicorn.error"):
        for asked, status in ((path, (401, 403)), ("/ws/silent", (500,))):
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"ws://127.0.0.1:{server.port}{asked}", origin=Origin("https://evil.example"))
            assert refused.value.response.status_code in status
            lines = [line.message for line in caplog.records if line.levelno >= logging.ERROR]
            assert lines == (["ASGI callable returned without completing handshake."] if asked == "/ws/silent" else [])


async def until(condition: Any) -> None:
    """Let the loop run until it holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  what is waited for is the state of several parts, not one event
            await asyncio.sleep(0.005)


def said(frames: list[dict[str, Any]]) -> str:
    return "".join(frame["text"] for frame in frames if frame["type"] == "delta")


# --- coming back ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seen", [0, 1, 3])
async def test_a_connection_dropped_within_a_reply_loses_and_doubles_nothing(rig: Rig, seen: int) -> None:
    """Whatever was seen before: partial plus the rest is the whole reply, made once."""
    rig.policy.hold()
    async with live(rig.app) as server:
        async with server.tab() as tab:
            await tab.send(type="message", client_id="a1", text="Where is my card?")
            await tab.next("ack")
            rig.policy.step(seen)
            for _ in range(seen):
                await tab.next("delta")
            tab.socket.transport.abort()
        async with server.tab(**tab.credentials, last_seq=2) as again:
            partial = again.hello["partial"]
            assert (partial["text"] if partial else "") == "".join(TOKENS[:seen])
            assert again.hello["messages"] == []
            rig.policy.step(len(TOKENS))
            reply = await again.next_reply()
            assert (partial["text"] if partial else "") + said(again.frames) == reply["text"] == "".join(TOKENS)
    assert rig.replier.num_replies == 1
    assert [m.role for m in rig.store.messages(tab.hello["conversation_id"])] == ["bot", "user", "bot"]


async def test_a_reply_finished_while_nobody_listened_is_in_the_next_hello(rig: Rig) -> None:
    """It goes on without a socket and is there when the person comes back."""
    rig.policy.hold()
    async with live(rig.app) as server:
        async with server.tab() as tab:
            await tab.send(type="message", client_id="a1", text="Where is my card?")
            await tab.next("ack")
        rig.policy.step(len(TOKENS))
        await until(lambda: not rig.hub.rooms)
        async with server.tab(**tab.credentials, last_seq=2) as again:
            assert [m["text"] for m in again.hello["messages"]] == ["".join(TOKENS)]
            assert again.hello["partial"] is None


async def test_a_reply_nobody_comes_back_for_is_cancelled_and_what_was_written_is_kept(tmp_path: Path) -> None:
    """After the grace; the room is freed."""
    with open_rig(tmp_path, reconnect_grace_s=0.05) as rig:
        rig.policy.hold()
        async with live(rig.app) as server:
            async with server.tab() as tab:
                await tab.send(type="message", client_id="a1", text="Where is my card?")
                rig.policy.step()
                await tab.next("delta")
            await asyncio.wait_for(rig.policy.cancelled.wait(), 10)
            await until(lambda: not rig.hub.rooms)
        last = rig.store.messages(tab.hello["conversation_id"])[-1]
        assert (last.text, last.stop_reason) == ("In", "cancelled")


async def test_a_message_left_without_a_reply_gets_one_when_its_person_comes_back(rig: Rig) -> None:
    """A server that died between message and reply."""
    async with live(rig.app) as server:
        rig.replier.crash = RuntimeError("the process dies here")
        async with server.tab() as tab:
            await tab.send(type="message", client_id="a1", text="Where is my card?")
            await tab.next("error")
        rig.replier.crash = None
        async with server.tab(**tab.credentials) as again:
            assert (await again.next_reply())["text"] == "".join(TOKENS)


async def test_stop_ends_the_reply_and_tells_what_was_written(rig: Rig) -> None:
    """The partial text becomes a whole message; the next question is answered."""
    rig.policy.hold()
    async with live(rig.app) as server, server.tab() as tab:
        await tab.send(type="message", client_id="a1", text="Where is my card?")
        rig.policy.step(2)
        await tab.next("delta")
        await tab.next("delta")
        await tab.send(type="stop")
        stopped = await tab.next_reply()
        assert (stopped["text"], stopped["stop_reason"]) == ("In five", "cancelled")
        await tab.send(type="message", client_id="a2", text="And now?")
        rig.policy.step(len(TOKENS))
        assert (await tab.next_reply())["text"] == "".join(TOKENS)


# --- several tabs -----------------------------------------------------------------------------------------------------
async def test_two_tabs_see_one_conversation(rig: Rig) -> None:
    """Messages, deltas, votes and settings reach both, in the same order."""
    async with live(rig.app) as server, server.tab() as first, server.tab(**first.credentials) as second:
        await first.send(type="message", client_id="a1", text="Where is my card?")
        reply = await first.next_reply()
        assert await second.next_reply() == reply
        await second.send(type="feedback", key="k1", message_id=reply["id"], thumb=1, reasons=["clear"])
        told = await first.next("feedback")
        assert told == {
            "type": "feedback", "message_id": reply["id"], "thumb": 1, "reasons": ["clear"], "comment": "",
        }  # fmt: skip
        await first.send(type="settings", learn=False)
        assert (await second.next("settings"))["learn"] is False
    assert said(first.frames) == said(second.frames) == "".join(TOKENS)


async def test_messages_reach_every_tab_in_the_order_of_their_seq(rig: Rig) -> None:
    """Two tabs write at once; replies come in between; nobody sees a gap."""
    async with live(rig.app) as server, server.tab() as first, server.tab(**first.credentials) as second:
        for n in range(3):
            await first.send(type="message", client_id=f"a{n}", text=f"First {n}")
            await second.send(type="message", client_id=f"b{n}", text=f"Second {n}")
            for _ in range(2):
                await first.next_reply()
                await second.next_reply()
        for tab in (first, second):
            seqs = [frame["message"]["seq"] for frame in tab.frames if frame["type"] == "message"]
            assert seqs == list(range(2, 14))


async def test_one_reply_at_a_time_and_a_bounded_queue(rig: Rig) -> None:
    """Further messages wait; over the bound they are refused as busy; those that waited are answered in order."""
    rig.policy.hold()
    async with live(rig.app) as server, server.tab() as tab:
        for n in range(MAX_WAITING + 1):
            await tab.send(type="message", client_id=f"a{n}", text=f"Question {n}")
            await tab.next("ack")
        await tab.send(type="message", client_id="over", text="One more")
        refused = await tab.next("error", "ack")
        assert (refused["code"], refused["client_id"]) == ("busy", "over")
        assert rig.replier.num_replies == 1
        rig.policy.step(len(TOKENS) * (MAX_WAITING + 1))
        for _ in range(MAX_WAITING + 1):
            await tab.next_reply()
    assert rig.replier.num_replies == MAX_WAITING + 1


async def test_a_reply_keeps_its_version_when_another_becomes_champion(rig: Rig) -> None:
    """DESIGN invariant 2; the page hears of the new version meanwhile."""
    rig.policy.hold()
    async with live(rig.app) as server, server.tab() as tab:
        await tab.send(type="message", client_id="a1", text="Where is my card?")
        rig.policy.step()
        await tab.next("delta")
        rig.policy.champion = "v000001"
        while (await tab.next("version"))["version"] != "v000001":
            pass
        rig.policy.step(len(TOKENS))
        assert (await tab.next_reply())["version"] == "v000000"
        assert {frame["version"] for frame in tab.frames if frame["type"] == "delta"} == {"v000000"}
    assert rig.policy.leases["v000000"] == 0


# --- the same vote many times -----------------------------------------------------------------------------------------
async def test_one_key_sent_many_times_at_once_is_one_row(rig: Rig) -> None:
    """Trust goal R5: one row, the same answer to all."""
    async with live(rig.app) as server, server.tab() as tab, httpx.AsyncClient(base_url=server.http) as http:
        await tab.send(type="message", client_id="a1", text="Where is my card?")
        reply = await tab.next_reply()
        headers = {"Authorization": f"Bearer {tab.hello['token']}"}
        body = {"key": "k1", "message_id": reply["id"], "thumb": 1}
        answers = await asyncio.gather(*(http.post("/v1/feedback", json=body, headers=headers) for _ in range(50)))
        other = await http.post("/v1/feedback", json=body | {"thumb": -1}, headers=headers)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["seq"] for answer in answers}) == 1
    assert len(rig.store.signals(tab.hello["conversation_id"])) == 1
    assert other.status_code == 409


# --- slow readers -----------------------------------------------------------------------------------------------------
def test_a_listener_that_does_not_read_is_cut_at_its_bound() -> None:
    """Pong is 15 characters: four fit into 60, the fifth cuts; a lone larger frame still passes."""
    slow, alone = Listener(max_chars=60), Listener(max_chars=10)
    for _ in range(4):
        slow.send(PongOut())
    assert not slow.cut.is_set()
    slow.send(PongOut())
    alone.send(PongOut())
    assert slow.cut.is_set()
    assert slow.close_code == 1013
    assert not alone.cut.is_set()


async def test_slow_readers_are_closed_and_others_undisturbed(tmp_path: Path) -> None:
    """Trust goal R13: tabs that never read fall behind by 1 MiB and are cut; a reading tab gets everything."""
    pieces, size = 80, 80_000
    with open_rig(tmp_path, tokens=("x" * size,) * pieces) as rig:
        rig.policy.hold()
        async with live(rig.app) as server, server.tab() as reader:
            stalled = [await _stalled(server.port, reader.credentials) for _ in range(3)]
            await until(lambda: rig.app.state.service.num_sockets == 4)
            await reader.send(type="message", client_id="a1", text="Write a lot")
            for _ in range(pieces):
                rig.policy.step()
                await reader.next("delta")
            assert len((await reader.next_reply())["text"]) == pieces * size
            await until(lambda: rig.app.state.service.num_sockets == 1)
            assert "rejoinder_slow_readers_total 3.0" in rig.app.state.service.metrics.render().decode()
            for writer in stalled:
                writer.transport.abort()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()


async def _stalled(port: int, credentials: dict[str, Any]) -> asyncio.StreamWriter:
    """A raw websocket that says hello and never reads."""
    raw = socket.socket()
    # A small receive buffer, or the kernel reads on the tab's behalf.
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=raw, limit=1024)
    writer.write(
        b"GET /ws/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    body = json.dumps({"type": "hello", "protocol": 1, **credentials}).encode()
    # Masked with zeros, so the payload travels as it is; 126: the length is in the next two bytes.
    writer.write(bytes([0x81, 0x80 | 126]) + len(body).to_bytes(2, "big") + bytes(4) + body)
    await writer.drain()
    return writer


# --- stopping ---------------------------------------------------------------------------------------------------------
async def test_a_draining_server_is_not_ready_lets_replies_end_and_closes_with_1012(rig: Rig) -> None:
    """Trust goal R11."""
    rig.policy.hold()
    async with (
        live(rig.app) as server,
        server.tab() as tab,
        httpx.AsyncClient(base_url=server.http, timeout=60) as http,
    ):
        assert (await http.get("/health/ready")).status_code == 200
        await tab.send(type="message", client_id="a1", text="Where is my card?")
        rig.policy.step()
        await tab.next("delta")
        server.server.should_exit = True
        await until(lambda: rig.hub.draining)
        ready = await http.get("/health/ready")
        assert (ready.status_code, ready.json()["reason"]) == (503, "draining")
        assert (await http.get("/health/live")).status_code == 200
        await tab.send(type="message", client_id="a2", text="Still there?")
        assert (await tab.next("error"))["code"] == "unavailable"
        with pytest.raises(InvalidStatus) as refused:
            async with server.socket():
                pass
        assert refused.value.response.status_code == 503
        rig.policy.step(len(TOKENS))
        assert (await tab.next_reply())["text"] == "".join(TOKENS)
        with pytest.raises(ConnectionClosed) as closed:
            await tab.next()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012


async def test_a_reply_that_does_not_end_is_cut_at_the_deadline_and_kept(rig: Rig) -> None:
    """The drain waits only so long; what was written is stored."""
    rig.policy.hold()
    async with live(rig.app) as server, server.tab() as tab:
        await tab.send(type="message", client_id="a1", text="Where is my card?")
        rig.policy.step()
        await tab.next("delta")
        await rig.hub.drain(deadline_s=0.05)
        last = rig.store.messages(tab.hello["conversation_id"])[-1]
        assert (last.text, last.stop_reason) == ("In", "cancelled")


@contextlib.contextmanager
def _narrow(folder: Path, pieces: int, linger_s: float) -> Iterator[tuple[Rig, DrainingServer, socket.socket]]:
    """A server whose bot holds a long reply, and which waits for its peers without an end; not yet serving."""
    tokens = ("x" * 80_000,) * pieces
    with open_rig(folder, tokens=tokens) as rig, socket.create_server(("127.0.0.1", 0)) as listening:
        # A small send buffer, or the kernel takes it all on the stalled tab's behalf.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        rig.policy.hold()
        config = uvicorn.Config(
            rig.app, ws_per_message_deflate=False, log_level="error", timeout_graceful_shutdown=None
        )
        yield rig, DrainingServer(config, rig.app, linger_s=linger_s), listening


async def test_peers_that_never_leave_do_not_hold_a_server_that_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has stopped reading, of another the request never ends; the third gets its 1012. uvicorn waits for both without an
    end here, so that without the cut this test ends by its timeout."""
    monkeypatch.setattr(hub, "GOODBYE_S", 0.05)
    pieces = 8
    with _narrow(tmp_path, pieces, linger_s=0.05) as (rig, server, listening):
        serving = asyncio.create_task(server.serve([listening]))
        at = Live(listening.getsockname()[1], server)
        async with asyncio.timeout(60), at.tab() as tab:
            stalled = await _stalled(at.port, tab.credentials)
            _, unfinished = await asyncio.open_connection("127.0.0.1", at.port)
            unfinished.write(b"POST /v1/conversations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
            await until(lambda: len(server.server_state.tasks) == 3 and rig.app.state.service.num_sockets == 2)
            await tab.send(type="message", client_id="a1", text="Write a lot")
            rig.policy.step(pieces)
            await tab.next_reply()
            await until(lambda: any(peer.transport.get_write_buffer_size() for peer in server.server_state.connections))

            server.should_exit = True
            with pytest.raises(ConnectionClosed) as closed:
                await tab.next()
            await serving
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
            assert not server.server_state.connections
            for writer in (stalled, unfinished):
                writer.transport.abort()


async def test_a_tab_that_was_cut_for_reading_nothing_keeps_no_connection(tmp_path: Path) -> None:
    """Its transport would wait for its buffer to be read, which nobody does; the other goes on."""
    pieces = 40
    with _narrow(tmp_path, pieces, linger_s=0.1) as (rig, server, listening):
        serving = asyncio.create_task(server.serve([listening]))
        at = Live(listening.getsockname()[1], server)
        async with asyncio.timeout(60), at.tab() as tab:
            stalled = await _stalled(at.port, tab.credentials)
            await until(lambda: rig.app.state.service.num_sockets == 2)
            await tab.send(type="message", client_id="a1", text="Write a lot")
            for _ in range(pieces):
                rig.policy.step()
                await tab.next("delta")
            await tab.next_reply()
            await until(lambda: rig.app.state.service.num_sockets == 1)
            await until(lambda: len(server.server_state.connections) == 1)
            stalled.transport.abort()
        server.should_exit = True
        await serving


async def test_a_second_drain_gives_running_replies_no_more_time(rig: Rig) -> None:
    """The first says when they end; a server that is stopped drains twice."""
    rig.policy.hold()
    async with live(rig.app) as server, server.tab() as tab:
        await tab.send(type="message", client_id="a1", text="Where is my card?")
        rig.policy.step()
        await tab.next("delta")
        await asyncio.gather(rig.hub.drain(deadline_s=0.0), rig.hub.drain(deadline_s=3600.0))
        last = rig.store.messages(tab.hello["conversation_id"])[-1]
        assert (last.text, last.stop_reason) == ("In", "cancelled")


async def test_a_socket_that_never_says_hello_is_closed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle strangers hold no place."""
    monkeypatch.setattr(chat, "HELLO_S", 0.05)
    async with live(rig.app) as server, server.socket() as tab:
        assert (await tab.next("error"))["code"] == "protocol"
        with pytest.raises(ConnectionClosed):
            await tab.next()


# --- nonsense ---------------------------------------------------------------------------------------------------------
_FIELDS = ("type", "protocol", "client_id", "text", "key", "message_id", "thumb", "reasons", "comment", "last_seq", "x")
_TYPES = ("message", "feedback", "outcome", "handover", "settings", "stop", "ping", "nonsense")
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_FRAMES = (
    st.text(max_size=200)
    | st.binary(max_size=200)
    | _VALUES.map(json.dumps)
    | st.builds(
        lambda kind, fields: json.dumps({**fields, "type": kind}),
        st.sampled_from(_TYPES),
        st.dictionaries(st.sampled_from(_FIELDS), _VALUES, max_size=6),
    )
)


async def test_nonsense_breaks_neither_its_socket_nor_anybody_elses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """200 frames of anything: each is answered or ignored, none crashes, a neighbour's question is answered."""
    loop = asyncio.get_running_loop()
    with open_rig(tmp_path, messages_per_min=1e6, feedback_per_min=1e6) as rig:
        async with live(rig.app) as server, server.tab() as fuzzed, server.tab() as neighbour:

            async def survives(frame: str | bytes) -> None:
                await fuzzed.socket.send(frame)
                await fuzzed.send(type="ping")
                await fuzzed.next("pong")

            @settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(_FRAMES)
            def attack(frame: str | bytes) -> None:
                asyncio.run_coroutine_threadsafe(survives(frame), loop).result(20)

            await asyncio.to_thread(attack)
            await _ask(neighbour)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def _ask(tab: Tab) -> None:
    await tab.send(type="message", client_id="a1", text="Where is my card?")
    assert (await tab.next_reply())["text"] == "In five days."
