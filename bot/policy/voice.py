"""The causal part of an engine: one language model, the versions hung into it, and what writes with them.

A version is loaded into PEFT's model, where its probes must hold to 1e-3 nats; then its layers are prepared for the
decoder, and there the probes must hold again, to what the decoder's arithmetic may change. All of that happens beside
the thread that writes: no stream waits for a version.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import torch
from torch import Tensor

from bot.conversation import TEXT_ROUNDING
from bot.errors import AdapterError
from bot.policy.adapted import BASE
from bot.policy.causal import CausalPart
from bot.policy.decoder import Decoder, Layers, Piece, is_supported, pick_dtype
from bot.policy.endings import last_place
from bot.policy.manifest import TextProbe
from bot.policy.tally import Tally
from bot.policy.types import TextDelta, TextRequest, WriterStats
from bot.policy.vocabulary import MAX_PROMPT_TOKENS
from bot.policy.weights import VersionFiles
from bot.policy.writer import Writer

log = logging.getLogger(__name__)

PROBE_TOLERANCE = 1e-3
"""Largest difference of a canary's log-probability, nats: ten times what batching and threads change, far below one update."""
NEVER = -20.0
"""Words below this log-probability are not told apart: the grounding mask may have made them impossible (-inf)."""
MAX_MERGED = 3
"""Versions with a copy of the layers of their own (SmolLM2-135M in bfloat16: 212 MB each): the champion, the one before it
while its replies end, a candidate. More of them share the base model's and have their adapter beside it, which in bfloat16
rounds otherwise: the same seed may say other words. So a new champion waits for such a place (`Voice.has_room`)."""


@dataclass(frozen=True, slots=True)
class WriterOptions:
    """How replies are written."""

    dtype: str = "float32"
    """`auto`, `float32`, `bfloat16` (`bot.policy.decoder.pick_dtype`)."""
    num_slots: int = 16
    """Replies written at once."""
    step_tokens: int = 128
    """Tokens of a step: one of each running reply, the rest of prompts."""
    prefix_tokens: int = 8192
    """Prompt tokens kept for those who begin alike; 0: none."""
    max_reply_tokens: int = 512
    num_threads: int = 0
    """Torch threads of who writes; 0: torch's choice."""


class Voice:
    """`hang_in` and `drop_version` run in the engine's thread for versions, the constructor in its causal one, the rest in
    the event loop."""

    def __init__(self, causal: CausalPart, options: WriterOptions) -> None:
        self.causal = causal
        self._options = options
        self._held: Writer | None = None
        self._reviving = threading.Lock()
        self._merged: set[str] = set()
        if is_supported(causal.model.base.config):
            decoder = Decoder(
                causal.model.base,
                dtype=pick_dtype(options.dtype, causal.device),
                num_slots=options.num_slots,
                num_positions=MAX_PROMPT_TOKENS + options.max_reply_tokens,
            )
            self._held = self._writer_over(decoder)
        else:
            log.info("%s: replies are written one token of one reply at a time", causal.name)

    def _writer_over(self, decoder: Decoder) -> Writer:
        options, words = self._options, self.causal.vocabulary
        return Writer(
            words,
            decoder,
            step_tokens=options.step_tokens,
            max_prefix_tokens=options.prefix_tokens,
            num_threads=options.num_threads,
        )

    @property
    def _writer(self) -> Writer | None:
        """The one that writes. Where its thread has died, which ends the replies it was writing, another takes its place
        with the same versions, and without what was read of prompts."""
        with self._reviving:
            if self._held is not None and self._held.has_died:
                log.error("the writer's thread has ended; another one takes its place")
                self._held.close()  # The decoder is the new one's when the old thread has let go of it.
                self._held = self._writer_over(self._held.decoder)
            return self._held

    @property
    def stats(self) -> WriterStats:
        """Counters; zeros where replies are written one by one."""
        writer = self._writer
        return writer.stats if writer is not None else WriterStats()

    @property
    def writes_together(self) -> bool:
        """Whether replies are written by a thread of our own, and not in the causal one, one by one."""
        return self._held is not None

    @property
    def has_room(self) -> bool:
        """Whether another version would get a copy of the layers of its own."""
        return self._held is None or len(self._merged) < MAX_MERGED

    def counts(self) -> dict[str, float | Tally]:
        """Since the start, for metrics; any thread may ask. Empty where replies are written one by one."""
        writer = self._writer
        if writer is None:
            return {}
        stats = writer.stats
        return {
            "writer_replies": stats.num_replies,
            "writer_steps": stats.num_steps,
            "writer_tokens": stats.num_tokens,
            "writer_step_seconds": stats.step_s,
            "writer_waiting": stats.num_waiting,
            "writer_running": stats.num_running,
            "prefix_tokens_reused": stats.num_prefix_reused,
            "prefix_tokens_read": stats.num_prefix_read,
            "prefix_blocks_evicted": stats.num_prefix_evicted,
            "prefix_blocks": stats.num_prefix_blocks,
            "writer_batch_replies": writer.batches,
            "writer_queue_seconds": writer.queue_s,
        }

    def close(self) -> None:
        """Stop writing."""
        if self._held is not None:
            self._held.close()

    # --- versions -------------------------------------------------------------------------------------------------
    def hung_in(self, version: str, files: VersionFiles | None) -> str | None:
        """The adapter that writes for a version, where it has been probed or there is none (BASE); None: `hang_in` first.
        Any thread may ask."""
        if files is None or files.causal is None or files.causal_config is None:
            return BASE
        return version if self._held is not None and version in self._held.decoder.versions else None

    def hang_in(self, version: str, files: VersionFiles) -> str:
        """Load and probe, unless it is there; returns the adapter that writes for the version (BASE: none). What does not
        hold is not left behind. Raises AdapterError."""
        causal = self.causal
        if files.causal is None or files.causal_config is None:
            return BASE
        if version in causal.model.names and (self._held is None or version in self._held.decoder.versions):
            return version
        got = files.manifest.base_models.get("causal")
        if str(got).partition(":")[2] != causal.name.partition(":")[2]:
            raise AdapterError(f"{version}: expected a causal adapter of {causal.name}, got one of {got}")
        self.drop_version(version)
        causal.model.load(version, files.causal_config, files.causal)
        try:
            _probe_text(causal, version, files.manifest.text_probes)
            self._give_to_decoder(version, files.manifest.text_probes)
        except AdapterError:
            self.drop_version(version)
            raise
        return version

    def _give_to_decoder(self, version: str, probes: Sequence[TextProbe]) -> None:
        if self._held is None:
            return
        decoder, merged = self._held.decoder, len(self._merged) < MAX_MERGED
        layers = decoder.prepare(self.causal.model.factors(version), merged=merged)
        for probe in probes:
            _probe_decoder(self.causal, decoder, version, layers, probe)
        if merged:
            self._merged.add(version)
        decoder.add(version, layers)

    def drop_version(self, version: str) -> None:
        """Free a version, once no step uses it."""
        if version in self.causal.model.names:
            self.causal.drop_prompts(version)
            self.causal.model.delete(version)
        if self._held is not None:
            self._held.drop(version)
            self._merged.discard(version)

    # --- words ----------------------------------------------------------------------------------------------------
    async def write(self, request: TextRequest, adapter: str, thread: Executor) -> AsyncGenerator[TextDelta, None]:
        """Stream a reply; `thread` is the causal one, which writes where the decoder does not know the model."""
        writer = self._writer
        if writer is not None:
            invocation = () if adapter == BASE else self.causal.model.invocation(adapter)
            pieces = writer.write(request, adapter, invocation)
            try:
                async for piece in pieces:
                    yield piece
            finally:
                await pieces.aclose()
            return
        loop, one_by_one = asyncio.get_running_loop(), self.causal.write(request, adapter)
        while (next_piece := await loop.run_in_executor(thread, next, one_by_one, None)) is not None:
            yield next_piece


@torch.no_grad()
def _probe_text(causal: CausalPart, version: str, probes: Sequence[TextProbe]) -> None:
    """Invariant 3 for words: the adapter writes as it did in the learner, and the base model beside it as before."""
    if not probes:
        raise AdapterError(f"{version}: expected text probes of its causal adapter in the manifest, got none")
    for probe in probes:
        with causal.remembering(len(probe.reply.prompt_ids)):
            for adapter, logprobs in ((version, probe.reply.logprobs), (BASE, probe.base_logprobs)):
                got_T = causal.token_logprobs([probe.reply], [adapter])[0][0].cpu()
                compare(got_T, torch.tensor(logprobs), f"{version}: log-probabilities of the canary's words")


@torch.inference_mode()
def _probe_decoder(causal: CausalPart, decoder: Decoder, version: str, layers: Layers, probe: TextProbe) -> None:
    """The same of what will write, with a cache of its own."""
    reply = probe.reply
    length = len(reply.prompt_ids) + len(reply.token_ids)
    begin = last_place(reply.prompt_ids, causal.model.invocation(version))
    beside = decoder.beside(layers, version, num_positions=length)
    tokens = (*reply.prompt_ids[begin:], *reply.token_ids[:-1])
    pieces = [Piece(0, 0, reply.prompt_ids[:begin], BASE, 0)] if begin else []
    logits_T_V = beside.run([*pieces, Piece(0, begin, tokens, version, len(reply.token_ids))])
    got_T = causal.logprobs_of(reply, logits_T_V).cpu()
    tolerance = max(PROBE_TOLERANCE, TEXT_ROUNDING[str(decoder.dtype).removeprefix("torch.")])
    what = f"{version}: log-probabilities of the canary's words, as the decoder reads them,"
    compare(got_T, torch.tensor(reply.logprobs), what, tolerance)


def compare(got: Tensor, expected: Tensor, what: str, tolerance: float = PROBE_TOLERANCE) -> None:
    """Raises AdapterError when log-probabilities differ by more."""
    off = float((got.clamp(min=NEVER) - expected.clamp(min=NEVER)).abs().max())
    if not off <= tolerance:
        raise AdapterError(f"{what} are off by {off:.2g} (allowed {tolerance})")
