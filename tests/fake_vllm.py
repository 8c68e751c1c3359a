"""A scripted vLLM server on a real socket: adapters, streams, scores, and the ways in which one dies or is set up wrongly.

Its "model" is a rule: a token's log-probability is a number of its id and of the adapter, so tests compute what to expect.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from bot.policy.vocabulary import KNOWN_ARG, WRITTEN_ARG

BASE_NAME = "smol"
BASE_LOGPROB = -2.0
MASKED_LOGPROB = -9999.0


class FakeVllm:
    """Knobs are plain attributes; `calls` are what was asked, in order."""

    def __init__(self, reply: Sequence[int], *, forbidden: Sequence[int] = ()) -> None:
        self.reply = list(reply)
        """Tokens of every stream; the last one is the end token."""
        self.forbidden = frozenset(forbidden)
        """Tokens that the mask never allows."""
        self.is_processed = True
        """Whether log-probabilities are taken after temperature (`--logprobs-mode processed_logprobs`)."""
        self.is_masking = True
        """Whether the logits processor is there."""
        self.loads_adapters = True
        """Whether adapters can be loaded at run time."""
        self.reaches = True
        """Whether an adapter changes what the server computes: False is the bug that verl had for two months."""
        self.max_tokens = 4096
        self.gains: dict[str, float] = {}
        """Version -> what its adapter adds to every log-probability."""
        self.refusal = ""
        """What the server says to every load; empty: it loads."""
        self.refusal_status = 400
        self.adapters: dict[str, str] = {}
        self.calls: list[tuple[str, str]] = []
        self.hold_after: int | None = None
        """Tokens after which every stream waits for `release`."""
        self.held = asyncio.Event()
        self.release = asyncio.Event()
        self.dies = False
        """A held stream ends without its end once released."""
        self.is_well = True
        """What it says of its own health."""
        self.faults: list[str] = []
        """Of the next streams, one each: `500` before a word, `error` or `cut` after the first."""
        self.says: list[str] = []
        """Of the next streams, one each: the event that it begins with, and ends after."""
        self.breaks_scores = False
        """Whether it fails whenever it is asked for log-probabilities by an adapter."""
        self.bodies: list[dict[str, Any]] = []
        self.app = self._app()

    def restart(self) -> None:
        """What a new process knows: nothing."""
        self.adapters.clear()
        self.calls.append(("restart", ""))

    def names(self, verb: str) -> list[str]:
        """What was asked for by `verb`: load, unload, stream, score."""
        return [name for called, name in self.calls if called == verb]

    def _app(self) -> FastAPI:
        app = FastAPI()
        app.get("/v1/models")(self._models)
        app.get("/health")(self._health)
        app.get("/version")(self._version)
        app.post("/v1/load_lora_adapter")(self._load)
        app.post("/v1/unload_lora_adapter")(self._unload)
        app.post("/v1/completions")(self._complete)
        return app

    async def _models(self) -> dict[str, Any]:
        base = {"id": BASE_NAME, "root": "/models/smol", "parent": None, "max_model_len": self.max_tokens}
        return {"data": [base, *({"id": k, "root": v, "parent": BASE_NAME} for k, v in self.adapters.items())]}

    async def _health(self) -> Response:
        return Response(status_code=200 if self.is_well else 503)

    async def _version(self) -> dict[str, str]:
        return {"version": "0.32.0"}

    async def _load(self, request: Request) -> Response:
        body = await request.json()
        name, path = body["lora_name"], body["lora_path"]
        if not self.loads_adapters:
            return JSONResponse({"detail": "Not Found"}, 404)
        self.calls.append(("load", name))
        if self.refusal or name in self.adapters:
            return _error(self.refusal or "has already been loaded", self.refusal_status)
        assert path not in self.adapters.values(), f"{path}: a path of an adapter that is loaded"
        self.adapters[name] = path
        return Response("Success")

    async def _unload(self, request: Request) -> Response:
        name = (await request.json())["lora_name"]
        self.calls.append(("unload", name))
        return Response("Success") if self.adapters.pop(name, None) else _error("cannot be found", 404)

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        if body["model"] not in (BASE_NAME, *self.adapters):
            return _error(f"The model `{body['model']}` does not exist.", 404)
        self.calls.append(("stream" if body.get("stream") else "score", body["model"]))
        if not body.get("stream"):
            is_broken = self.breaks_scores and body["model"] != BASE_NAME
            return _error("engine trouble", 500) if is_broken else JSONResponse(self._score(body))
        fault = self.faults.pop(0) if self.faults else ""
        return _error("engine trouble", 500) if fault == "500" else StreamingResponse(self._stream(body, fault))

    def _logprob(self, body: dict[str, Any], token_id: int) -> float:
        if self.is_masking and WRITTEN_ARG in body["vllm_xargs"] and token_id in self.forbidden:
            assert KNOWN_ARG in body["vllm_xargs"]
            return MASKED_LOGPROB
        gain = sum(value for version, value in self.gains.items() if f"-{version}-" in body["model"])
        raw = BASE_LOGPROB - 0.01 * (token_id % 50) + (gain if self.reaches else 0.0)
        return raw / body["temperature"] if self.is_processed else raw

    def _score(self, body: dict[str, Any]) -> dict[str, Any]:
        if "logprob_token_ids" not in body:
            return {"choices": [{}], "usage": {"completion_tokens": body["max_tokens"]}}
        top = {f"token_id:{token_id}": self._logprob(body, token_id) for token_id in body["logprob_token_ids"]}
        return {"choices": [{"logprobs": {"top_logprobs": [top]}}]}

    async def _stream(self, body: dict[str, Any], fault: str = "") -> AsyncIterator[str]:
        if self.says:
            yield f"data: {self.says.pop(0)}\n\n"
            return
        for count, token_id in enumerate(self.reply):
            if fault and count == 1:
                if fault == "error":
                    yield f"data: {json.dumps({'error': {'message': 'engine trouble'}})}\n\n"
                return
            if count == self.hold_after:
                self.held.set()
                await self.release.wait()
                if self.dies:
                    return
            is_last = count == len(self.reply) - 1
            choice = {
                "token_ids": [token_id],
                "logprobs": {"token_logprobs": [self._logprob(body, token_id)]},
                "finish_reason": "stop" if is_last else None,
            }
            yield f"data: {json.dumps({'choices': [choice]})}\n\n"
        yield "data: [DONE]\n\n"


def _error(message: str, status: int) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "code": status}}, status)


class Port:
    """A loopback port on which a fake may be up or down."""

    def __init__(self, fake: FakeVllm) -> None:
        self.fake = fake
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.number = found.getsockname()[1]
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.number}"

    async def up(self) -> None:
        """Listen; a socket of our own, so that connections made from now on wait for the server."""
        listening = socket.create_server(("127.0.0.1", self.number))
        config = uvicorn.Config(self.fake.app, log_level="critical", timeout_graceful_shutdown=0, lifespan="off")
        self._server = uvicorn.Server(config)
        self._serving = asyncio.create_task(self._server.serve([listening]))

    async def down(self) -> None:
        """Stop at once: running streams break off."""
        if self._server is None or self._serving is None:
            return
        self._server.should_exit = self._server.force_exit = True
        # It takes the server a moment to close its door.
        self.fake.dies, self.fake.is_well = True, False
        self.fake.release.set()
        await self._serving
        self._server = None
        self.fake.dies, self.fake.is_well = False, True
        self.fake.release.clear()


@asynccontextmanager
async def running(fake: FakeVllm) -> AsyncIterator[Port]:
    """The fake on a port, up."""
    port = Port(fake)
    await port.up()
    try:
        yield port
    finally:
        await port.down()
