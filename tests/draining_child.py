"""A server in a process of its own, on scripted parts, as `rejoinder serve` runs one: `python -m tests.draining_child HOME`.

Prints its port once it listens, writes one token of the running reply for each line on stdin, prints `closed` when its
parts were closed.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from bot.service import DrainingServer, exit_cleanly_on_sigterm, uvicorn_config
from tests.service_rig import open_rig


async def serve(home: Path) -> None:
    """Until SIGTERM."""
    try:
        with open_rig(home) as rig, socket.create_server(("127.0.0.1", 0)) as listening:
            rig.policy.hold()
            lines = asyncio.StreamReader()
            await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(lines), sys.stdin.buffer
            )
            stepping = asyncio.create_task(_step(lines, rig.policy.step))
            print(listening.getsockname()[1], flush=True)
            await DrainingServer(uvicorn_config(rig.app, rig.parts.settings), rig.app).serve([listening])
            stepping.cancel()
    finally:
        print("closed", flush=True)


async def _step(lines: asyncio.StreamReader, step: Callable[[], None]) -> None:
    while await lines.readline():
        step()


if __name__ == "__main__":
    exit_cleanly_on_sigterm()
    asyncio.run(serve(Path(sys.argv[1])))
