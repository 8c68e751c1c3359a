"""The real server with the real pages in a thread of its own, behind a wire that a test can cut.

The browser talks to `Wire`, a TCP relay in front of uvicorn: cutting it is what a lost network looks like. Everything
behind it is real (store, routes, sockets, Gradio) except the policy, which says what the test scripts.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.browser.shop_site import ShopSite, shop_site
from tests.service_rig import Rig, live, open_rig
from ui.app import mount

DEFAULT_TOKENS = ("Your card ", "is on ", "its way. ", "It will ", "arrive ", "by **Friday**.")


class Wire:
    """A relay from a port of its own to `target`; made and used in one event loop."""

    def __init__(self) -> None:
        self.target = 0
        self.port = 0
        self._is_cut = False
        self._ends: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        await self.cut()

    async def cut(self) -> None:
        """Breaks every connection and refuses new ones."""
        self._is_cut = True
        for end in list(self._ends):
            end.transport.abort()

    async def mend(self) -> None:
        """Lets connections through again."""
        self._is_cut = False

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        pair = {writer, far_writer}
        self._ends |= pair
        try:
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        finally:
            self._ends -= pair
            for end in pair:
                end.close()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await source.read(65536):
            sink.write(chunk)
            await sink.drain()
        sink.write_eof()


class Product:
    """A running product and the strings a test pulls; every method may be called from the test's thread."""

    def __init__(self, rig: Rig, wire: Wire, loop: asyncio.AbstractEventLoop, shop: ShopSite) -> None:
        self.rig = rig
        self.shop = shop
        self._wire = wire
        self._loop = loop

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._wire.port}"

    def script(self, *tokens: str) -> None:
        """What the bot writes from now on, piece by piece."""
        self._call(setattr, self.rig.policy, "tokens", tokens)

    def hold(self) -> None:
        """From now on every piece waits for `step`."""
        self._call(self.rig.policy.hold)

    def step(self, pieces: int = 1) -> None:
        """Lets pieces go."""
        self._call(self.rig.policy.step, pieces)

    def publish(self, version: str) -> None:
        """Another version serves from now on."""
        self._call(setattr, self.rig.policy, "champion", version)

    def ask_for_ratings(self, asks: bool = True) -> None:
        """Whether replies ask for a rating from now on."""
        self._call(setattr, self.rig.replier, "asks", asks)

    def cut_wire(self) -> None:
        self._await(self._wire.cut())

    def mend_wire(self) -> None:
        self._await(self._wire.mend())

    def pass_time(self, seconds: float) -> None:
        """Fills rate limits up again."""
        self.rig.ticks.now += seconds

    def _call(self, function: Callable[..., object], *args: object) -> None:
        async def run() -> None:
            function(*args)

        self._await(run())

    def _await(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)


@contextmanager
def running_product(home: Path) -> Iterator[Product]:
    """Starts it, waits until it listens, and stops it at the end."""
    with shop_site() as shop, open_rig(home, tokens=DEFAULT_TOKENS, allowed_origins=(shop.allowed,)) as rig:
        started: list[Product] = []
        ready, stop = threading.Event(), asyncio.Event()
        thread = threading.Thread(target=lambda: asyncio.run(_serve(rig, shop, started, ready, stop)), name="product")
        thread.start()
        try:
            assert ready.wait(60), "the server did not start"
            yield started[0]
        finally:
            if started:
                started[0]._call(stop.set)
            thread.join(30)


async def _serve(rig: Rig, shop: ShopSite, started: list[Product], ready: threading.Event, stop: asyncio.Event) -> None:
    wire = Wire()
    await wire.open()
    mount(rig.app, assistant="Bea")
    rig.policy.champion = "v000001"
    async with live(rig.app) as server:
        wire.target = server.port
        shop.product = f"http://127.0.0.1:{wire.port}"
        started.append(Product(rig, wire, asyncio.get_running_loop(), shop))
        ready.set()
        await stop.wait()
        await wire.close()
