"""One vLLM server over its OpenAI-compatible HTTP interface. Knows nothing of versions, policies or replies.

    served    what is loaded: the base model and the adapters beside it
    load      an adapter under a name never used before; unload
    stream    sampled tokens with their log-probabilities, as they come
    score     log-probabilities of given tokens: one request a token, all at once, over one shared prefix

Log-probabilities mean what we need (temperature and grounding mask applied) only on a server that was started with
`--logprobs-mode processed_logprobs` and `--logits-processors bot.policy.vllm_mask:GroundedWords`; `check` tells.
Written against vLLM 0.32 (docs.vllm.ai, "OpenAI-Compatible Server", "LoRA Adapters").
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import httpx

from bot.errors import AdapterError, ModelError
from bot.policy.vocabulary import KNOWN_ARG, WRITTEN_ARG

CONNECT_S = 2.0
HEALTH_S = 10.0
"""A server that does not say how it is for this long is taken for dead."""
SILENCE_S = 60.0
"""A server that says nothing for this long is taken for dead; a stream that does, for this reply's own trouble."""
BUSY = frozenset({408, 429})
"""HTTP statuses that say nothing about what was asked: ask again later."""
MASKED = -1000.0
"""JSON has no -inf: vLLM writes -9999 for it."""


class ServerGone(ModelError):
    """The server does not answer, or says that it is not well: it may be back soon."""


class RequestBroken(ModelError):
    """One request failed, or broke off, for a reason of the server's. Whether it is gone, `check_health` tells."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a server has loaded."""

    base: str
    """Name of the base model."""
    max_tokens: int
    """Prompt and reply together."""
    adapters: Mapping[str, str]
    """Name -> path as the server sees it."""


@dataclass(frozen=True, slots=True)
class Words:
    """What to go on from, and the distribution to draw from or to score under."""

    prompt_ids: tuple[int, ...]
    temperature: float
    known: tuple[str, ...]
    """Amounts that the text may carry, sorted."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of a stream with their log-probabilities, nats."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop_reason: str = ""
    """`stop` or `length` in the last piece."""


class VllmServer:
    """A client; one connection pool."""

    def __init__(self, url: str, key: str = "") -> None:
        self.url = url.rstrip("/")
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_S, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    # --- what is loaded ---------------------------------------------------------------------------------------------
    async def check_health(self) -> None:
        """Raises ServerGone for one that does not answer, or whose engine is dead behind a door that still opens."""
        try:
            answer = await self._http.get("/health", timeout=HEALTH_S)
        except httpx.TransportError as error:
            raise ServerGone(f"vLLM at {self.url} does not answer ({type(error).__name__})") from error
        if answer.is_server_error:
            raise ServerGone(f"vLLM at {self.url} is not well: HTTP {answer.status_code}")

    async def served(self) -> Served:
        """What is loaded now. Raises ServerGone, RequestBroken."""
        await self.check_health()
        cards = self._body(await self._call("GET", "/v1/models"))["data"]
        base = next(card for card in cards if not card.get("parent"))
        adapters = {card["id"]: str(card.get("root") or "") for card in cards if card.get("parent")}
        return Served(base["id"], int(base.get("max_model_len") or 0), adapters)

    async def load(self, name: str, path: str) -> None:
        """Load an adapter. Raises AdapterError with the server's reason for refusing it; ModelError where another attempt may
        succeed."""
        answer = await self._call("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})
        if answer.status_code in (404, 405) and not _reason(answer):
            raise ModelError(
                f"vLLM at {self.url}: expected a server that loads adapters (--enable-lora and "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1), got one that does not"
            )
        if answer.is_server_error or answer.status_code in BUSY:
            raise ModelError(
                f"vLLM at {self.url} did not load {name}: HTTP {answer.status_code} {_reason(answer)}".rstrip()
            )
        if answer.is_error:
            raise AdapterError(f"vLLM at {self.url} refuses {name} from {path}: {_reason(answer)}")

    async def unload(self, name: str) -> None:
        """Forget an adapter's name; one that is not there is no error. Requests that run keep theirs."""
        await self._call("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    # --- words ------------------------------------------------------------------------------------------------------
    async def stream(
        self,
        model: str,
        words: Words,
        *,
        max_tokens: int,
        seed: int,
        stop_ids: Sequence[int],
        silence_s: float = SILENCE_S,
    ) -> AsyncGenerator[Piece, None]:
        """Sample. Closing the iterator cancels the request. Raises RequestBroken; ModelError for what is this reply's
        alone: a refusal, or nothing said for `silence_s`."""
        body = _request(model, words, 0) | {
            "max_tokens": max_tokens,
            "seed": seed & 0x7FFFFFFFFFFFFFFF,
            "stop_token_ids": list(stop_ids),
            "logprobs": 0,
            "stream": True,
            "return_token_ids": True,
        }
        is_whole, patience = False, httpx.Timeout(silence_s, connect=CONNECT_S, pool=None)
        try:
            async with self._http.stream("POST", "/v1/completions", json=body, timeout=patience) as answer:
                if answer.is_error:
                    await answer.aread()
                    self._body(answer)
                async for line in answer.aiter_lines():
                    piece = _piece(line)
                    if piece is not None:
                        is_whole = is_whole or bool(piece.stop_reason)
                        yield piece
        except httpx.ReadTimeout as error:  # Many may be waiting there; whether it is gone, other requests tell.
            raise ModelError(f"vLLM at {self.url} said nothing of a reply for {silence_s:g} s") from error
        except httpx.RequestError as error:
            raise RequestBroken(f"vLLM at {self.url} broke off a reply ({type(error).__name__})") from error
        if not is_whole:
            raise RequestBroken(f"vLLM at {self.url} ended a reply before its end")

    async def score(self, model: str, words: Words, token_ids: Sequence[int]) -> list[float]:
        """Log-probability of each of these tokens behind the prompt and the tokens before it."""
        each = [self.score_next(model, words, token_ids[:step], (token_id,)) for step, token_id in enumerate(token_ids)]
        return [found[0] for found in await asyncio.gather(*each)]

    async def score_next(
        self, model: str, words: Words, written: Sequence[int], candidates: Sequence[int]
    ) -> list[float]:
        """Log-probability of each candidate as the next token."""
        body = _request(model, words, len(written)) | {
            "prompt": [*words.prompt_ids, *written],
            "max_tokens": 1,
            "logprobs": 1,
            "logprob_token_ids": list(candidates),
            "return_tokens_as_token_ids": True,
        }
        found = self._body(await self._call("POST", "/v1/completions", body))["choices"][0]["logprobs"]["top_logprobs"]
        return [float(found[0][f"token_id:{token_id}"]) for token_id in candidates]

    async def check(self, model: str, prompt_ids: tuple[int, ...], likely: int, unlikely: int, masked: int) -> None:
        """Raise ModelError unless log-probabilities are those of the distribution that is sampled from.

        `likely` and `unlikely` are two tokens that may come next, `masked` is one that may not.
        """
        gaps = []
        for temperature in (1.0, 0.5):
            first, second = await self.score_next(model, Words(prompt_ids, temperature, ()), (), (likely, unlikely))
            gaps.append(first - second)
        if abs(gaps[1] - 2 * gaps[0]) > 0.25 * abs(gaps[0]):
            raise ModelError(
                f"vLLM at {self.url}: expected log-probabilities after temperature "
                "(--logprobs-mode processed_logprobs), got them from before it"
            )
        (forbidden,) = await self.score_next(model, Words(prompt_ids, 1.0, ()), (), (masked,))
        if forbidden > MASKED:
            raise ModelError(
                f"vLLM at {self.url}: expected a server that keeps to the sources "
                "(--logits-processors bot.policy.vllm_mask:GroundedWords), got one that may write any amount"
            )

    # --- HTTP -------------------------------------------------------------------------------------------------------
    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        try:
            return await self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise RequestBroken(f"vLLM at {self.url} broke off {path} ({type(error).__name__})") from error

    def _body(self, answer: httpx.Response) -> Any:
        """Raises RequestBroken for the server's own failure, ModelError for a refusal."""
        if answer.is_server_error:
            raise RequestBroken(f"vLLM at {self.url} failed: HTTP {answer.status_code} {_reason(answer)}".rstrip())
        if answer.is_error:
            raise ModelError(f"vLLM at {self.url}: HTTP {answer.status_code} {_reason(answer)}".rstrip())
        try:
            return answer.json()
        except ValueError as error:
            raise ModelError(f"vLLM at {self.url}: expected JSON, got {answer.text[:80]!r}") from error


def _request(model: str, words: Words, num_written: int) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": list(words.prompt_ids),
        "temperature": words.temperature,
        "vllm_xargs": {KNOWN_ARG: list(words.known), WRITTEN_ARG: num_written},
    }


def _piece(line: str) -> Piece | None:
    """Of one server-sent event; None for a line without tokens. Raises RequestBroken for one that tells of a failure, and
    for one that cannot be read."""
    if not line.startswith("data: ") or line == "data: [DONE]":
        return None
    try:
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            raise RequestBroken(f"vLLM failed in the middle of a reply: {_message(event['error'])[:200]}")
        return _read(event["choices"][0]) if event["choices"] else None
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise RequestBroken(f"vLLM sent what cannot be read in the middle of a reply: {line[:80]!r}") from error


def _read(choice: Mapping[str, Any]) -> Piece:
    logprobs = (choice.get("logprobs") or {}).get("token_logprobs") or ()
    return Piece(
        tuple(index(token_id) for token_id in choice.get("token_ids") or ()),
        tuple(float(logprob) for logprob in logprobs),
        str(choice.get("finish_reason") or ""),
    )


def _message(error: Any) -> str:
    return str(error.get("message") or "") if isinstance(error, dict) else str(error)


def _reason(answer: httpx.Response) -> str:
    """The server's own words; empty when the route itself is missing."""
    try:
        body = answer.json()
    except ValueError:
        return answer.text[:200]
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else body.get("message") if isinstance(body, dict) else ""
    return str(message or "")[:300]
