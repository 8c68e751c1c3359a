"""One model in memory, several versions; requests stay with the version they started with.

    lease(version) -> choose / write -> release
    champion pointer moved -> verify -> load beside -> probe -> flip -> old version drains -> freed

Each part has one worker thread that owns its tensors. Replies are written by a thread of their own (`bot.policy.writer`), and
versions of the causal part loaded, merged and probed in one of lower priority: a swap delays a running stream by little more
than the memory it moves.

A causal model is loaded when the first reply is to be written; from then on a version's causal adapter is hung in and
probed with the rest of the version, before it serves. That first reply is the one moment when the adapter of a version
that serves already can turn out not to be what was trained: then no word of it is shown (ModelError), and the newest
earlier version that holds serves until the pointer names this one again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bot.conversation import BASE_VERSION
from bot.errors import AdapterError, ModelError
from bot.policy.adapted import BASE
from bot.policy.adapters import AdapterStore
from bot.policy.causal import CausalPart
from bot.policy.chooser import Chooser
from bot.policy.model import PolicyModel
from bot.policy.scheduler import MicroBatcher
from bot.policy.tally import SECONDS, Tally
from bot.policy.threads import use_threads, yield_to_others
from bot.policy.types import ActRequest, Choice, Lease, TextDelta, TextRequest, WriterStats
from bot.policy.voice import Voice, WriterOptions
from bot.policy.weights import VersionFiles, read_version

log = logging.getLogger(__name__)

ROOM_WAIT_S = 60.0
"""How long a new champion waits while as many versions are in use as have copies of the layers."""


class Engine:
    """Policy and Embedder over local models."""

    def __init__(
        self,
        model: PolicyModel,
        adapters: AdapterStore,
        *,
        temperature: float,
        load_causal: Callable[[], CausalPart] | None = None,
        max_batch: int = 32,
        writing: WriterOptions | None = None,
        act_threads: int = 0,
        read: Callable[[AdapterStore, str], VersionFiles] = read_version,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._crowded_at: float | None = None
        """Since when a new champion waits for older versions to leave."""
        self._model = model
        self._chooser = Chooser(model, temperature)
        self._adapters = adapters
        self._read = read
        self._load_causal = load_causal
        self._writing = writing or WriterOptions()
        self._voice: Voice | None = None
        self._encoder_thread = ThreadPoolExecutor(1, "encoder", use_threads, (act_threads,))
        # A causal part that also scores acts has one owner: two threads in one model would mix their adapters.
        self._causal_thread = self._encoder_thread if model.causal is not None else ThreadPoolExecutor(1, "causal")
        # Loading, merging and probing a version takes seconds of a core: those who are being written for go before it.
        self._gentle_thread = ThreadPoolExecutor(1, "versions", yield_to_others)
        self._choices = MicroBatcher(self._encoder_thread, self._chooser.choose, max_batch=max_batch)
        self._embeddings = MicroBatcher(self._encoder_thread, self._chooser.embed, max_batch=max_batch)
        self._loaded: dict[str, VersionFiles] = {}
        self._refs: Counter[str] = Counter()
        self._champion = BASE_VERSION
        self._refused: dict[str, float] = {}
        self._faults: dict[str, str] = {}
        """Version in memory -> why it writes nothing."""
        self._num_swaps = self._num_refused = 0
        self._swap_s = Tally(SECONDS)
        self._loading = asyncio.Lock()
        self._causal_loading = asyncio.Lock()
        self._closed = False

    # --- life -----------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Serve the champion, or the newest earlier version that can be trusted."""
        pointer = self._adapters.champion().version
        await self._adopt_first([pointer, *self._before(pointer)])

    async def close(self) -> None:
        """Stop the worker threads after what they are doing. Whatever is asked afterwards is a ModelError."""
        self._closed = True
        if self._voice is not None:
            await asyncio.to_thread(self._voice.close)
        for thread in (self._encoder_thread, self._causal_thread, self._gentle_thread):
            await asyncio.to_thread(thread.shutdown, True, cancel_futures=True)

    async def follow_champion(self, poll_s: float = 0.25) -> None:
        """Swap whenever the pointer moves. Runs until cancelled."""
        while True:
            try:
                await self._follow_once()
            except Exception as error:  # noqa: BLE001 - this loop must outlive whatever lies in the folder
                log.warning("champion pointer: %s; still serving %s", error, self._champion)
            await asyncio.sleep(poll_s)

    async def _follow_once(self) -> None:
        pointer = self._adapters.champion()
        is_news = pointer.version != self._champion and self._refused.get(pointer.version) != pointer.since
        if is_news and self._waits_for_room(pointer.version):
            return
        self._crowded_at = None  # Also when the pointer went back: the next one waits its own time.
        if is_news and not await self._adopt(pointer.version):
            self._refused[pointer.version] = pointer.since

    def _waits_for_room(self, version: str) -> bool:
        """Whether older versions are to end their replies first, so that this one's words are computed as always."""
        if self._voice is None or self._voice.has_room or version == BASE_VERSION or version in self._loaded:
            return False
        now = self._clock()
        self._crowded_at = self._crowded_at if self._crowded_at is not None else now
        return now - self._crowded_at < ROOM_WAIT_S

    # --- Policy -----------------------------------------------------------------------------------------------------
    @property
    def champion(self) -> str:
        """The version that new replies get."""
        return self._champion

    @property
    def can_write(self) -> bool:
        """Whether replies can be generated."""
        return self._model.causal is not None or self._load_causal is not None

    def fault(self, version: str) -> str:
        """What its causal adapter was found to be, until the version is freed."""
        return self._faults.get(version, "")

    @property
    def writer_stats(self) -> WriterStats:
        """Counters of the replies that are generated."""
        return self._voice.stats if self._voice is not None else WriterStats()

    @asynccontextmanager
    async def lease(self, version: str | None = None) -> AsyncIterator[Lease]:
        """Pin a version. Raises NotFound or AdapterError for one that cannot be loaded."""
        pinned = version or self._champion
        self._refs[pinned] += 1
        try:
            if pinned != BASE_VERSION and pinned not in self._loaded:
                await self._load(pinned)
            yield _EngineLease(self, pinned)
        finally:
            self._refs[pinned] -= 1
            await self._free_unused()

    async def choose(self, request: ActRequest, version: str) -> Choice:
        """Draw one act under a loaded version. Raises ModelError, for a request without legal acts too."""
        self._check_open()
        if not request.legal:
            raise ModelError(f"a choice for {request.query[:40]!r}: expected at least one legal act, got none")
        return await self._choices.submit((request, version))

    async def write(self, request: TextRequest, version: str) -> AsyncGenerator[TextDelta, None]:
        """Stream a reply under a loaded version, in one batch with all others. Raises ModelError, before the first piece,
        when the version's causal adapter is not what was trained: then another version serves. Its time runs from here, also
        while the model is loaded."""
        self._check_open()
        voice, request = await self._voice_for(request)
        try:
            adapter = await self._adapter_of(version, voice)
        except AdapterError as error:
            await self._withdraw(version, error)
            raise ModelError(f"no reply by {version}: its causal adapter is not what was trained ({error})") from error
        async with aclosing(voice.write(request, adapter, self._causal_thread)) as pieces:
            async for piece in pieces:
                yield piece

    async def _adapter_of(self, version: str, voice: Voice) -> str:
        """What writes for a version. One that is there does not queue behind another's load and probe, and one that was
        found to be damaged is not loaded once more for each reply. Raises AdapterError."""
        files = self._loaded.get(version)
        if version in self._faults:
            raise AdapterError(self._faults[version])
        adapter = voice.hung_in(version, files)
        if adapter is not None or files is None:
            return adapter or BASE
        return await asyncio.get_running_loop().run_in_executor(self._thread_of(voice), voice.hang_in, version, files)

    def counts(self) -> dict[str, float | Tally]:
        """Since the start, for metrics (`bot.metrics`); any thread may ask."""
        encoder, causal, voice = self._model.encoder, self._model.causal, self._voice
        return (
            (voice.counts() if voice is not None else {})
            | (causal.counts() if causal is not None else {})
            | {
                "batches": self._choices.num_batches,
                "batched_choices": self._choices.num_items,
                "batch_choices": self._choices.sizes,
                "swaps": self._num_swaps,
                "swaps_refused": self._num_refused,
                "swap_seconds": self._swap_s,
                "versions_loaded": len(self._loaded),
                "encoder_texts_asked": encoder.num_texts_asked,
                "encoder_texts_read": encoder.num_texts_read,
                "encoder_tokens_read": encoder.num_tokens_read,
            }
        )

    # --- Embedder -----------------------------------------------------------------------------------------------------
    @property
    def name(self) -> str:
        """Name and fingerprint of the base encoder."""
        return self._model.encoder.name

    @property
    def words(self) -> tuple[str, ...]:
        """Those of the base encoder's vocabulary."""
        return self._model.encoder.words

    async def embed(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Unit vectors [N, D] without any adapter."""
        if not texts:
            return np.empty((0, self._model.encoder.width), dtype=np.float32)
        rows = await asyncio.gather(*(self._embeddings.submit(text) for text in texts))
        return np.stack(rows)

    # --- versions -------------------------------------------------------------------------------------------------------
    def _before(self, version: str) -> list[str]:
        """Earlier versions that still have weights, newest first; the base version last."""
        earlier = [v for v in self._adapters.versions() if v < version and not self._adapters.is_pruned(v)]
        return [*reversed(earlier), BASE_VERSION]

    async def _adopt_first(self, candidates: Iterable[str]) -> None:
        for version in candidates:
            if await self._adopt(version):
                return

    async def _withdraw(self, version: str, why: AdapterError) -> None:
        """Serve another version than this one, as if it had been refused when it was adopted. Of a candidate its fault is
        kept for whoever leads it (`fault`)."""
        if version != self._champion:
            if version in self._loaded and version not in self._faults:
                self._faults[version] = str(why)
                log.warning("%s writes nothing: %s; who is given it sees approved answers", version, why)
            return
        log.warning("refused %s: %s; an earlier version serves", version, why)
        pointer = self._adapters.champion()
        if pointer.version == version:
            self._refused[version] = pointer.since
        await self._adopt_first(self._before(version))

    async def _adopt(self, version: str) -> bool:
        """Load, probe and flip; on any fault the champion stays."""
        started = self._clock()
        try:
            if version != BASE_VERSION:
                await self._load(version)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a version, the champion goes on serving
            log.warning("refused %s: %s; still serving %s", version, error, self._champion)
            self._num_refused += 1
            return False
        if version != self._champion:
            self._num_swaps += 1
            self._swap_s.add(self._clock() - started)
        self._champion = version
        log.info("serving %s", version)
        await self._free_unused()
        return True

    async def _load(self, version: str) -> None:
        async with self._loading:
            if version in self._loaded:
                return
            files = await asyncio.to_thread(self._read, self._adapters, version)
            loop = asyncio.get_running_loop()
            try:
                scores_acts = self._model.causal is not None
                voice = await self._need_voice() if scores_acts else self._voice
                if voice is not None:
                    await loop.run_in_executor(self._thread_of(voice), voice.hang_in, version, files)
                await loop.run_in_executor(self._encoder_thread, self._chooser.hang_in, version, files)
            except Exception:  # Whatever it was, it is raised again; nothing half hung in may stay.
                await asyncio.gather(*self._drop_later(version))
                raise
            self._loaded[version] = files

    async def _free_unused(self) -> None:
        """Free every version that nobody leases. All is queued before the first wait: a lease that begins meanwhile
        loads its version again, behind these jobs in each thread's queue."""
        idle = [] if self._closed else [v for v in self._loaded if v != self._champion and self._refs[v] == 0]
        jobs: list[asyncio.Future[None]] = []
        for version in idle:
            del self._loaded[version]
            self._faults.pop(version, None)
            jobs += self._drop_later(version)
        if jobs:
            await asyncio.shield(asyncio.gather(*jobs))

    def _drop_later(self, version: str) -> list[asyncio.Future[None]]:
        """Queued in each part's thread."""
        loop, voice = asyncio.get_running_loop(), self._voice
        jobs = [loop.run_in_executor(self._encoder_thread, self._chooser.drop_version, version)]
        if voice is not None:
            jobs.append(loop.run_in_executor(self._thread_of(voice), voice.drop_version, version))
        return jobs

    def _check_open(self) -> None:
        if self._closed:
            raise ModelError("the engine is closed: the server is stopping")

    # --- the causal part, loaded when first needed ------------------------------------------------------------------------
    async def _voice_for(self, request: TextRequest) -> tuple[Voice, TextRequest]:
        """Who writes it, and the request with the time that loading has left it. Raises ModelError where it left none."""
        if self._voice is not None or request.deadline_s is None:
            return await self._need_voice(), request
        asked_at = self._clock()
        try:
            async with asyncio.timeout(request.deadline_s):
                voice = await self._need_voice()
        except TimeoutError:
            raise ModelError(
                f"no reply within {request.deadline_s:g} s: the model that writes is being loaded"
            ) from None
        return voice, replace(request, deadline_s=max(0.0, request.deadline_s - (self._clock() - asked_at)))

    async def _need_voice(self) -> Voice:
        """It is loaded once, whoever stops waiting for it."""
        if self._voice is not None:
            return self._voice
        return await asyncio.shield(asyncio.create_task(self._load_once()))

    async def _load_once(self) -> Voice:
        async with self._causal_loading:
            if self._voice is None:
                loop = asyncio.get_running_loop()
                self._voice = await loop.run_in_executor(self._causal_thread, self._load_voice)
            return self._voice

    def _thread_of(self, voice: Voice) -> Executor:
        """Where its versions are loaded and freed: apart from the threads that score acts and write, if any may be."""
        is_alone = self._model.causal is None and voice.writes_together
        return self._gentle_thread if is_alone else self._causal_thread

    def _load_voice(self) -> Voice:
        causal = self._model.causal
        if causal is None and self._load_causal is None:
            raise ModelError("generated replies: expected a causal model, none is configured")
        loaded = causal if causal is not None or self._load_causal is None else self._load_causal()
        return Voice(loaded, self._writing, scores_acts=causal is not None)


@dataclass(frozen=True, slots=True)
class _EngineLease:
    """One version, pinned."""

    engine: Engine
    version: str

    async def choose(self, request: ActRequest) -> Choice:
        """Draw one act."""
        return await self.engine.choose(request, self.version)

    def write(self, request: TextRequest) -> AsyncGenerator[TextDelta, None]:
        """Stream a reply."""
        return self.engine.write(request, self.version)
