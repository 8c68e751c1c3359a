"""What was read of prompts, kept in blocks for whoever begins alike. No tensors: what a block holds is the caller's.

A block is found by who read it and by every token before it, so two versions never share one (unless both let the base
model read). Bounded; the block that was not used for longest goes first, the end of a prompt before its beginning.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Generic, TypeVar

BLOCK_TOKENS = 16
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PrefixStats:
    """Since the start, but for `num_blocks`."""

    num_blocks: int = 0
    """Held now."""
    num_reused: int = 0
    """Prompt tokens that did not have to be read again."""
    num_read: int = 0
    """Prompt tokens that had to be read."""
    num_evicted: int = 0
    """Blocks that made room for others."""


class PrefixCache(Generic[T]):
    """Blocks of `BLOCK_TOKENS` tokens in chains; one thread."""

    def __init__(self, max_blocks: int) -> None:
        self.max_blocks = max_blocks
        self._blocks: OrderedDict[tuple[int, tuple[int, ...]], tuple[int, T]] = OrderedDict()
        self._roots: dict[str, int] = {}
        self._ids = count()
        self.stats = PrefixStats()

    def find(self, reader: str, tokens: Sequence[int]) -> list[T]:
        """The blocks at the beginning of `tokens` that are held, in order."""
        chain = self._chain(reader, tokens)
        for key in reversed(chain):  # The beginning is used by more prompts than the end: it is to stay longer.
            self._blocks.move_to_end(key)
        return [self._blocks[key][1] for key in chain]

    def count(self, *, num_reused: int = 0, num_read: int = 0) -> None:
        """Add to what was reused and read: who asks knows what it took over."""
        stats = self.stats
        self.stats = replace(stats, num_reused=stats.num_reused + num_reused, num_read=stats.num_read + num_read)

    def keep(self, reader: str, tokens: Sequence[int], make: Callable[[int, int], T]) -> None:
        """Hold every whole block of `tokens`; `make(start, end)` gives those that are not held yet."""
        if not self.max_blocks:
            return
        tokens = tokens[: self.max_blocks * BLOCK_TOKENS]  # More would push out its own beginning.
        chain = self._chain(reader, tokens)
        parent = self._blocks[chain[-1]][0] if chain else self._roots.setdefault(reader, next(self._ids))
        for start in range(len(chain) * BLOCK_TOKENS, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            key = parent, tuple(tokens[start : start + BLOCK_TOKENS])
            parent = next(self._ids)
            self._blocks[key] = parent, make(start, start + BLOCK_TOKENS)
        for key in reversed(self._chain(reader, tokens)):
            self._blocks.move_to_end(key)
        self._evict()

    def drop(self, reader: str) -> None:
        """Forget what a version read: it will not read again."""
        gone = {self._roots.pop(reader, -1)}
        while orphans := [key for key, (block, _) in self._blocks.items() if key[0] in gone]:
            gone |= {self._blocks.pop(key)[0] for key in orphans}
        self.stats = replace(self.stats, num_blocks=len(self._blocks))

    def _chain(self, reader: str, tokens: Sequence[int]) -> list[tuple[int, tuple[int, ...]]]:
        found: list[tuple[int, tuple[int, ...]]] = []
        parent = self._roots.get(reader)
        for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            key = parent, tuple(tokens[start : start + BLOCK_TOKENS])
            if parent is None or key not in self._blocks:
                break
            found.append((parent, key[1]))
            parent = self._blocks[found[-1]][0]
        return found

    def _evict(self) -> None:
        num_evicted = max(0, len(self._blocks) - self.max_blocks)
        for _ in range(num_evicted):
            self._blocks.popitem(last=False)
        self.stats = replace(self.stats, num_blocks=len(self._blocks), num_evicted=self.stats.num_evicted + num_evicted)


def block_keys(reader: str, tokens: Sequence[int]) -> tuple[int, ...]:
    """A number for each whole block of `tokens`: equal where reader, block and all before it are equal (and, once in 2**60
    or so, by accident)."""
    keys, key = [], hash(reader)
    for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        key = hash((key, tuple(tokens[start : start + BLOCK_TOKENS])))
        keys.append(key)
    return tuple(keys)


def followers(todo: Sequence[Sequence[int]]) -> set[int]:
    """By their blocks that are still to be read, in the order of who reads: the places of those that had better wait, since
    one before them reads the same next block."""
    claimed, waiting = set[int](), set[int]()
    for place, keys in enumerate(todo):
        if keys and keys[0] in claimed:
            waiting.add(place)
        claimed.update(keys)
    return waiting
