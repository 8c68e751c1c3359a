"""Steps of the decoder as CUDA graphs: one launch in place of some six hundred.

A GPU is done with a step of few replies long before Python has asked for its kernels one by one. What is asked for depends
on the version, on how many replies there are and on the span they see, and on no number besides: so it is recorded once for
each and then replayed over the same addresses, which gives the same bits.

1. the first such step runs as ever, and lets the libraries make what must not be made while recording;
2. the second is recorded, its batch kept: a later one's numbers are copied into it;
3. a version that goes takes its graphs along, since they read its weights.

Owns recordings alone; what a step computes is the decoder's. One thread.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

log = logging.getLogger(__name__)

MAX_GRAPHS = 64
"""A recording holds its logits (16 replies of SmolLM2: 3 MB); the one that was not used for longest goes first."""

Key = tuple[str, int, int]


class Step(Protocol):
    """A batch of the decoder."""

    numbers_X: Tensor
    """All that differs between two steps of the same key."""

    @property
    def key(self) -> Key | None:
        """(version, replies, span) of a step that holds the next token of each reply and no more; None: another one."""

    def lay_mask(self) -> None:
        """Make again, of the numbers, what was made of them."""


StepT = TypeVar("StepT", bound=Step)


@dataclass(frozen=True, slots=True)
class Recording:
    """A graph with what it reads and writes."""

    graph: Any
    numbers_X: Tensor
    logits_R_V: Tensor
    batch: Step
    """Kept, since the graph reads its tensors."""

    def replay(self, numbers_X: Tensor) -> Tensor:
        """Logits [R, V] of another step's numbers."""
        self.numbers_X.copy_(numbers_X)
        self.graph.replay()
        return self.logits_R_V.clone()


class Graphs(Generic[StepT]):
    """Runs `forward(batch) -> logits` on a CUDA device."""

    def __init__(self, forward: Callable[[StepT], Tensor], device: torch.device) -> None:
        self._forward = forward
        self._held: OrderedDict[Key, Recording | None] = OrderedDict()
        """None: such a step ran once."""
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.num_replayed = 0

    def run(self, batch: StepT) -> Tensor:
        """Logits [R, V]."""
        key = batch.key
        if key is None:
            return self._forward(batch)
        if key not in self._held:
            self._keep(key, None)
            return self._forward(batch)
        recording = self._held[key] or self._record(batch)
        self._keep(key, recording)
        self.num_replayed += 1
        return recording.replay(batch.numbers_X)

    def drop(self, version: str) -> None:
        """Forget what was recorded of a version."""
        for key in [key for key in self._held if key[0] == version]:
            del self._held[key]

    def _keep(self, key: Key, recording: Recording | None) -> None:
        self._held[key] = recording
        self._held.move_to_end(key)
        while len(self._held) > MAX_GRAPHS:
            self._held.popitem(last=False)

    def _record(self, batch: StepT) -> Recording:
        graph: Any = torch.cuda.CUDAGraph()
        # Memory is shared with the others, which never run at the same time. A pool that all have left is gone.
        pool = next((held.graph.pool() for held in self._held.values() if held is not None), None)
        asked = torch.cuda.current_stream()
        self._stream.wait_stream(asked)
        with torch.cuda.stream(self._stream):
            # Other threads go on using the device meanwhile: they load versions and score acts.
            graph.capture_begin(pool, capture_error_mode="thread_local")
            try:
                batch.lay_mask()
                logits_R_V = self._forward(batch)
            finally:
                graph.capture_end()
        asked.wait_stream(self._stream)
        return Recording(graph, batch.numbers_X, logits_R_V, batch)
