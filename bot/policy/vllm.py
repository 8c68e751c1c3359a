"""Acts by our own engine, words by a vLLM server that we are pointed at.

    the engine's champion moves -> verify -> load under a new name -> probe -> flip -> the old one drains -> unload

A version serves only when both have it, so a reply is made by one version. Whatever happens to the server, approved replies
go on: a reply that it fails ends in ModelError, and the session shows the approved answer. Others go on, unless the server
does not say that it is well, or fails several in a row: then it is gone, and nothing can be written (`can_write`) until
`follow` finds it again. After its restart everything is loaded and probed anew.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass

from bot.conversation import Generated
from bot.errors import AdapterError, ModelError, NotFound
from bot.policy.endings import num_held_back, read_on
from bot.policy.grounding import amounts
from bot.policy.types import ActRequest, Choice, Lease, Policy, TextDelta, TextRequest
from bot.policy.vllm_adapters import Remote, RemoteAdapters, probe
from bot.policy.vllm_server import SILENCE_S, Piece, RequestBroken, Served, ServerGone, VllmServer, Words
from bot.policy.vocabulary import MAX_PROMPT_TOKENS, AllowedNext, Vocabulary

log = logging.getLogger(__name__)

POLL_S = 0.5
LONGEST_WAIT_S = 15.0
"""Between two attempts to reach a server that is gone."""
MOST_BROKEN = 3
"""Requests in a row that a server which calls itself well may fail."""
ROUNDING = 1e-4
"""Nats above 0 that a softmax in fp32 may come to."""


class VllmPolicy:
    """A `Policy`. Run `follow` beside it; everything happens on one event loop."""

    def __init__(
        self,
        acts: Policy,
        server: VllmServer,
        remotes: RemoteAdapters,
        vocabulary: Vocabulary,
        *,
        max_new: int,
        tolerance: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._acts = acts
        self._server = server
        self._remotes = remotes
        self._vocabulary = vocabulary
        self._tolerance = tolerance
        self._clock = clock
        self._max_tokens = MAX_PROMPT_TOKENS + max_new
        self._champion = acts.champion
        self._standing = AsyncExitStack()
        """Holds the engine's lease on our champion: the engine may have moved on already."""
        self._held = ""
        self._refs: Counter[str] = Counter()
        self._known: dict[str, Remote | None] = {}
        self._refused: dict[str, str] = {}
        """Version -> why this server does not write for it."""
        self._ready: set[str] = set()
        """Names that the server has, and that were probed since we reached it."""
        self._base = ""
        """The base model's name on the server; empty while it is gone."""
        self._complaint = ""
        self._num_broken = 0
        """Requests that the server failed since it last finished one."""

    # --- Policy -----------------------------------------------------------------------------------------------------
    @property
    def champion(self) -> str:
        """The version that new replies get."""
        return self._champion

    @property
    def can_write(self) -> bool:
        """Whether the server is there and has the champion's words."""
        return bool(self._base) and self._name(self._champion) is not None

    def fault(self, version: str) -> str:
        """What the server, or our engine, refused it for."""
        return self._refused.get(version) or self._acts.fault(version)

    def lease(self, version: str | None = None) -> AbstractAsyncContextManager[Lease]:
        """Pin a version here and in the engine. Raises what the engine raises."""
        return self._lease(version or self._champion)

    @asynccontextmanager
    async def _lease(self, version: str) -> AsyncIterator[Lease]:
        self._refs[version] += 1
        try:
            async with self._acts.lease(version) as lease:
                yield _VllmLease(self, lease)
        finally:
            self._refs[version] -= 1

    async def write(self, request: TextRequest, version: str) -> AsyncGenerator[TextDelta, None]:
        """Stream a reply; at its deadline it ends where it is. Raises ModelError, also when no word came in time; ServerGone
        where the server is, RequestBroken where it failed this reply alone."""
        name = self._name(version)
        if name is None:
            raise ModelError(f"vLLM at {self._server.url} has no words of {version}: {self._why(version)}")
        reply = _Reply(self._vocabulary, request)
        sampled = self._server.stream(
            name,
            reply.words,
            max_tokens=request.max_tokens,
            seed=request.seed,
            stop_ids=sorted(self._vocabulary.stop_ids),
            silence_s=max(SILENCE_S, request.deadline_s or 0.0),
        )
        try:
            async with aclosing(_until(sampled, request.deadline_s, self._clock)) as pieces:
                async for piece in pieces:
                    yield TextDelta(reply.add(piece))
                    if reply.stop_reason:
                        break
        except TimeoutError:
            yield TextDelta(reply.cut())
        except RequestBroken as error:
            await self._examine(error)
            raise
        self._num_broken = 0
        yield TextDelta("", reply.generated)

    def _name(self, version: str) -> str | None:
        """The name to ask the server by; None when it cannot write for this version now."""
        if not self._base or version in self._refused or version not in self._known:
            return None
        remote = self._known[version]
        return self._base if remote is None else remote.name if remote.name in self._ready else None

    def _why(self, version: str) -> str:
        return self._refused.get(version) or ("not loaded yet" if self._base else "the server is gone")

    # --- beside the server --------------------------------------------------------------------------------------------
    async def follow(self, poll_s: float = POLL_S, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Keep the server in step with the champion and with who is leased. Runs until cancelled."""
        wait_s = poll_s
        while True:
            try:
                await self.step()
                wait_s = poll_s
            except Exception as error:  # noqa: BLE001 - this loop must outlive whatever a server or a folder says
                if not isinstance(error, ServerGone):  # Those were told.
                    self._complain(str(error))
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            await sleep(wait_s)

    async def step(self) -> None:
        """One round: reach the server, load and probe what it lacks, flip, unload. Raises ModelError, ServerGone."""
        version = self._acts.champion
        try:
            try:
                served = await self._reach()
                await self._supply(version, served)
            finally:
                await self._flip(version)
            await self._tidy(served)
        except ServerGone as error:
            self._lose(error)
            raise
        except RequestBroken as error:
            await self._examine(error)
            raise

    async def close(self) -> None:
        """Let go of the engine's version and of the connections."""
        await self._standing.aclose()
        await self._server.close()

    async def _reach(self) -> Served:
        served = await self._server.served()
        self._ready &= served.adapters.keys()
        if not self._base:
            await self._check(served)
            self._ready.clear()
            self._refused.clear()
            self._base, self._complaint, self._num_broken = served.base, "", 0
            log.info("vLLM at %s writes, as %s", self._server.url, served.base)
        return served

    async def _check(self, served: Served) -> None:
        """Raises ModelError for a server that was not started as it must be."""
        if served.max_tokens < self._max_tokens:
            raise ModelError(
                f"vLLM at {self._server.url}: expected --max-model-len of {self._max_tokens} at least, "
                f"got {served.max_tokens}"
            )
        vocabulary = self._vocabulary
        prompt_ids = vocabulary.prompt_ids('[["system", "You help."], ["user", "Hello, who are you?"]]')
        likely, masked = (vocabulary.tokenizer(text, add_special_tokens=False)["input_ids"][-1] for text in ("I", "7"))
        await self._server.check(served.base, prompt_ids, likely, min(vocabulary.stop_ids), masked)

    async def _supply(self, champion: str, served: Served) -> None:
        """Load and probe what the next replies need."""
        wanted = [champion, self._champion, *(version for version in self._refs if self._refs[version])]
        for version in dict.fromkeys(wanted):
            if version not in self._refused and self._name(version) is None:
                try:
                    await self._load(version, served)
                except (AdapterError, NotFound) as error:
                    self._refused[version] = str(error)
                    log.warning("no words by vLLM for %s: %s", version, error)

    async def _load(self, version: str, served: Served) -> None:
        remote = await asyncio.to_thread(self._remotes.of, version)
        if remote is not None:
            if remote.name not in served.adapters:
                await self._server.load(remote.name, remote.path)
            elif served.adapters[remote.name] != remote.path:
                raise AdapterError(f"{version}: expected it from {remote.path}, got {served.adapters[remote.name]}")
            await probe(self._server, served.base, remote, self._tolerance)
            self._ready.add(remote.name)
        self._known[version] = remote

    async def _flip(self, version: str) -> None:
        """Follow the engine, unless the server refused that version's words: then the version before goes on serving."""
        if version == self._held or version in self._refused:
            return
        entered = AsyncExitStack()
        await entered.enter_async_context(self._acts.lease(version))
        old, self._standing = self._standing, entered
        self._champion = self._held = version
        log.info("serving %s, its words by vLLM", version)
        await old.aclose()

    async def _tidy(self, served: Served) -> None:
        """Unload this home's adapters that nobody needs; after the last request that needed them has ended."""
        needed = {self._champion, self._acts.champion} | {version for version in self._refs if self._refs[version]}
        names = {remote.name for version in needed if (remote := self._known.get(version)) is not None}
        for name in served.adapters:
            if name.startswith(self._remotes.prefix) and name not in names:
                self._ready.discard(name)
                await self._server.unload(name)
        self._known = {version: remote for version, remote in self._known.items() if version in needed}
        self._refs = +self._refs

    async def _examine(self, error: RequestBroken) -> None:
        """Raises ServerGone when it is not this request alone that failed."""
        self._num_broken += 1
        try:
            await self._server.check_health()
            if self._num_broken >= MOST_BROKEN:
                raise ServerGone(f"{error} (the {self._num_broken}. in a row)")
        except ServerGone as gone:
            self._lose(gone)
            raise gone from error

    def _lose(self, error: ServerGone) -> None:
        self._base = ""
        self._complain(f"{error}; approved replies until it is back")

    def _complain(self, line: str) -> None:
        """Once, until something else is wrong."""
        if line != self._complaint:
            log.warning("%s", line)
        self._complaint = line


async def _until(
    sampled: AsyncGenerator[Piece, None], deadline_s: float | None, clock: Callable[[], float]
) -> AsyncGenerator[Piece, None]:
    """The pieces that come within `deadline_s` from now; None: all. Raises TimeoutError at the deadline."""
    ends_at = None if deadline_s is None else clock() + deadline_s
    async with aclosing(sampled):
        while True:
            # Not around the yield: there it would cancel whoever reads.
            async with asyncio.timeout(None if ends_at is None else ends_at - clock()):
                piece = await anext(sampled, None)
            if piece is None:
                return
            yield piece


class _Reply:
    """One reply while it is written; it ends where our own engine would end it."""

    def __init__(self, vocabulary: Vocabulary, request: TextRequest) -> None:
        known = amounts(" ".join(request.sources))
        self.words = Words(vocabulary.reply_ids(request.prompt), request.temperature, tuple(sorted(known)))
        self.stop_reason = ""
        self._request = request
        self._vocabulary = vocabulary
        self._allowed = AllowedNext(vocabulary, known)
        self._token_ids: list[int] = []
        self._logprobs: list[float] = []
        self._text = ""
        self._num_shown = 0

    def add(self, piece: Piece) -> str:
        """The text that a piece adds. Raises ModelError for words that the mask forbids: nobody may see them; RequestBroken for
        what no server can have sampled: it would be learned from."""
        if len(piece.token_ids) != len(piece.logprobs):
            raise RequestBroken(f"vLLM: expected a log-probability for each token, got {piece}")
        for token_id, logprob in zip(piece.token_ids, piece.logprobs, strict=True):
            allowed_V = self._allowed.after(self._token_ids)
            if not 0 <= token_id < len(allowed_V):
                raise RequestBroken(f"vLLM: expected a token of 0 to {len(allowed_V) - 1}, got {token_id}")
            if not -math.inf < logprob <= ROUNDING:
                raise RequestBroken(f"vLLM: expected a finite log-probability, 0 at most, got {logprob}")
            if not allowed_V[token_id]:
                raise ModelError(
                    "vLLM: expected words that the sources allow, got others (is bot.policy.vllm_mask on?)"
                )
            self._token_ids.append(token_id)
            self._logprobs.append(min(logprob, 0.0))
            self._text, self.stop_reason = read_on(self._vocabulary, self._text, self._token_ids, self._request)
            if self.stop_reason:
                break
        self.stop_reason = self.stop_reason or piece.stop_reason
        return self._news()

    def cut(self) -> str:
        """End here, its deadline being over; the text that was held back. Raises ModelError where nothing was written."""
        if not self._token_ids:
            raise ModelError(f"no reply within {self._request.deadline_s:g} s: the server is busy")
        self.stop_reason = "deadline"
        return self._news()

    def _news(self) -> str:
        """What can be shown now and was not; not what may be the beginning of a stop string."""
        held_back = 0 if self.stop_reason else num_held_back(self._text, self._request.stop)
        start, end = self._num_shown, len(self._text) - held_back
        self._num_shown = max(start, end)
        return self._text[start:end]

    @property
    def generated(self) -> Generated:
        """The whole record."""
        return Generated(
            prompt_ids=self.words.prompt_ids,
            token_ids=tuple(self._token_ids),
            logprobs=tuple(self._logprobs),
            temperature=self.words.temperature,
            sources=self._request.sources,
            text=self._text.strip(),
            stop_reason=self.stop_reason,
        )


@dataclass(frozen=True, slots=True)
class _VllmLease:
    """One version, pinned."""

    policy: VllmPolicy
    acts: Lease

    @property
    def version(self) -> str:
        """The version of acts and words."""
        return self.acts.version

    async def choose(self, request: ActRequest) -> Choice:
        """Draw one act."""
        return await self.acts.choose(request)

    def write(self, request: TextRequest) -> AsyncGenerator[TextDelta, None]:
        """Stream a reply."""
        return self.policy.write(request, self.version)
