"""What a pass of the decoder computes, as tensors: pieces of replies, laid side by side by version.

Numbers alone: no weights, no cache. All of them go to the device in one transfer, which nobody waits for.

Shapes: N tokens, R tokens with logits, S slots, P positions, X query tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import torch
from torch import Tensor

from bot.policy.graphs import Key

SPAN = 64
"""Attention runs over multiples of so many positions."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive tokens of one reply, read by one version (BASE: no adapter)."""

    slot: int
    start: int
    """Position of the first one: what comes before is in the cache."""
    tokens: tuple[int, ...]
    version: str
    num_logits: int
    """Of so many last tokens."""


class Batch:
    """The pieces of a pass as tensors: what every layer needs and none has to make again."""

    def __init__(self, pieces: Sequence[Piece], device: torch.device, groups: int) -> None:
        """`groups`: query heads a key head."""
        on_gpu = device.type == "cuda"
        order = sorted(range(len(pieces)), key=lambda i: pieces[i].version)
        starts, count = dict[int, int](), 0
        for i in order:
            starts[i], count = count, count + len(pieces[i].tokens)
        laid = [pieces[i] for i in order]
        positions = [piece.start + j for piece in laid for j in range(len(piece.tokens))]
        slots = [piece.slot for piece in laid for _ in piece.tokens]
        ends = [(starts[i] + len(piece.tokens), piece.num_logits) for i, piece in enumerate(pieces)]
        wanted = [row for end, count in ends for row in range(end - count, end)]
        self.groups = _groups(laid)
        ones: dict[int, int] = {}
        longer: list[tuple[slice, int]] = []
        for i in order:
            piece, rows = pieces[i], slice(starts[i], starts[i] + len(pieces[i].tokens))
            if len(piece.tokens) == 1 and piece.slot not in ones:
                ones[piece.slot] = rows.start
            else:
                # A GPU has no use for blocks: each is as many calls as the whole.
                longer += [(block, piece.slot) for block in ([rows] if on_gpu else _blocks(rows, piece))]
        self.num_slots = max(ones, default=-1) + 1
        # A slot without a query token is given one for company: what it sees goes nowhere.
        company = [ones.get(slot, 0) for slot in range(self.num_slots)]
        reach = [positions[ones[slot]] if slot in ones else 0 for slot in range(self.num_slots)]
        tokens = [token for piece in laid for token in piece.tokens]
        columns = tokens, positions, slots, wanted, company, list(ones.values()), reach
        # All in one transfer, which nobody waits for.
        self.numbers_X = torch.tensor([*chain(*columns)], dtype=torch.long).to(device, non_blocking=True)
        parts = torch.split(self.numbers_X, [len(column) for column in columns])
        self.tokens_N, self.positions_N, self.slots_N, self.wanted_R, self.ones_S, self.ones_N, self.reach_S = parts
        self.span = whole_spans(max(reach, default=0) + 1)
        self.longer = [(rows, slot, *self._seen(rows, positions[rows.stop - 1], groups)) for rows, slot in longer]
        self.is_plain = not longer and list(ones.values()) == list(range(self.num_slots)) == slots
        self.goes_on = self.is_plain and wanted == slots
        """Whether it holds the next token of each reply and nothing else."""
        self.lay_mask()

    @property
    def key(self) -> Key | None:
        """Of the graph that such a step may share with others."""
        return (self.groups[0][0], self.num_slots, self.span) if self.goes_on and len(self.groups) == 1 else None

    def lay_mask(self) -> None:
        """Of the slots that go on by one token."""
        self.mask_S_1_1_P = _mask(self.reach_S, self.span)[:, None, None]

    def _seen(self, rows: slice, last: int, groups: int) -> tuple[int, Tensor]:
        """The span that consecutive tokens of a reply attend over, the last one at `last`, and their mask [X, span]."""
        span = whole_spans(last + 1)
        return span, _mask(self.positions_N[rows].repeat(groups), span)


def _groups(laid: Sequence[Piece]) -> list[tuple[str, slice]]:
    """Rows by version, which lie together."""
    counts: dict[str, int] = {}
    for piece in laid:
        counts[piece.version] = counts.get(piece.version, 0) + len(piece.tokens)
    groups, start = [], 0
    for version, count in counts.items():
        groups.append((version, slice(start, start + count)))
        start += count
    return groups


def _blocks(rows: slice, piece: Piece) -> list[slice]:
    """The rows of a long piece, cut where a span ends: no token is weighed against more than a span of its future, and
    what is weighed at once stays in the processor's cache."""
    ends = range(whole_spans(piece.start + 1), piece.start + len(piece.tokens), SPAN)
    cuts = [rows.start, *(rows.start + end - piece.start for end in ends), rows.stop]
    return [slice(start, end) for start, end in pairwise(cuts)]


def _mask(reach_X: Tensor, span: int) -> Tensor:
    """What is added to scores [X, span]: each query sees positions up to its own."""
    unseen_X_P = torch.arange(span, device=reach_X.device) > reach_X[:, None]
    return torch.zeros(unseen_X_P.shape, device=reach_X.device).masked_fill(unseen_X_P, -torch.inf)


def whole_spans(length: int) -> int:
    """The multiple of SPAN that holds so many positions."""
    return -(-length // SPAN) * SPAN
