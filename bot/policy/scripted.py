"""A policy that does what a script says: for tests and for trying pages without a model. No torch here.

By default it takes the legal act with the highest `prior_logit` and writes a fixed text. `acts` overrides the choices in
order; `hold()` makes every piece of text wait for `step()`, so a test decides when a reply grows.
"""

from __future__ import annotations

import asyncio
import math
import re
import zlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import numpy as np
import numpy.typing as npt

from bot.conversation import BASE_VERSION, Generated, LegalAct
from bot.errors import ModelError
from bot.policy.types import ActRequest, Choice, TextDelta, TextRequest

DEFAULT_TOKENS = ("I", " can", " help", ".")
TOKEN_LOGPROB = math.log(0.5)
"""Every scripted token has probability one half."""


class ScriptedPolicy:
    """A `Policy`. Knobs are plain attributes; one event loop."""

    def __init__(
        self,
        acts: Iterable[str] = (),
        tokens: Sequence[str] = DEFAULT_TOKENS,
        champion: str = BASE_VERSION,
        *,
        can_write: bool = True,
    ) -> None:
        self.acts = list(acts)
        """Act ids of the next choices, first one first; empty: the mode."""
        self.tokens = tuple(tokens)
        self.champion = champion
        """Set it to publish another version: leases already taken keep theirs."""
        self.can_write = can_write
        self.failure: ModelError | None = None
        """Raised by every choice and text while set."""
        self.faults: dict[str, str] = {}
        """Version -> what is known against its words."""
        self.requests: list[ActRequest | TextRequest] = []
        self.leases: Counter[str] = Counter()
        """Version -> leases held now."""
        self.started = asyncio.Event()
        """Set when a text begins."""
        self.cancelled = asyncio.Event()
        """Set when a text was closed before its end."""
        self._steps: asyncio.Semaphore | None = None

    def fault(self, version: str) -> str:
        """As scripted."""
        return self.faults.get(version, "")

    def hold(self) -> None:
        """From now on every piece of text waits for a `step`."""
        self._steps = asyncio.Semaphore(0)

    def step(self, pieces: int = 1) -> None:
        """Let this many pieces go."""
        assert self._steps is not None, "step() needs hold()"
        for _ in range(pieces):
            self._steps.release()

    @asynccontextmanager
    async def lease(self, version: str | None = None) -> AsyncIterator[ScriptedLease]:
        """Pin a version for one reply."""
        pinned = version or self.champion
        self.leases[pinned] += 1
        try:
            yield ScriptedLease(self, pinned)
        finally:
            self.leases[pinned] -= 1

    async def next_step(self) -> None:
        """Wait for permission to write one piece."""
        if self._steps is not None:
            await self._steps.acquire()


class ScriptedLease:
    """One version of a ScriptedPolicy."""

    def __init__(self, policy: ScriptedPolicy, version: str) -> None:
        self._policy = policy
        self.version = version

    async def choose(self, request: ActRequest) -> Choice:
        """The next scripted act, or the mode; log-probabilities are the softmax of the prior logits."""
        self._record(request)
        mode = max(range(len(request.legal)), key=lambda i: request.legal[i].prior_logit)
        chosen = self._scripted(request.legal) if self._policy.acts else mode
        return Choice(
            chosen=chosen,
            mode=mode,
            logprobs=_log_softmax([act.prior_logit for act in request.legal]),
            value=0.0,
            query_ids=tuple(request.query.encode()),
            temperature=1.0,
            parts=("encoder",),
        )

    async def write(self, request: TextRequest) -> AsyncGenerator[TextDelta, None]:
        """The scripted tokens, one delta each; the last one carries the record."""
        self._record(request)
        self._policy.started.set()
        tokens = self._policy.tokens[: request.max_tokens]
        finished = False
        try:
            for position, token in enumerate(tokens):
                await self._policy.next_step()
                is_last = position == len(tokens) - 1
                finished = is_last
                yield TextDelta(token, _generated(request, tokens) if is_last else None)
        finally:
            if not finished:
                self._policy.cancelled.set()

    def _record(self, request: ActRequest | TextRequest) -> None:
        self._policy.requests.append(request)
        if self._policy.failure is not None:
            raise self._policy.failure

    def _scripted(self, legal: Sequence[LegalAct]) -> int:
        wanted = self._policy.acts.pop(0)
        ids = [act.act for act in legal]
        assert wanted in ids, f"script: expected one of the legal acts {ids}, got {wanted!r}"
        return ids.index(wanted)


class HashedWords:
    """An `Embedder` without a model: texts are near each other where they share words."""

    name = "hashed-words:1"
    width = 4096

    async def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Unit vectors [N, 4096]; an empty text is a unit vector too."""
        rows_N_D = np.full((len(texts), self.width), 1e-3, dtype=np.float32)
        for i, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                rows_N_D[i, zlib.crc32(word.encode()) % self.width] += 1.0
        units_N_D: npt.NDArray[np.float32] = rows_N_D / np.linalg.norm(rows_N_D, axis=1, keepdims=True)
        return units_N_D


def _log_softmax(logits: Sequence[float]) -> tuple[float, ...]:
    top = max(logits)
    log_total = top + math.log(sum(math.exp(logit - top) for logit in logits))
    return tuple(logit - log_total for logit in logits)


def _generated(request: TextRequest, tokens: Sequence[str]) -> Generated:
    return Generated(
        prompt_ids=tuple(request.prompt.encode()),
        token_ids=tuple(range(len(tokens))),
        logprobs=(TOKEN_LOGPROB,) * len(tokens),
        temperature=request.temperature,
        sources=request.sources,
        text="".join(tokens),
        stop_reason="stop",
    )
