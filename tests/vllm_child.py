"""The scripted vLLM server in a process of its own, which a test may kill: `tests.vllm_child PORT TOKENS MASKED HOLD`.

TOKENS and MASKED are JSON lists of token ids: what it says, the last one the end, and what it never says. HOLD: after how
many tokens streams wait for ever (-1: none does). Prints `up` once it listens.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys

import uvicorn

from tests.fake_vllm import FakeVllm


async def serve(port: int, tokens: list[int], forbidden: list[int], hold_after: int) -> None:
    """Until killed."""
    fake = FakeVllm(tokens, forbidden=forbidden)
    fake.hold_after = None if hold_after < 0 else hold_after
    with socket.create_server(("127.0.0.1", port)) as listening:
        print("up", flush=True)
        await uvicorn.Server(uvicorn.Config(fake.app, log_level="critical", lifespan="off")).serve([listening])


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), *map(json.loads, sys.argv[2:4]), int(sys.argv[4])))
