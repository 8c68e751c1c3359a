"""What a policy is, seen from outside: no torch here.

`Policy` is the narrow waist between a chat session and whatever makes decisions (our engine, a scripted
fake, later a remote server). A session leases a version once per reply and uses the lease for every step
of that reply, so a reply is made by exactly one version (DESIGN section 6, invariant 2).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bot.conversation import Generated, LegalAct


@dataclass(frozen=True, slots=True)
class ActRequest:
    """Choose one of `legal` for the rendered state."""

    query: str
    """Rendered state for the encoder part (`bot.render.query_text`)."""
    prompt: str
    """Rendered state for the causal part (`bot.render.prompt_text`); may be empty when that part is off."""
    legal: tuple[LegalAct, ...]
    seed: int
    """Of this choice's own random stream: the same seed, version and request give the same act."""


@dataclass(frozen=True, slots=True)
class Choice:
    """An act drawn once from the whole distribution, which is kept."""

    chosen: int
    mode: int
    logprobs: tuple[float, ...]
    value: float
    query_ids: tuple[int, ...]
    temperature: float
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TextRequest:
    """Write a reply grounded in `sources`."""

    prompt: str
    """Rendered by `bot.render`; tokenised once by the engine."""
    sources: tuple[str, ...]
    seed: int
    max_tokens: int = 80
    temperature: float = 0.7
    chat: str = ""
    """Whose reply it is: conversations take turns when more replies wait than can be written at once."""
    stop: tuple[str, ...] = ()
    """Strings at which the reply ends; they are not shown."""
    deadline_s: float | None = None
    """From now: a reply that has not begun by then is a ModelError, one that has ends there."""
    sentence_from: int | None = None
    """Tokens from which on the reply ends with its sentence; None: only `max_tokens` ends it."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the reply; the last one carries the whole `Generated` record."""

    text: str
    generated: Generated | None = None


@dataclass(frozen=True, slots=True)
class WriterStats:
    """Of the engine's writer, since its start unless said otherwise."""

    num_waiting: int = 0
    """Replies without a place, now."""
    num_running: int = 0
    """Replies in the batch, now."""
    num_steps: int = 0
    num_tokens: int = 0
    """Written."""
    num_replies: int = 0
    """Begun."""
    num_prefix_reused: int = 0
    """Prompt tokens that did not have to be read."""
    num_prefix_read: int = 0
    """Prompt tokens that had to be read."""
    num_prefix_evicted: int = 0
    """Blocks of prompts that made room for others."""
    num_prefix_blocks: int = 0
    """Held now."""
    step_s: float = 0.0
    """Spent in steps, in all."""


class Lease(Protocol):
    """The right to use one version until the reply ends."""

    @property
    def version(self) -> str:
        """For example `v000123`."""

    async def choose(self, request: ActRequest) -> Choice:
        """Draw one act. Raises ModelError when the engine is gone."""

    def write(self, request: TextRequest) -> AsyncGenerator[TextDelta, None]:
        """Stream a reply; closing the iterator cancels it."""


class Policy(Protocol):
    """Decides and writes, at some version."""

    def lease(self, version: str | None = None) -> AbstractAsyncContextManager[Lease]:
        """Pin a version (None: the champion) for the length of one reply."""

    @property
    def champion(self) -> str:
        """The version new replies get."""

    @property
    def can_write(self) -> bool:
        """Whether `Lease.write` works (a causal part is loaded or can be)."""

    def fault(self, version: str) -> str:
        """Why the words of a version that is leased cannot be trusted; empty where nothing is known against them."""


class Embedder(Protocol):
    """Turns texts into unit vectors with the base encoder (no adapter)."""

    @property
    def name(self) -> str:
        """Model name and hash: embeddings of different models never mix."""

    async def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """One unit vector [N, D] per text, in order."""
