"""A chat client over `/ws/chat`, as a widget or program would be one: hello, messages, votes, versions."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Self

import websockets

from bot.errors import RejoinderError

REPLY_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back to one message."""

    message_id: str
    act: str
    version: str
    text: str
    num_deltas: int
    first_delta_s: float
    total_s: float


class ChatClient:
    """One conversation on one socket."""

    def __init__(self, socket: websockets.ClientConnection, hello: dict[str, Any]) -> None:
        self._socket = socket
        self._counter = 0
        self.conversation_id: str = hello["conversation_id"]
        self.version: str = hello["version"]

    @classmethod
    async def open(cls, port: int, reply: str = "approved", address: str = "") -> Self:
        """Connect (from one of this machine's addresses, if it is given) and say hello. Raises RejoinderError when the
        server refuses."""
        url, local_addr = f"ws://127.0.0.1:{port}/ws/chat", (address, 0) if address else None
        socket = await websockets.connect(url, compression=None, max_size=1 << 20, local_addr=local_addr)
        await socket.send(json.dumps({"type": "hello", "protocol": 1, "reply": reply}))
        hello = json.loads(await socket.recv())
        if hello["type"] != "hello":
            raise RejoinderError(f"{hello.get('code')}: {hello.get('message')}")
        return cls(socket, hello)

    async def ask(self, text: str) -> Reply:
        """Send a message and wait for the whole reply."""
        self._counter += 1
        client_id = f"{self.conversation_id}-{self._counter}"
        loop = asyncio.get_running_loop()
        started, first, count = loop.time(), 0.0, 0
        await self._send(type="message", client_id=client_id, text=text)
        while True:
            frame = await self._next()
            if frame["type"] == "delta":
                first = first or loop.time() - started
                count += 1
            if frame["type"] == "message" and frame["message"]["role"] == "bot":
                said, took = frame["message"], loop.time() - started
                return Reply(said["id"], said["act"], said["version"], said["text"], count, first or took, took)

    async def vote(self, message_id: str, thumb: int) -> None:
        """Send a thumb and wait until it is on disk."""
        key = f"{message_id}-vote"
        await self._send(type="feedback", key=key, message_id=message_id, thumb=thumb)
        while (frame := await self._next())["type"] != "ack" or frame.get("key") != key:
            pass

    async def wait_for_version(self, version: str) -> None:
        """Wait until the server says that new replies come from `version`."""
        while self.version != version:
            await self._next()

    async def close(self) -> None:
        """Leave."""
        await self._socket.close()

    async def _send(self, **frame: Any) -> None:
        await self._socket.send(json.dumps(frame))

    async def _next(self) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(await asyncio.wait_for(self._socket.recv(), REPLY_TIMEOUT_S))
        if frame["type"] == "error":
            raise RejoinderError(f"{frame['code']}: {frame['message']}")
        if frame["type"] == "version":
            self.version = frame["version"]
        return frame
