"""A person who never gives up: after a lost connection the same messages and votes again, under the same ids."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import websockets

RETRY_S = 0.05
ANSWER_TIMEOUT_S = 60.0
LOST = (OSError, websockets.WebSocketException, TimeoutError, EOFError)
AGAIN = frozenset({"unavailable", "busy", "error"})
"""Errors after which the same may be sent again."""


class Refused(Exception):
    """The server says that sending it again is of no use."""


@dataclass
class Steadfast:
    """One conversation after the other; `acked` grows with every vote that the server acknowledged."""

    port: int
    name: str
    acked: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Key -> (message id, thumb)."""
    sent: set[str] = field(default_factory=set)
    """Client ids of the messages that were acknowledged."""
    num_reconnects: int = 0
    _socket: websockets.ClientConnection | None = None
    _hello: dict[str, Any] = field(default_factory=dict)
    _messages: dict[int, dict[str, Any]] = field(default_factory=dict)
    _counter: int = 0

    async def ask(self, text: str) -> dict[str, Any]:
        """The reply to a message, however often the server dies meanwhile."""
        self._counter += 1
        client_id = f"{self.name}-{self._counter}"
        while True:
            try:
                await self._connect()
                return await self._ask_once(client_id, text)
            except LOST:
                await self._lose()

    async def vote(self, message_id: str, thumb: int) -> None:
        """A thumb; returns when it is acknowledged."""
        key = f"{message_id}-vote"
        frame = {"type": "feedback", "key": key, "message_id": message_id, "thumb": thumb}
        while key not in self.acked:
            try:
                await self._connect()
                await self._send(**frame)
                while (answer := await self._next()).get("key") != key or answer["type"] != "ack":
                    pass
                self.acked[key] = (message_id, thumb)
            except LOST:
                await self._lose()

    async def leave(self) -> None:
        """End this conversation; the next message starts another."""
        if self._socket is not None:
            await self._socket.close()
        self._socket, self._hello, self._messages = None, {}, {}

    async def _ask_once(self, client_id: str, text: str) -> dict[str, Any]:
        if not self._asked(client_id):
            await self._send(type="message", client_id=client_id, text=text)
        while (reply := self._reply(client_id)) is None:
            await self._next()
        self.sent.add(client_id)
        return reply

    def _asked(self, client_id: str) -> int:
        """Seq of our message, 0 while we have not seen it stored."""
        return next((seq for seq, m in self._messages.items() if m["client_id"] == client_id), 0)

    def _reply(self, client_id: str) -> dict[str, Any] | None:
        asked = self._asked(client_id)
        later = [m for seq, m in sorted(self._messages.items()) if asked and seq > asked and m["role"] == "bot"]
        return later[0] if later else None

    async def _connect(self) -> None:
        if self._socket is not None:
            return
        url = f"ws://127.0.0.1:{self.port}/ws/chat"
        self._socket = await websockets.connect(url, compression=None, max_size=1 << 22, open_timeout=10)
        before = {key: self._hello[key] for key in ("token", "conversation_id") if key in self._hello}
        last_seq = {"last_seq": max(self._messages, default=0)} if before else {}
        await self._send(type="hello", protocol=1, **before, **last_seq)
        while (frame := await self._next())["type"] != "hello":
            pass
        self._hello = frame
        self._messages |= {message["seq"]: message for message in frame["messages"]}

    async def _lose(self) -> None:
        if self._socket is not None:
            self._socket.transport.abort()
            self._socket = None
            self.num_reconnects += 1
        await asyncio.sleep(RETRY_S)

    async def _send(self, **frame: Any) -> None:
        assert self._socket is not None
        await self._socket.send(json.dumps(frame))

    async def _next(self) -> dict[str, Any]:
        assert self._socket is not None
        frame: dict[str, Any] = json.loads(await asyncio.wait_for(self._socket.recv(), ANSWER_TIMEOUT_S))
        if frame["type"] == "error":
            if frame["code"] in AGAIN:
                raise EOFError(frame["message"])
            raise Refused(f"{frame['code']}: {frame['message']}")
        if frame["type"] == "message":
            self._messages[frame["message"]["seq"]] = frame["message"]
        return frame
