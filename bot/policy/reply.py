"""One reply while it is written: what was asked, what was read and written of it, and what of it goes into a pass.

Bookkeeping alone: no thread, model or tensor (`bot.policy.writer` has those).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from bot.conversation import Generated
from bot.policy.adapted import BASE
from bot.policy.pieces import Piece
from bot.policy.scheduler import Job, Reading
from bot.policy.types import TextDelta, TextRequest


@dataclass(slots=True, eq=False)
class Reply:
    """Belongs to the writer's thread, but for what `emit` leads to."""

    request: TextRequest
    version: str
    prompt_ids: tuple[int, ...]
    begin: int
    """Where the version begins to read; before, the base model does."""
    job: Job
    known: frozenset[str]
    uniforms: random.Random
    emit: Callable[[TextDelta | Exception], None]
    asked_at: float
    """By the writer's clock, seconds."""
    block_keys: tuple[int, ...] = ()
    """Of the blocks that others may share."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""
    num_sent: int = 0

    @property
    def slot(self) -> int:
        """Its place in the decoder."""
        assert self.job.slot is not None, "only running replies are in a pass"
        return self.job.slot

    @property
    def shared(self) -> tuple[str, tuple[int, ...]]:
        """Who reads the beginning of the prompt, and the tokens of it that others may share: not the last one, of which
        logits are wanted."""
        end = self.begin or len(self.prompt_ids)
        return (BASE if self.begin else self.version), self.prompt_ids[: min(end, len(self.prompt_ids) - 1)]

    def prompt_pieces(self, part: Reading) -> list[Piece]:
        """By the base model up to where the version begins to read, then by the version."""
        middle = min(max(self.begin, part.start), part.end)
        spans = [(BASE, part.start, middle), (self.version, middle, part.end)]
        return [
            Piece(self.slot, start, self.prompt_ids[start:end], reader, int(end == len(self.prompt_ids)))
            for reader, start, end in spans
            if start < end
        ]

    def next_piece(self) -> Piece:
        """The newest token, after which the next one is drawn."""
        position = len(self.prompt_ids) + len(self.tokens) - 1
        return Piece(self.slot, position, (self.tokens[-1],), self.version, 1)

    def generated(self, stop_reason: str, dtype: str) -> Generated:
        """The whole record. `dtype`: the decoder's arithmetic."""
        request = self.request
        return Generated(
            self.prompt_ids,
            tuple(self.tokens),
            tuple(self.logprobs),
            request.temperature,
            request.sources,
            self.text.strip(),
            stop_reason,
            dtype,
        )
