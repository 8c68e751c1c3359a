"""The queue of those who wait for a person: everybody in it is told their place whenever it changes."""

from __future__ import annotations

import asyncio
import logging

from bot.errors import RejoinderError
from bot.routes.parts import Service
from bot.wire import StatusOut

logger = logging.getLogger(__name__)

LOOK_S = 0.5
"""How soon a change is told."""


async def tell_positions(service: Service) -> None:
    """Look at the queue for as long as the server runs."""
    while True:
        try:
            await tell_changes(service)
        except RejoinderError:
            # A store that cannot be read now can be later; /health/ready says so meanwhile.
            logger.warning("could not read who waits for a person", exc_info=True)
        await asyncio.sleep(LOOK_S)


async def tell_changes(service: Service) -> None:
    """Tell each open chat that waits its place, if it is another than before. Asks the store only while one waits."""
    rooms = {name: room for name, room in service.hub.rooms.items() if room.conversation.status == "waiting"}
    waiting = await asyncio.to_thread(service.parts.store.waiting) if rooms else []
    positions = {name: place for place, name in enumerate(waiting, 1)}
    changed = {name: place for name, place in positions.items() if service.positions.get(name) != place}
    service.positions = positions
    for name, place in changed.items():
        if name in rooms:
            rooms[name].tell(StatusOut(status="waiting", position=place))
