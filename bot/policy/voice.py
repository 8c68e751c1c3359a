"""The causal part of an engine: one language model, the versions hung into it, and what writes with them.

A version's probes must hold to 1e-3 nats over the model's own weights; then its layers are prepared for the decoder, and
there they must hold again, to what the decoder's arithmetic may change. All of that happens beside the thread that writes,
and in few large products: PEFT would build two hundred modules in Python meanwhile, and the interpreter's lock make every
stream wait for it. A version is hung into PEFT's model only where that scores acts, or has to write (a model that the
decoder does not know).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import torch
from peft import LoraConfig
from torch import Tensor

from bot.conversation import TEXT_ROUNDING
from bot.errors import AdapterError
from bot.policy.adapted import BASE
from bot.policy.causal import CausalPart
from bot.policy.decoder import Decoder, Layers, is_supported, pick_dtype
from bot.policy.endings import last_place
from bot.policy.factors import Factors, read_factors
from bot.policy.manifest import TextProbe
from bot.policy.pieces import Piece
from bot.policy.tally import Tally
from bot.policy.types import TextDelta, TextRequest, WriterStats
from bot.policy.vocabulary import MAX_PROMPT_TOKENS
from bot.policy.weights import VersionFiles
from bot.policy.writer import Writer

log = logging.getLogger(__name__)

CANARY = "log-probabilities of the canary's words"
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
    step_tokens: int = 0
    """Tokens of a step: one of each running reply, the rest of prompts; 0: by the device."""
    prefix_tokens: int = 8192
    """Prompt tokens kept for those who begin alike; 0: none."""
    max_reply_tokens: int = 512
    num_threads: int = 0
    """Torch threads of who writes; 0: torch's choice."""


class Voice:
    """`hang_in` and `drop_version` run in the engine's thread for versions, the constructor in its causal one, the rest in
    the event loop."""

    def __init__(self, causal: CausalPart, options: WriterOptions, *, scores_acts: bool = False) -> None:
        """`scores_acts`: versions are hung into the causal model too."""
        self.causal = causal
        self._options = options
        self._held: Writer | None = None
        self._reviving = threading.Lock()
        self._merged: set[str] = set()
        self._invocations: dict[str, tuple[int, ...]] = {}
        """Version of the decoder -> the tokens at whose last occurrence it begins to read."""
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
        self._needs_modules = scores_acts or self._held is None

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
        if files.causal is None or files.causal_config is None:
            return BASE
        if self._holds(version):
            return version
        got = files.manifest.base_models.get("causal")
        if str(got).partition(":")[2] != self.causal.name.partition(":")[2]:
            raise AdapterError(f"{version}: expected a causal adapter of {self.causal.name}, got one of {got}")
        if not files.manifest.text_probes:
            raise AdapterError(f"{version}: expected text probes of its causal adapter in the manifest, got none")
        self.drop_version(version)
        try:
            if self._needs_modules:
                self.causal.model.load(version, files.causal_config, files.causal)
                _probe_modules(self.causal, version, files.manifest.text_probes)
            if self._held is not None:
                self._give_to_decoder(self._held.decoder, version, files.causal_config, files)
        except AdapterError:
            self.drop_version(version)
            raise
        return version

    def _holds(self, version: str) -> bool:
        in_modules = version in self.causal.model.names or not self._needs_modules
        return in_modules and (self._held is None or version in self._held.decoder.versions)

    def _give_to_decoder(self, decoder: Decoder, version: str, config: LoraConfig, files: VersionFiles) -> None:
        factors = read_factors(config, files.causal or {}, decoder.maps)
        invocation = tuple(config.alora_invocation_tokens or ())
        merged = len(self._merged) < MAX_MERGED
        tried = _Tried(self.causal, version, invocation)
        for probe in files.manifest.text_probes if not self._needs_modules else ():
            tried.exactly(decoder, factors, probe)
        layers = decoder.prepare(factors, merged=merged)
        for probe in files.manifest.text_probes:
            tried.as_written(decoder, layers, probe)
        if merged:
            self._merged.add(version)
        self._invocations[version] = invocation
        decoder.add(version, layers)

    def drop_version(self, version: str) -> None:
        """Free a version, once no step uses it."""
        if version in self.causal.model.names:
            self.causal.drop_prompts(version)
            self.causal.model.delete(version)
        if self._held is not None:
            self._held.drop(version)
            self._merged.discard(version)
            self._invocations.pop(version, None)

    # --- words ----------------------------------------------------------------------------------------------------
    async def write(self, request: TextRequest, adapter: str, thread: Executor) -> AsyncGenerator[TextDelta, None]:
        """Stream a reply; `thread` is the causal one, which writes where the decoder does not know the model."""
        writer = self._writer
        if writer is not None:
            pieces = writer.write(request, adapter, self._invocations.get(adapter, ()))
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
def _probe_modules(causal: CausalPart, version: str, probes: Sequence[TextProbe]) -> None:
    """Invariant 3 for words: the adapter writes as it did in the learner, and the base model beside it as before."""
    for probe in probes:
        with causal.remembering(len(probe.reply.prompt_ids)):
            for adapter, logprobs in ((version, probe.reply.logprobs), (BASE, probe.base_logprobs)):
                got_T = causal.token_logprobs([probe.reply], [adapter])[0][0].cpu()
                compare(got_T, torch.tensor(logprobs), f"{version}: {CANARY}")


@dataclass(frozen=True, slots=True)
class _Tried:
    """The same, of a version that the decoder will write with; each time with a cache of its own."""

    causal: CausalPart
    version: str
    invocation: tuple[int, ...]

    def exactly(self, decoder: Decoder, factors: Mapping[str, Factors], probe: TextProbe) -> None:
        """Over the model's own weights."""
        exact = decoder.exact(factors, self.version, num_positions=_length(probe))
        self._compare(exact, self.version, probe, probe.reply.logprobs, CANARY, PROBE_TOLERANCE)
        self._compare(exact, BASE, probe, probe.base_logprobs, CANARY, PROBE_TOLERANCE)

    def as_written(self, decoder: Decoder, layers: Layers, probe: TextProbe) -> None:
        """With the weights and the arithmetic that will write."""
        tolerance = max(PROBE_TOLERANCE, TEXT_ROUNDING[str(decoder.dtype).removeprefix("torch.")])
        beside = decoder.beside(layers, self.version, num_positions=_length(probe))
        what = f"{CANARY}, as the decoder reads them,"
        self._compare(beside, self.version, probe, probe.reply.logprobs, what, tolerance)

    def _compare(
        self,
        decoder: Decoder,
        reader: str,
        probe: TextProbe,
        logprobs: Sequence[float],
        what: str,
        tolerance: float,
    ) -> None:
        reply = probe.reply
        begin = last_place(reply.prompt_ids, self.invocation)
        tokens = (*reply.prompt_ids[begin:], *reply.token_ids[:-1])
        pieces = [Piece(0, 0, reply.prompt_ids[:begin], BASE, 0)] if begin else []
        with torch.inference_mode():
            logits_T_V = decoder.run([*pieces, Piece(0, begin, tokens, reader, len(reply.token_ids))])
            got_T = self.causal.logprobs_of(reply, logits_T_V).cpu()
        compare(got_T, torch.tensor(logprobs), f"{self.version}: {what}", tolerance)


def _length(probe: TextProbe) -> int:
    return len(probe.reply.prompt_ids) + len(probe.reply.token_ids)


def compare(got: Tensor, expected: Tensor, what: str, tolerance: float = PROBE_TOLERANCE) -> None:
    """Raises AdapterError when log-probabilities differ by more."""
    off = float((got.clamp(min=NEVER) - expected.clamp(min=NEVER)).abs().max())
    if not off <= tolerance:
        raise AdapterError(f"{what} are off by {off:.2g} (allowed {tolerance})")
