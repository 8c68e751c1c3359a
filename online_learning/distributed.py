"""One update over several processes: data parallel, with the weights that one process would have got.

    python -m torch.distributed.run --nproc-per-node N ...    (or torchrun)

1. Every process has the models and is given the same rows and the same random stream, so minibatches are the same.
2. In a pass with gradients a process scores every N-th row of the minibatch; log-probabilities are gathered, so every
   process computes the loss of the whole minibatch. Losses that compare rows with each other are therefore exact too.
3. Backward, a process gets the gradient of its own rows; the mean over processes (of N times that) is the sum of all.

Only log-probabilities and adapter gradients travel. Passes without gradient are made by each process for itself.

Shapes: B rows of the minibatch, A legal acts, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from bot.conversation import Generated, digest
from bot.policy.causal import CausalPart
from bot.policy.encoder import EncoderPart
from bot.policy.model import ActRow, PolicyModel, Prepared, Scored
from online_learning.advantages import Credit
from online_learning.algorithms import STEPS
from online_learning.config import LearnerConfig
from online_learning.reach import Reach
from online_learning.update import Learner, Progress


@contextmanager
def joined() -> Iterator[Ranks]:
    """The group that torchrun started: NCCL where there is CUDA, gloo elsewhere."""
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


class Ranks:
    """This process among those of its group."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size

    def share(self, count: int) -> list[int]:
        """Which of `count` rows are this process's."""
        return list(range(self.rank, count, self.size))

    def gather(self, mine: Tensor, count: int) -> Tensor:
        """All `count` rows from each process's share, in order. Backward, a process gets its own rows' gradient, times
        the number of processes."""
        gathered: Tensor = _Gather.apply(mine, self, count)  # type: ignore[no-untyped-call]
        return gathered

    def average(self, parameters: Sequence[Tensor]) -> None:
        """Replace gradients by their mean over processes, in one message."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite with the first process's."""
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)

    def check_same(self, what: str, said: str, device: torch.device) -> None:
        """Raises ValueError, in every process, unless all said the same."""
        number = torch.tensor([int(digest(said)[:15], 16)], device=device)
        found = [torch.zeros_like(number) for _ in range(self.size)]
        dist.all_gather(found, number)
        if len({int(one) for one in found}) > 1:
            raise ValueError(f"expected the same {what} in all {self.size} processes, got different ones")


class _Gather(torch.autograd.Function):
    """Row i of the result is row i // N of process i % N."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, ranks: Ranks, count: int) -> Tensor:
        ctx.ranks, ctx.num_mine = ranks, len(mine)
        most = -(-count // ranks.size)
        padded = torch.cat([mine, mine.new_zeros(most - len(mine), *mine.shape[1:])])
        parts = [torch.empty_like(padded) for _ in range(ranks.size)]
        dist.all_gather(parts, padded.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)[:count]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][ctx.ranks.rank :: ctx.ranks.size] * ctx.ranks.size, None, None


class SharedPolicy(PolicyModel):
    """A policy whose passes with gradients are shared."""

    def __init__(self, ranks: Ranks, encoder: EncoderPart, causal: Any = None, *, alpha: float = 0.0) -> None:
        super().__init__(encoder, causal, alpha=alpha)
        self._ranks = ranks

    def score(
        self, rows: Sequence[ActRow] | Prepared, adapters: Sequence[str], *, leave_out_own: bool = False
    ) -> Scored:
        """As one process would."""
        if not torch.is_grad_enabled():
            return super().score(rows, adapters, leave_out_own=leave_out_own)
        ready = rows if isinstance(rows, Prepared) else self.prepare(rows)
        # A process without a row of its own still takes part: it scores one, and nothing of it is used.
        count = len(ready.rows)
        mine = self._ranks.share(count)
        theirs = mine or [0]
        scored = super().score(ready.take(theirs), [adapters[i] for i in theirs], leave_out_own=leave_out_own)
        return Scored(
            self._ranks.gather(scored.logprobs_B_A[: len(mine)], count),
            ready.mask_B_A,
            self._ranks.gather(scored.states_B_D[: len(mine)].detach(), count),
        )


class SharedWriter(CausalPart):
    """A causal part whose passes with gradients are shared."""

    def __init__(self, ranks: Ranks, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self._ranks = ranks

    def token_logprobs(self, rows: Sequence[Generated], adapters: Sequence[str]) -> tuple[Tensor, Tensor]:
        """As one process would."""
        if not torch.is_grad_enabled():
            return super().token_logprobs(rows, adapters)
        mine = self._ranks.share(len(rows))
        theirs = mine or [0]
        logprobs_B_T, _ = super().token_logprobs([rows[i] for i in theirs], [adapters[i] for i in theirs])
        lengths_B = torch.tensor([len(row.token_ids) for row in rows], device=logprobs_B_T.device)
        width = int(lengths_B.max())
        logprobs_B_T = nn.functional.pad(logprobs_B_T, (0, width - logprobs_B_T.shape[1]))
        mask_B_T = torch.arange(width, device=lengths_B.device) < lengths_B.unsqueeze(-1)
        return self._ranks.gather(logprobs_B_T[: len(mine)], len(rows)), mask_B_T


class SharedLearner(Learner):
    """A learner whose updates are made together; begins with the first process's weights.

    Raises ValueError for an algorithm that takes steps of its own (TRPO): its products of the Fisher matrix with a vector
    are not shared.
    """

    def __init__(
        self, ranks: Ranks, model: SharedPolicy, config: LearnerConfig, writer: SharedWriter | None = None
    ) -> None:
        if config.algorithm in STEPS:
            raise ValueError(f"algorithm: expected one whose gradients can be shared, got {config.algorithm!r}")
        super().__init__(model, config, writer)
        self._ranks = ranks
        self._copy_first()

    def attach_writer(self, writer: CausalPart) -> None:
        """Train a causal part as well, from now on."""
        super().attach_writer(writer)
        self._copy_first()

    def _copy_first(self) -> None:
        self._ranks.copy_first(self.trained())

    def update(
        self,
        earned: Sequence[Credit],
        rng: np.random.Generator,
        progress: Progress,
        version: str = "",
        words: Sequence[Generated] = (),
        reach: Reach | None = None,
    ) -> dict[str, float]:
        """Train together. Raises ValueError when the processes were given different rows or random streams."""
        said = repr([(row.decision.id, row.advantage) for row in earned]) + repr(rng.bit_generator.state)
        said += repr([text.token_ids for text in words])
        self._ranks.check_same("rows and random stream", said, self.model.encoder.device)
        return super().update(earned, rng, progress, version, words, reach)

    def share_gradients(self, parameters: Sequence[Tensor]) -> None:
        """The mean over processes."""
        self._ranks.average(parameters)
