"""The outgoing side of one socket. Knows nothing of rooms or of how a socket sends."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from bot.wire import ServerFrame, encode

MAX_QUEUED_CHARS = 1 << 20
"""What a socket may be behind before it is cut off."""
TOO_SLOW = 1013
"""Close code "try again later"."""


class Listener:
    """The outgoing side of one socket: a queue that never blocks the room and never grows without end."""

    def __init__(self, max_chars: int = MAX_QUEUED_CHARS) -> None:
        self._max_chars = max_chars
        self._frames: deque[str] = deque()
        self._num_chars = 0
        self._more = asyncio.Event()
        self._finished = False
        self.cut = asyncio.Event()
        """Set when the other side reads too slowly; whoever owns the socket closes it."""
        self.close_code = 1000
        self.done = asyncio.Event()
        """Set when nothing more will be sent."""

    def send(self, frame: ServerFrame) -> None:
        """Queue one frame."""
        self.send_text(encode(frame))

    def send_text(self, text: str) -> None:
        """Queue an encoded frame. A frame larger than the whole queue still goes out when it is alone."""
        if self._finished or self.cut.is_set():
            return
        if self._frames and self._num_chars + len(text) > self._max_chars:
            self.close_code = TOO_SLOW
            self._frames.clear()
            self.cut.set()
            return
        self._frames.append(text)
        self._num_chars += len(text)
        self._more.set()

    def finish(self, code: int) -> None:
        """Close with `code` once everything queued is sent."""
        if not self._finished:
            self._finished = True
            self.close_code = code
            self._more.set()

    async def frames(self) -> AsyncIterator[str]:
        """What to send, in order, until `finish`."""
        try:
            while self._frames or not self._finished:
                while self._frames:
                    text = self._frames.popleft()
                    self._num_chars -= len(text)
                    yield text
                if not self._finished:
                    self._more.clear()
                    await self._more.wait()
        finally:
            self.done.set()
