"""Replies written together: one thread that owns decoder, scheduler and what was read of prompts.

    write -> inbox -> admit (prefixes from the cache) -> plan -> Decoder.run -> draw -> deltas to each reply's own queue

Every step holds one token of each running reply, of whatever version, and a piece of the prompts that wait. What a reply
says depends on its request, version and seed; not on its company. A prompt that cannot be read, or logits of which no word can be drawn, are their own reply's error; one in
a step or a command goes to all replies, and the thread goes on. Closing the iterator of a reply frees its place before the next step.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from queue import SimpleQueue

import numpy as np
import torch
from torch import Tensor

from bot.errors import ModelError
from bot.policy.adapted import BASE
from bot.policy.decoder import Decoder, Layers
from bot.policy.endings import last_place, num_held_back, read_on
from bot.policy.grounding import amounts
from bot.policy.prefixes import BLOCK_TOKENS, PrefixCache, block_keys, followers
from bot.policy.reply import Reply
from bot.policy.sampling import NOTHING_TO_DRAW, draw
from bot.policy.scheduler import Job, Reading, Scheduler
from bot.policy.tally import SECONDS, SIZES, Tally
from bot.policy.threads import use_threads
from bot.policy.types import TextDelta, TextRequest, WriterStats
from bot.policy.vocabulary import Vocabulary

log = logging.getLogger(__name__)

CLOSED = "the engine is closed: the server is stopping"


class Writer:
    """Continuous batching over one decoder. `write` belongs to an event loop, the rest to any thread."""

    def __init__(
        self,
        words: Vocabulary,
        decoder: Decoder,
        *,
        step_tokens: int = 0,
        max_prefix_tokens: int = 8192,
        num_threads: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`step_tokens`: 0 for the decoder's own. `num_threads`: torch's, of the thread that writes; 0 leaves torch's
        choice."""
        step_tokens = step_tokens or decoder.step_tokens
        self._words = words
        self._num_threads = num_threads
        self.decoder = decoder
        self._clock = clock
        self._scheduler = Scheduler(decoder.num_slots, step_tokens, max(512, 4 * step_tokens))
        self._prefixes: PrefixCache[Tensor] = PrefixCache(max_prefix_tokens // BLOCK_TOKENS)
        self._replies: dict[Job, Reply] = {}
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._stats = WriterStats()
        self.batches = Tally(SIZES)
        """Replies in a step."""
        self.queue_s = Tally(SECONDS)
        """From asking for a reply to its slot."""
        self._closed = self._is_told_to_stop = False
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    # --- from outside ---------------------------------------------------------------------------------------------
    @property
    def stats(self) -> WriterStats:
        """Counters, as of the latest step."""
        return self._stats

    @property
    def has_died(self) -> bool:
        """Whether its thread ends without being told to: it writes no more, and another has to take its place once this one
        is closed."""
        return self._closed and not self._is_told_to_stop

    async def write(
        self, request: TextRequest, version: str, invocation: Sequence[int]
    ) -> AsyncGenerator[TextDelta, None]:
        """Stream a reply by a version of the decoder (BASE: none) that begins to read at the last occurrence of
        `invocation` (empty: at once). Raises ModelError."""
        outbox: asyncio.Queue[TextDelta | Exception] = asyncio.Queue()
        loop, job = asyncio.get_running_loop(), Job(request.chat, 0)

        def emit(item: TextDelta | Exception) -> None:
            try:
                loop.call_soon_threadsafe(outbox.put_nowait, item)
            except RuntimeError:  # The loop was closed: nobody waits.
                self._inbox.put(lambda: self._cancel(job))

        self._post(lambda: self._begin(job, request, version, tuple(invocation), emit))
        try:
            while True:
                item = await outbox.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.generated is not None:
                    return
        finally:
            self._inbox.put(lambda: self._cancel(job))

    def drop(self, version: str) -> None:
        """Free a version: what was asked before comes first. Its memory is given back by the calling thread: for hundreds
        of megabytes that takes as long as a step."""
        done, layers = threading.Event(), list[Layers | None]()

        def drop() -> None:
            try:
                layers.append(self.decoder.drop(version))
                self._prefixes.drop(version)
            finally:
                done.set()

        self._inbox.put(drop)
        while not done.wait(0.1) and self._thread.is_alive():
            pass
        if not done.is_set():  # The thread has died, and nobody else is in the decoder.
            drop()

    def close(self) -> None:
        """Stop after the step that runs; replies that are not finished get a ModelError."""
        self._closed = self._is_told_to_stop = True
        self._inbox.put(None)
        self._thread.join()

    def _post(self, command: Callable[[], None]) -> None:
        self._inbox.put(command)
        # In this order: what was put before `_closed` is still obeyed by the thread, if only to be given up.
        if self._closed or not self._thread.is_alive():
            raise ModelError(CLOSED)

    # --- on the writer's thread -----------------------------------------------------------------------------------
    def _run(self) -> None:
        use_threads(self._num_threads)
        try:
            self._serve()
        finally:
            self._closed = True
            while not self._inbox.empty():
                self._do(self._inbox.get())
            self._give_up(ModelError(CLOSED))

    def _serve(self) -> None:
        while self._obey():
            try:
                self._step()
            except Exception as error:
                log.exception("a step of the writer failed; its replies are given up")
                self._give_up(ModelError(f"the writer failed: {error}"))

    def _obey(self) -> bool:
        """Do what was asked since; wait when there is nothing to write. False: stop."""
        while not self._inbox.empty() or not self._replies:
            command = self._inbox.get()
            if command is None:
                return False
            self._do(command)
        return True

    def _do(self, command: Callable[[], None] | None) -> None:
        """One that fails may have left the slots half moved: no reply can be trusted to go on."""
        try:
            if command is not None:
                command()
        except Exception as error:
            log.exception("a command to the writer failed; all replies are given up")
            self._give_up(ModelError(f"the writer failed: {error}"))

    def _give_up(self, error: ModelError) -> None:
        for reply in list(self._replies.values()):
            try:
                self._remove(reply)
            except Exception:
                log.exception("the slot of a reply that was given up could not be cleared")
            reply.emit(error)

    def _begin(
        self,
        job: Job,
        request: TextRequest,
        version: str,
        invocation: tuple[int, ...],
        emit: Callable[[TextDelta | Exception], None],
    ) -> None:
        try:
            if version not in self.decoder.versions:
                raise ModelError(f"expected one of the loaded versions, got {version}")
            prompt_ids, most = self._words.reply_ids(request.prompt), self.decoder.num_positions
            if len(prompt_ids) > most:
                raise ModelError(f"prompt: expected at most {most} tokens, got {len(prompt_ids)}")
            known, uniforms = amounts(" ".join(request.sources)), random.Random(request.seed)
        except Exception as error:  # noqa: BLE001 - this boundary hands every fault of a prompt to who asked
            emit(error if isinstance(error, ModelError) else ModelError(f"prompt: {error}"))
            return
        job.num_prompt = len(prompt_ids)
        job.deadline_at = None if request.deadline_s is None else self._clock() + request.deadline_s
        begin = 0 if version == BASE else last_place(prompt_ids, invocation)
        reply = Reply(request, version, prompt_ids, begin, job, known, uniforms, emit, self._clock())
        reply.block_keys = block_keys(*reply.shared)[: self._prefixes.max_blocks]
        self._replies[job] = reply
        self._scheduler.add(job)

    def _cancel(self, job: Job) -> None:
        if job in self._replies:
            self._remove(self._replies[job])

    def _step(self) -> None:
        started = self._clock()
        for job in self._scheduler.expired(started):
            self._expire(self._replies[job])
        for job in self._scheduler.admit():
            self._admit(self._replies[job])
        writing, reading = self._scheduler.plan(self._followers())
        pieces = [self._replies[job].next_piece() for job in writing]
        pieces += [piece for part in reading for piece in self._replies[part.job].prompt_pieces(part)]
        if pieces:
            self.batches.add(len(self._scheduler.running))
            speaking = [self._replies[job] for job in writing]
            speaking += [self._replies[part.job] for part in reading if part.job.is_writing]
            logits_R_V = self.decoder.run(pieces)
            for part in reading:
                self._remember(part)
            if speaking:
                self._speak(speaking, logits_R_V)
        self._count(started, len(writing) + sum(part.job.is_writing for part in reading))

    def _count(self, started: float, num_tokens: int) -> None:
        stats, prefixes = self._stats, self._prefixes.stats
        self._stats = replace(
            stats,
            num_waiting=self._scheduler.num_waiting,
            num_running=len(self._scheduler.running),
            num_steps=stats.num_steps + 1,
            num_tokens=stats.num_tokens + num_tokens,
            num_prefix_reused=prefixes.num_reused,
            num_prefix_read=prefixes.num_read,
            num_prefix_evicted=prefixes.num_evicted,
            num_prefix_blocks=prefixes.num_blocks,
            step_s=stats.step_s + self._clock() - started,
        )

    # --- prompts --------------------------------------------------------------------------------------------------
    def _admit(self, reply: Reply) -> None:
        self._stats = replace(self._stats, num_replies=self._stats.num_replies + 1)
        self.queue_s.add(self._clock() - reply.asked_at)

    def _recall(self, reply: Reply) -> None:
        """Put what was read of this prompt by others, and goes on where its own reading ends, into the slot."""
        if reply.job.num_read % BLOCK_TOKENS:
            return
        found = self._prefixes.find(*reply.shared)[reply.job.num_read // BLOCK_TOKENS :]
        for kept in found:
            self.decoder.write(reply.slot, reply.job.num_read, kept)
            reply.job.num_read += BLOCK_TOKENS
        self._prefixes.count(num_reused=len(found) * BLOCK_TOKENS)

    def _followers(self) -> list[Job]:
        """Many who ask at once begin alike (persona, rules): one of them reads that, the others take it over."""
        beginning = [self._replies[job] for job in self._scheduler.running if not job.is_writing]
        for reply in beginning:
            self._recall(reply)
        # Who has read most leads, wherever the end of another reply has moved it.
        beginning.sort(key=lambda reply: -reply.job.num_read)
        todo = [reply.block_keys[reply.job.num_read // BLOCK_TOKENS :] for reply in beginning]
        return [beginning[place].job for place in followers(todo)]

    def _remember(self, part: Reading) -> None:
        """Keep what was read of the beginning of a prompt."""
        reply = self._replies[part.job]
        slot, (reader, tokens) = reply.slot, reply.shared
        self._prefixes.count(num_read=part.end - part.start)
        self._prefixes.keep(reader, tokens[: part.end], lambda start, end: self.decoder.read(slot, start, end))

    # --- words ----------------------------------------------------------------------------------------------------
    @torch.inference_mode()
    def _speak(self, replies: Sequence[Reply], logits_R_V: Tensor) -> None:
        """Draw the next token of each, under its own temperature, mask and random stream."""
        device = logits_R_V.device
        masks = np.stack([self._words.allowed(reply.text, reply.known) for reply in replies])
        temperature_R_1 = torch.tensor([[reply.request.temperature] for reply in replies])
        temperature_R_1, allowed_R_V = (
            x.to(device, non_blocking=True) for x in (temperature_R_1, torch.from_numpy(masks))
        )
        tokens, logprobs = draw(
            logits_R_V, temperature_R_1, allowed_R_V, [reply.uniforms.random() for reply in replies]
        )
        for reply, token, logprob in zip(replies, tokens, logprobs, strict=True):
            if math.isnan(logprob):
                self._finish(reply, ModelError(NOTHING_TO_DRAW))
                continue
            reply.tokens.append(token)
            reply.logprobs.append(logprob)
            self._go_on(reply)

    def _go_on(self, reply: Reply) -> None:
        """Send what the newest token adds to the text; end the reply where it ends."""
        reply.text, stop_reason = read_on(self._words, reply.text, reply.tokens, reply.request)
        if len(reply.prompt_ids) + len(reply.tokens) > self.decoder.num_positions:
            stop_reason = stop_reason or "length"
        if stop_reason:
            self._finish(reply, stop_reason)
        else:
            self._send(reply, len(reply.text) - num_held_back(reply.text, reply.request.stop))

    def _send(self, reply: Reply, end: int) -> None:
        if end > reply.num_sent:
            reply.emit(TextDelta(reply.text[reply.num_sent : end]))
            reply.num_sent = end

    def _expire(self, reply: Reply) -> None:
        late = f"no reply within {reply.request.deadline_s:g} s: the server is busy"
        self._finish(reply, "deadline" if reply.tokens else ModelError(late))

    def _finish(self, reply: Reply, outcome: str | ModelError) -> None:
        self._remove(reply)
        if isinstance(outcome, ModelError):
            reply.emit(outcome)
            return
        self._send(reply, len(reply.text))
        reply.emit(TextDelta("", reply.generated(outcome, str(self.decoder.dtype).removeprefix("torch."))))

    def _remove(self, reply: Reply) -> None:
        del self._replies[reply.job]
        moved = self._scheduler.remove(reply.job)
        if moved is not None:
            source, target = moved
            taker = self._replies[self._scheduler.running[target]]
            self.decoder.move(source, target, taker.job.num_read + len(taker.tokens))
